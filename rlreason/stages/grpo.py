"""Stage `grpo`: group-relative policy optimisation (arXiv 2402.03300) and its relatives.

What is its own is here: a completion is held against the others of its question. The loop around it, which it
shares with `ppo`, is `rlreason.stages.loop`.
"""

import math
from collections.abc import Sequence

import torch

from rlreason.algorithms import decoupled_rewards, gdpo_advantages, group_advantages, informative
from rlreason.config import RunConfig
from rlreason.stages.collect import Sample
from rlreason.stages.context import RunContext
from rlreason.stages.loop import Method, overlong, rewards_and_groups, train_online
from rlreason.stages.loop_setup import OnlineSetup


def train_grpo(context: RunContext) -> None:
    """Run the stage to its last step; afterwards `context.start` is the trained model's directory."""
    train_online(context, GroupRelative(context.config))


class GroupRelative(Method):
    """An advantage a completion: its reward less the baseline of its group, scaled as the config says."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.rounds = config.grpo.dynamic_sampling

    def informative(self, samples: Sequence[Sample]) -> list[bool]:
        rewards_B, group_B = rewards_and_groups(samples)
        if self._config.grpo.combine == "gdpo":
            values_BK, weights_K = _terms(self._config, samples)
            rewards_B = decoupled_rewards(values_BK, group_B, weights_K=weights_K)
        return informative(rewards_B, group_B).tolist()

    def advantage(self, setup: OnlineSetup, samples: Sequence[Sample]) -> dict[str, float | None]:
        config = self._config.grpo
        setup.updater.penalize_kl(samples)
        rewards_B, group_B = rewards_and_groups(samples)
        if config.combine == "gdpo":
            values_BK, weights_K = _terms(self._config, samples)
            advantages = gdpo_advantages(values_BK, group_B, weights_K=weights_K)
        else:
            advantages = group_advantages(
                rewards_B, group_B, baseline=config.baseline, scale=config.advantage_scale
            )
        for sample, value in zip(samples, advantages.tolist(), strict=True):
            sample.advantage = value
        return {}

    def signal(self, samples: Sequence[Sample]) -> float:
        groups: dict[int, bool] = {}
        for sample in samples:
            groups[sample.group] = groups.get(sample.group, False) or sample.advantage != 0
        return sum(groups.values()) / len(groups)


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
