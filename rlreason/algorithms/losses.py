"""The policy-gradient losses of the GRPO family, as one pure function.

Shape letters: B completions (rows), T completion tokens (padded).

Every kind is a sum over unmasked tokens, divided by a denominator that the caller computes once for the
whole optimizer step (`loss_denominator`). Cutting the step into micro-batches, along rows, and adding the
losses therefore gives the same value and gradient as one pass over everything. Rows that contribute nothing
(advantage 0, no KL term) may be left out of the pass; they still count in the denominator.

| kind    | token weight | denominator                             | source                              |
| ------- | ------------ | --------------------------------------- | ----------------------------------- |
| grpo    | 1 / length   | rows of the step                        | arXiv 2402.03300, equation 3        |
| dr_grpo | 1            | rows of the step x max_new_tokens       | arXiv 2503.20783                    |
| bnpo    | 1            | tokens of the step                      | TRL's `bnpo`                        |
| dapo    | 1            | tokens of the batch / steps cut from it | arXiv 2503.14476, equation 8        |
| cispo   | 1            | as dapo                                 | arXiv 2506.13585, equations 4 and 5 |
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from rlreason.algorithms.kl import KLEstimator, kl_estimate

LossKind = Literal["grpo", "dr_grpo", "dapo", "bnpo", "cispo"]
RatioLevel = Literal["token", "sequence"]

# e^20 is beyond any use as a ratio, and far below where exp overflows: a ratio of inf, clipped, would
# still send 0 * inf = NaN backwards.
_MAX_LOG_RATIO = 20.0

_MAXIMA = ("ratio_max_deviation", "gap_max")


@dataclass(frozen=True)
class PolicyLossInput:
    """What the loss needs to know of a micro-batch. Values under a 0 of the mask are never read.

    logprobs_BT: of the policy being trained, at the sampler's temperature; the only one with a gradient.
    old_logprobs_BT: of the policy that the step's batch was drawn from, by the trainer's own computation.
    advantages: one a completion, (B,), or one a token, (B, T).
    mask_BT: 1 or True for the completion tokens that count; 0 for padding and rows left out.
    reference_logprobs_BT: of the reference policy; needed for KL in the loss, else measured when given.
    sampler_weights_BT: of `sampler_weights`, where sampler and trainer compute different log-probabilities.
    """

    logprobs_BT: Tensor
    old_logprobs_BT: Tensor
    advantages: Tensor
    mask_BT: Tensor
    reference_logprobs_BT: Tensor | None = None
    sampler_weights_BT: Tensor | None = None


@dataclass(frozen=True)
class PolicyLossOutput:
    """`loss`: scalar with gradient. `metrics`: detached scalars, to be combined by `merge_metrics`.

    Sums over unmasked tokens, except the last:
    tokens: how many. loss: of this micro-batch, so that the total is the loss of the step.
    clipped_low, clipped_high, clipped_dual: tokens whose policy term is held by that bound (a sequence ratio
    counts all its tokens). ratio_sum: of pi / pi_old. kl_sum: the estimate of KL(policy || reference), only
    with a reference. old_kl_sum: k3 of KL(old || policy), how far the policy has moved since sampling.
    ratio_max_deviation: the largest |ratio - 1|; a maximum, not a sum.
    """

    loss: Tensor
    metrics: dict[str, Tensor]


def policy_loss(
    inputs: PolicyLossInput,
    *,
    kind: LossKind,
    denominator: float | Tensor,
    ratio: RatioLevel = "token",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    kl_coef: float = 0.0,
    kl_estimator: KLEstimator = "k3",
    kl_correction: bool = False,
) -> PolicyLossOutput:
    """Return the loss of one micro-batch, and its metrics.

    With r = pi / pi_old and advantage A, the term of a token is
    -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) (PPO, arXiv 1707.06347, equation 7; separate bounds:
    DAPO, arXiv 2503.14476, equation 10). For A < 0, `dual_clip` c bounds it by -c A (dual-clip PPO, arXiv
    1912.09729). `ratio="sequence"` replaces r by the geometric mean of the completion's token ratios (GSPO,
    arXiv 2507.18071); GSPO's own objective is that with kind "grpo". For "cispo" the term is
    -sg(min(r, 1 + clip_high)) A log pi: no lower bound, as in the paper's experiments.

    The term is multiplied by the sampler weight, then `kl_coef * kl_estimate(...)` is added, then the terms
    are summed with the token weights of the kind and divided by `denominator`. `kl_correction` multiplies the
    estimate by r, gradient included (DeepSeek-V3.2, arXiv 2512.02556; TRL's default): with token ratios and
    k1 or k3 its gradient is then that of KL(policy || reference), on tokens of the old policy.

    Raises ValueError for mismatched shapes and for options that contradict each other.
    """
    _check(inputs, kind, ratio, dual_clip, kl_coef)
    mask_BT = inputs.mask_BT.bool()
    logprobs_BT = _masked(inputs.logprobs_BT, mask_BT)
    lengths_B1 = mask_BT.sum(-1, keepdim=True).clamp(min=1)
    advantages_BT = _spread(inputs.advantages.detach(), mask_BT).to(logprobs_BT.dtype)

    log_ratio_BT = logprobs_BT - _masked(inputs.old_logprobs_BT.detach(), mask_BT)
    log_weight_BT = log_ratio_BT
    if ratio == "sequence":
        log_weight_BT = (log_ratio_BT.sum(-1, keepdim=True) / lengths_B1).expand_as(log_ratio_BT)
    ratio_BT = log_weight_BT.clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO).exp()

    if kind == "cispo":
        terms_BT = -ratio_BT.detach().clamp(max=1 + clip_high) * advantages_BT * logprobs_BT
    else:
        terms_BT = _clipped_terms(ratio_BT, advantages_BT, clip_low, clip_high, dual_clip)
    if inputs.sampler_weights_BT is not None:
        terms_BT = terms_BT * _masked(inputs.sampler_weights_BT.detach(), mask_BT)
    kl_BT = None
    if inputs.reference_logprobs_BT is not None:
        reference_BT = _masked(inputs.reference_logprobs_BT.detach(), mask_BT)
        kl_BT = kl_estimate(logprobs_BT if kl_coef else logprobs_BT.detach(), reference_BT, kl_estimator)
        if kl_coef:
            terms_BT = terms_BT + kl_coef * (ratio_BT * kl_BT if kl_correction else kl_BT)

    weighted_BT = terms_BT / lengths_B1 if kind == "grpo" else terms_BT
    loss = weighted_BT.masked_fill(~mask_BT, 0.0).sum() / denominator
    with torch.no_grad():
        clipped = _clip_counts(kind, ratio_BT, advantages_BT, mask_BT, clip_low, clip_high, dual_clip)
        metrics = _sums(mask_BT, ratio_BT, log_ratio_BT, kl_BT)
    return PolicyLossOutput(loss, {"loss": loss.detach()} | clipped | metrics)


def loss_denominator(
    kind: LossKind, tokens_B: Tensor, *, max_new_tokens: int, rows: Tensor | None = None
) -> float:
    """Return what the summed loss of one optimizer step is divided by (table at the top of this file).

    `tokens_B` counts the unmasked tokens of every completion of the rollout batch, over all ranks, rows with
    none of them included; `rows`, indices or a bool mask into it, picks those of the step (None: all, one
    step a pass). "dapo" and "cispo" divide every step by the same count, the batch's tokens times the step's
    share of its rows; "bnpo" divides each by its own. With one step a pass the three agree. At least 1.

    Raises ValueError for an unknown kind.
    """
    step_tokens_B = tokens_B if rows is None else tokens_B[rows]
    n_rows = step_tokens_B.numel()
    if kind == "grpo":
        value = float(n_rows)
    elif kind == "dr_grpo":
        value = float(n_rows * max_new_tokens)
    elif kind == "bnpo":
        value = float(step_tokens_B.sum())
    elif kind in ("dapo", "cispo"):
        value = float(tokens_B.sum()) * n_rows / max(tokens_B.numel(), 1)
    else:
        raise ValueError(f"unknown loss {kind!r}; known: {', '.join(get_args(LossKind))}")
    return max(value, 1.0)


def sampler_weights(trainer_old_BT: Tensor, sampler_BT: Tensor, *, cap: float) -> Tensor:
    """Return truncated importance weights min(pi_trainer / pi_sampler, cap), (B, T), without gradient.

    They correct for a sampler whose log-probabilities differ from the trainer's for the same parameters:
    another precision or another implementation (Ionides 2008, "Truncated Importance Sampling"; for language
    models https://fengyao.notion.site/off-policy-rl). Where the sampler's value is NaN, "not known", the
    weight is 1.
    """
    gap_BT = trainer_old_BT.detach() - sampler_BT.detach()
    return gap_BT.masked_fill(gap_BT.isnan(), 0.0).exp().clamp(max=cap)


def merge_metrics(parts: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Combine the metrics of micro-batches: sums add, of maxima the larger is taken."""
    merged: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            if name not in merged:
                merged[name] = value
            elif name in _MAXIMA:
                merged[name] = torch.maximum(merged[name], value)
            else:
                merged[name] = merged[name] + value
    return merged


def _clipped_terms(
    ratio_BT: Tensor, advantages_BT: Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> Tensor:
    gain_BT = torch.min(ratio_BT * advantages_BT, ratio_BT.clamp(1 - clip_low, 1 + clip_high) * advantages_BT)
    if dual_clip is not None:
        gain_BT = torch.where(advantages_BT < 0, torch.max(gain_BT, dual_clip * advantages_BT), gain_BT)
    return -gain_BT


def _clip_counts(
    kind: LossKind,
    ratio_BT: Tensor,
    advantages_BT: Tensor,
    mask_BT: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> dict[str, Tensor]:
    above_BT = mask_BT & (ratio_BT > 1 + clip_high)
    none_BT = torch.zeros_like(mask_BT)
    if kind == "cispo":  # the weight is capped whatever the sign of the advantage, and nothing else is
        low_BT, high_BT, dual_BT = none_BT, above_BT & (advantages_BT != 0), none_BT
    else:
        low_BT = mask_BT & (ratio_BT < 1 - clip_low) & (advantages_BT < 0)
        high_BT = above_BT & (advantages_BT > 0)
        dual_BT = none_BT if dual_clip is None else mask_BT & (ratio_BT > dual_clip) & (advantages_BT < 0)
    counts = {"clipped_low": low_BT, "clipped_high": high_BT, "clipped_dual": dual_BT}
    return {name: flags_BT.sum().to(ratio_BT.dtype) for name, flags_BT in counts.items()}


def _sums(mask_BT: Tensor, ratio_BT: Tensor, log_ratio_BT: Tensor, kl_BT: Tensor | None) -> dict[str, Tensor]:
    deviation_BT = (ratio_BT - 1).abs().masked_fill(~mask_BT, 0.0)
    # Tokens come from the old policy, so the estimators read it as the sampled one.
    old_kl_BT = kl_estimate(torch.zeros_like(log_ratio_BT), log_ratio_BT, "k3")
    sums = {
        "tokens": mask_BT.sum().to(ratio_BT.dtype),
        "ratio_sum": ratio_BT.masked_fill(~mask_BT, 0.0).sum(),
        "old_kl_sum": old_kl_BT.masked_fill(~mask_BT, 0.0).sum(),
        "ratio_max_deviation": deviation_BT.max() if deviation_BT.numel() else deviation_BT.sum(),
    }
    if kl_BT is not None:
        sums["kl_sum"] = kl_BT.masked_fill(~mask_BT, 0.0).sum()
    return sums


def _masked(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """In float32 at least, with 0 where masked, so that padding may hold anything, NaN included."""
    wide = torch.promote_types(values_BT.dtype, torch.float32)
    return values_BT.to(wide).masked_fill(~mask_BT, 0.0)


def _spread(advantages: Tensor, mask_BT: Tensor) -> Tensor:
    """Advantages as (B, T), 0 where masked."""
    if advantages.dim() == 1:
        advantages = advantages[:, None].expand(mask_BT.shape)
    return advantages.masked_fill(~mask_BT, 0.0)


def _check(
    inputs: PolicyLossInput, kind: LossKind, ratio: RatioLevel, dual_clip: float | None, kl_coef: float
) -> None:
    shape = inputs.logprobs_BT.shape
    others = (
        inputs.old_logprobs_BT,
        inputs.mask_BT,
        inputs.reference_logprobs_BT,
        inputs.sampler_weights_BT,
    )
    if len(shape) != 2 or any(x is not None and x.shape != shape for x in others):
        shapes = [None if x is None else tuple(x.shape) for x in others]
        raise ValueError(
            f"log-probs, old log-probs, mask, reference log-probs and sampler weights must all be (B, T), "
            f"got {tuple(shape)} and {shapes}"
        )
    if inputs.advantages.shape not in (shape[:1], shape):
        raise ValueError(
            f"advantages must be ({shape[0]},) or {tuple(shape)}, got {tuple(inputs.advantages.shape)}"
        )
    if kind not in get_args(LossKind):
        raise ValueError(f"unknown loss {kind!r}; known: {', '.join(get_args(LossKind))}")
    if ratio not in get_args(RatioLevel):
        raise ValueError(f"unknown ratio level {ratio!r}; known: {', '.join(get_args(RatioLevel))}")
    if kind == "cispo" and (ratio != "token" or dual_clip is not None):
        raise ValueError("cispo weighs each token by its own ratio: no ratio='sequence', no dual_clip")
    if dual_clip is not None and dual_clip <= 1:
        raise ValueError(f"dual_clip must be above 1, got {dual_clip}")
    if kl_coef and inputs.reference_logprobs_BT is None:
        raise ValueError(f"kl_coef={kl_coef} needs reference_logprobs_BT")
