"""Stage `grpo`: group-relative policy optimisation (arXiv 2402.03300) and its relatives.

What is its own is here: a completion is held against the others of its question, or of the step, or against a
greedy one. The loop around it, which it shares with `ppo`, is `rlreason.stages.loop`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from rlreason.algorithms import (
    decoupled_rewards,
    gdpo_advantages,
    group_advantages,
    informative,
    max_variance,
    token_advantages,
)
from rlreason.config import RunConfig
from rlreason.stages.collect import Sample, greedy_of, padded_rows
from rlreason.stages.context import RunContext
from rlreason.stages.loop import Method, overlong, rewards_and_groups, train_online
from rlreason.stages.loop_setup import OnlineSetup


def train_grpo(context: RunContext) -> None:
    """Run the stage to its last step; afterwards `context.start` is the trained model's directory."""
    train_online(context, GroupRelative(context.config))


class GroupRelative(Method):
    """An advantage a completion: its reward less a baseline, scaled as the config says."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.rounds = config.grpo.dynamic_sampling
        self.greedy = config.grpo.baseline == "greedy"
        self._signal = 0.0  # of the last step

    def informative(self, samples: Sequence[Sample]) -> list[bool]:
        rewards_B, group_B = rewards_and_groups(samples)
        if self._config.grpo.combine == "gdpo":
            values_BK, weights_K = _terms(self._config, samples)
            rewards_B = decoupled_rewards(values_BK, group_B, weights_K=weights_K)
        return informative(rewards_B, group_B, greedy_B=self._greedy(samples)).tolist()

    def select(self, samples: Sequence[Sample]) -> list[Sample]:
        keep = self._config.grpo.down_sample
        if keep is not None:
            kept_B = max_variance(*rewards_and_groups(samples), keep=keep)
            for sample, kept in zip(samples, kept_B.tolist(), strict=True):
                sample.learned = kept
        return [sample for sample in samples if sample.learned]

    def advantage(self, setup: OnlineSetup, samples: Sequence[Sample]) -> dict[str, float | None]:
        kl = self._config.grpo.kl
        # Of the rewards alone: KL differs also where they teach nothing, and would hide that from `signal`.
        for sample, value in zip(samples, self._by_completion(samples), strict=True):
            sample.advantage = value
        taught = {sample.group for sample in samples if sample.advantage != 0}
        self._signal = len(taught) / len({sample.group for sample in samples})
        if kl.coef and kl.where == "reward":
            setup.updater.penalize_kl(samples)
            for sample, value in zip(samples, self._by_completion(samples), strict=True):
                sample.advantage = value
        elif kl.coef and kl.where == "tokens":
            self._by_token(setup, samples)
        return self._measured(samples)

    def _by_completion(self, samples: Sequence[Sample]) -> list[float]:
        """Advantages of whole completions, by their rewards as they are."""
        rewards_B, group_B = rewards_and_groups(samples)
        if self._config.grpo.combine == "gdpo":
            values_BK, weights_K = _terms(self._config, samples)
            return gdpo_advantages(values_BK, group_B, weights_K=weights_K).tolist()
        greedy_B = self._greedy(samples)
        return group_advantages(rewards_B, group_B, greedy_B=greedy_B, **self._options()).tolist()

    def _by_token(self, setup: OnlineSetup, samples: Sequence[Sample]) -> None:
        """Advantages a token, from which the KL from that token on is taken."""
        kl = setup.updater.token_kl(samples)
        rows = [kl[id(sample)].cpu() for sample in samples]
        kl_BT, mask_BT = padded_rows(rows)
        rewards_B, group_B = rewards_and_groups(samples)
        advantages_BT = token_advantages(
            rewards_B,
            group_B,
            kl_BT,
            mask_BT,
            coef=self._config.grpo.kl.coef,
            greedy_B=self._greedy(samples),
            **self._options(),
        )
        for sample, row, advantages_T in zip(samples, rows, advantages_BT, strict=True):
            if sample.reward is not None and not _without_baseline(sample):
                sample.token_advantages = advantages_T[: len(row)].float()
                sample.advantage = float(sample.token_advantages.mean())

    def _options(self) -> dict[str, Any]:
        return {"baseline": self._config.grpo.baseline, "scale": self._config.grpo.advantage_scale}

    def _greedy(self, samples: Sequence[Sample]) -> torch.Tensor | None:
        """What each sample's greedy completion earned, (B,), NaN where it has no reward."""
        if not self.greedy:
            return None
        return rewards_and_groups([sample.greedy or sample for sample in samples])[0]

    def _measured(self, samples: Sequence[Sample]) -> dict[str, float | None]:
        if not self.greedy:
            return {}
        found = greedy_of(samples)
        known = [one.reward for one in found if one.reward is not None]
        return {
            "greedy_reward": sum(known) / len(known) if known else None,
            "without_baseline": float(len(found) - len(known)),
        }

    def signal(self, samples: Sequence[Sample]) -> float:
        return self._signal


def _without_baseline(sample: Sample) -> bool:
    return sample.greedy is not None and sample.greedy.reward is None


def _terms(config: RunConfig, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """For GDPO: what each term of the reward counted, (B, K), NaN for abstentions, and weights, (K,)."""
    weights = {name: term.weight for name, term in config.rewards.items() if term.weight != 0}
    rows: list[list[float | None]] = []
    for sample in samples:
        row = [sample.score.counted[name] for name in weights]
        if config.grpo.overlong_buffer:
            row.append(overlong(config, sample))
        rows.append([None] * len(row) if sample.reward is None else row)
    values = [[math.nan if value is None else value for value in row] for row in rows]
    factors = list(weights.values()) + [config.grpo.overlong_weight] * bool(config.grpo.overlong_buffer)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(factors, dtype=torch.float64)
