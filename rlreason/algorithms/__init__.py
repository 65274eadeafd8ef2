"""Pure functions over tensors: advantages, KL estimates, policy losses, log-probabilities.

Nothing here logs, communicates or reads a config. Shape letters, used as suffixes of names: B completions
(rows), T completion tokens, N tokens of a flat batch, H hidden size, V vocabulary.
"""

from rlreason.algorithms.advantages import (
    AdvantageScale,
    Baseline,
    decoupled_rewards,
    gdpo_advantages,
    group_advantages,
    informative,
    overlong_penalty,
    token_advantages,
)
from rlreason.algorithms.down_sampling import max_variance
from rlreason.algorithms.gae import (
    adapted_coef,
    explained_variance,
    generalized_advantages,
    token_rewards,
    value_loss,
    whiten,
)
from rlreason.algorithms.kl import KLEstimator, kl_estimate, rewards_with_kl
from rlreason.algorithms.logprobs import Head, logit_bytes, logprobs_from_logits, token_logprobs
from rlreason.algorithms.losses import (
    LossKind,
    PolicyLossInput,
    PolicyLossOutput,
    RatioLevel,
    loss_denominator,
    merge_metrics,
    policy_loss,
    sampler_weights,
)

__all__ = [
    "AdvantageScale",
    "Baseline",
    "Head",
    "KLEstimator",
    "LossKind",
    "PolicyLossInput",
    "PolicyLossOutput",
    "RatioLevel",
    "adapted_coef",
    "decoupled_rewards",
    "explained_variance",
    "gdpo_advantages",
    "generalized_advantages",
    "group_advantages",
    "informative",
    "kl_estimate",
    "logit_bytes",
    "logprobs_from_logits",
    "loss_denominator",
    "max_variance",
    "merge_metrics",
    "overlong_penalty",
    "policy_loss",
    "rewards_with_kl",
    "sampler_weights",
    "token_advantages",
    "token_logprobs",
    "token_rewards",
    "value_loss",
    "whiten",
]
