"""Stage `ppo`: proximal policy optimisation (arXiv 1707.06347) with a critic.

What is its own is here: every token is held against what the critic expected before it. The loop around it,
which it shares with `grpo`, is `rlreason.stages.loop`. The details that are known to matter, and the line
that does each, are listed in docs/ppo.md.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlreason.algorithms import (
    adapted_coef,
    explained_variance,
    generalized_advantages,
    kl_estimate,
    token_rewards,
    whiten,
)
from rlreason.config import RunConfig
from rlreason.stages.collect import Sample, TokenTargets, padded_rows
from rlreason.stages.context import RunContext
from rlreason.stages.loop import Method, train_online
from rlreason.stages.loop_setup import OnlineSetup


def train_ppo(context: RunContext) -> None:
    """Run the stage to its last step; afterwards `context.start` is the trained model's directory."""
    train_online(context, CriticBased(context.config))


class CriticBased(Method):
    """An advantage a token: generalised advantage estimation over the critic's values."""

    def __init__(self, config: RunConfig) -> None:
        self._settings = config.ppo
        self._coef = config.ppo.kl.coef

    def advantage(self, setup: OnlineSetup, samples: Sequence[Sample]) -> dict[str, float | None]:
        settings, updater = self._settings, setup.updater
        judged = [sample for sample in samples if sample.reward is not None]
        if not judged:
            return {"kl_coef": self._coef}
        expected = updater.values(judged)
        values_BT, mask_BT = padded_rows([expected[id(sample)] for sample in judged])
        now = setup.updater.logprobs(judged) if self._coef else {}
        kl_BT, measured = self._kl(setup, judged, now, mask_BT)
        scores = [self._score(sample) for sample in judged]
        rewards_BT = token_rewards(torch.tensor(scores), kl_BT, mask_BT, coef=self._coef)
        if settings.whiten_rewards:
            rewards_BT = whiten(rewards_BT, mask_BT, keep_mean=True)
        advantages_BT, returns_BT = generalized_advantages(
            rewards_BT, values_BT, mask_BT, gamma=settings.gamma, gae_lambda=settings.gae_lambda
        )
        fit = explained_variance(values_BT, returns_BT, mask_BT)
        tokens = mask_BT.sum()
        measured |= {
            "value": float(values_BT.sum() / tokens),
            "return": float(returns_BT.sum() / tokens),
            "explained_variance": fit,
            "kl_coef": self._coef,
        }
        if settings.whiten_advantages:
            advantages_BT = whiten(advantages_BT, mask_BT)
        for row, sample in enumerate(judged):
            kept = slice(0, len(sample.rollout.completion_ids))
            sample.tokens = TokenTargets(values_BT[row, kept], returns_BT[row, kept], now.get(id(sample)))
            sample.token_advantages = advantages_BT[row, kept]
            sample.advantage = float(advantages_BT[row, kept].mean())
        self._adapt(measured.get("kl_completion"), len(judged))
        return measured

    def _kl(
        self, setup: OnlineSetup, samples: Sequence[Sample], now: dict[int, Tensor], mask_BT: Tensor
    ) -> tuple[Tensor, dict[str, float | None]]:
        """The divergence from the reference a token, (B, T), and its means; not computed where it is free."""
        if not now:
            return torch.zeros(mask_BT.shape), {}
        reference, kind = setup.updater.reference_logprobs(samples), self._settings.kl.estimator
        kl_BT, _ = padded_rows([kl_estimate(now[id(s)], reference[id(s)], kind) for s in samples])
        return kl_BT, {
            "kl": float(kl_BT.sum() / mask_BT.sum()),
            "kl_completion": float(kl_BT.sum(-1).mean()),
        }

    def _adapt(self, kl: float | None, completions: int) -> None:
        settings = self._settings.kl
        if settings.target is not None and kl is not None:
            self._coef = adapted_coef(
                self._coef, kl, target=settings.target, horizon=settings.horizon, completions=completions
            )

    def signal(self, samples: Sequence[Sample]) -> float:
        return float(len({self._score(sample) for sample in samples if sample.reward is not None}) > 1)

    def _score(self, sample: Sample) -> float:
        """The reward of a judged completion, less what being cut off costs."""
        return (sample.reward or 0.0) - self._settings.truncation_penalty * sample.truncated

    def state(self) -> dict[str, Any]:
        return {"kl_coef": self._coef}

    def restore(self, state: dict[str, Any]) -> None:
        self._coef = state["kl_coef"]
