"""Advantages from the rewards of a batch of completions.

Shape letters: B completions, T completion tokens. Rows may stand in any order; `group_B` says which prompt
each belongs to.
A NaN reward is an abstention: the row has no part in any baseline or spread, and its advantage is 0.
The caller also sets NaN for completions it leaves out, such as truncated ones. `greedy_B`, for the baseline
of that name, is what the greedy completion of each row's prompt earned; NaN there leaves the row out as well.
"""

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Baseline = Literal["mean", "leave_one_out", "batch", "greedy"]
AdvantageScale = Literal["none", "group", "batch"]

_CANCELLED = 1e-6  # a smaller sum of normalised rewards, which are of size 1, is the rounding of float32


_SCALES: dict[Baseline, tuple[AdvantageScale, ...]] = {
    "mean": ("none", "group", "batch"),
    "leave_one_out": ("none", "group", "batch"),
    "batch": ("none", "batch"),
    "greedy": ("none",),
}


class _GroupStatistics(NamedTuple):
    """Statistics of each row's group over its scored rows, (B,) each, in float64."""

    count_B: Tensor
    mean_B: Tensor
    std_B: Tensor
    spread_B: Tensor  # bool: at least two different rewards


def group_advantages(
    rewards_B: Tensor,
    group_B: Tensor,
    *,
    baseline: Baseline = "mean",
    scale: AdvantageScale = "none",
    eps: float = 1e-4,
    greedy_B: Tensor | None = None,
) -> Tensor:
    """Return the advantages of whole completions, (B,), in the dtype of the rewards but float32 at least.

    Baseline: "mean" subtracts the mean of the group (GRPO, arXiv 2402.03300, section 4.1.2), "leave_one_out"
    the mean of the *other* completions of the group (the RLOO estimator, arXiv 2402.14740), which leaves
    n / (n - 1) times the former in a group of n scored completions. "batch" subtracts the mean of all scored
    rewards (REINFORCE++, arXiv 2501.03262), "greedy" the prompt's `greedy_B` (ReMax, arXiv 2310.10505).

    Scale: "none" leaves the difference as it is (Dr. GRPO, arXiv 2503.20783), "group" divides by the group's
    standard deviation plus `eps` (GRPO), "batch" by that of all scored rewards of the batch plus `eps`. The
    deviation is the unbiased one (n - 1), as in TRL.

    A group whose scored rewards are all equal, and so any group with fewer than two of them, gets exactly 0;
    with the baseline "batch", a batch; with "greedy", a completion that earns what the greedy one does.

    Raises ValueError for mismatched shapes, infinite rewards, an unknown baseline or scale, "group" with a
    baseline that looks beyond the group, any scale with "greedy".
    """
    _check_options(baseline, scale, rewards_B, greedy_B)
    dtype = torch.promote_types(rewards_B.dtype, torch.float32)
    rewards_B = _with_baseline(rewards_B, greedy_B)
    group = _group_statistics(rewards_B, group_B)
    scored = rewards_B[~rewards_B.isnan()]
    spread_B = group.spread_B
    if greedy_B is not None:
        advantages_B = rewards_B - greedy_B.double()
        spread_B = torch.ones_like(spread_B)  # a difference of two numbers is 0 where they are equal
    elif baseline == "batch":
        advantages_B = rewards_B - scored.mean()
        spread_B = torch.full_like(spread_B, bool((scored != scored[:1]).any()))
    else:
        advantages_B = rewards_B - group.mean_B
    if baseline == "leave_one_out":
        advantages_B = advantages_B * group.count_B / (group.count_B - 1).clamp(min=1)
    if scale == "group":
        advantages_B = advantages_B / (group.std_B + eps)
    elif scale == "batch" and scored.numel() > 1:
        advantages_B = advantages_B / (scored.std() + eps)
    # Exactly 0 without spread: a rounding error of the mean, divided by eps alone, would be a signal.
    return torch.where(spread_B & ~rewards_B.isnan(), advantages_B, 0.0).to(dtype)


def token_advantages(
    rewards_B: Tensor,
    group_B: Tensor,
    kl_BT: Tensor,
    mask_BT: Tensor,
    *,
    coef: float,
    baseline: Baseline = "mean",
    scale: AdvantageScale = "none",
    eps: float = 1e-4,
    greedy_B: Tensor | None = None,
) -> Tensor:
    """Return an advantage a token, (B, T): the completion's, less `coef` times the KL from the token on.

    What was diverged before a token is not its doing. That is how REINFORCE++ (arXiv 2501.03262) and ReMax
    (arXiv 2310.10505) take KL into the reward. Baselines are as in `group_advantages` and of rewards alone,
    but for "batch": that is the mean over all tokens of reward less KL ahead. The scale "batch" divides by
    the unbiased deviation over all tokens, plus `eps`; "group" is refused. No gradient flows into the result,
    which is 0 for abstentions and under the mask's zeros.

    Raises ValueError as `group_advantages` does, and for a KL and a mask of other shapes.
    """
    if kl_BT.dim() != 2 or mask_BT.shape != kl_BT.shape or len(kl_BT) != len(rewards_B):
        shapes = f"{tuple(kl_BT.shape)} and {tuple(mask_BT.shape)}"
        raise ValueError(f"KL and mask must both be ({len(rewards_B)}, T), got {shapes}")
    _check_options(baseline, scale, rewards_B, greedy_B)
    if scale == "group":
        raise ValueError("advantage scale 'group' is for whole completions, not for tokens")
    dtype = torch.promote_types(rewards_B.dtype, torch.float32)
    rewards_B = _with_baseline(rewards_B, greedy_B)
    kept_BT = mask_BT.bool() & ~rewards_B.isnan()[:, None]
    left_B = group_advantages(rewards_B, group_B, baseline=baseline, greedy_B=greedy_B)
    kl_BT = kl_BT.detach().double().masked_fill(~kept_BT, 0.0)
    ahead_BT = kl_BT.flip(1).cumsum(1).flip(1)
    advantages_BT = left_B[:, None] - coef * ahead_BT
    known = advantages_BT[kept_BT]
    if baseline == "batch":
        advantages_BT = advantages_BT - known.mean()
    if scale == "batch" and known.numel() > 1:
        advantages_BT = advantages_BT / (known.std() + eps)
    return advantages_BT.masked_fill(~kept_BT, 0.0).to(dtype)


def decoupled_rewards(values_BK: Tensor, group_B: Tensor, *, weights_K: Tensor, eps: float = 1e-4) -> Tensor:
    """Return the weighted sum of rewards that were each normalised in its group, (B,), in float64.

    Steps one and two of GDPO (arXiv 2601.05242): sum over k of w_k (r_k - mean_k) / (std_k + eps), mean and
    unbiased deviation being those of the row's group. A reward without spread in a group adds exactly 0
    there. A row that holds a NaN is an abstention: it has no part in any statistic, and its sum is NaN.

    Raises ValueError for mismatched shapes or infinite values.
    """
    if values_BK.dim() != 2 or weights_K.shape != values_BK.shape[1:]:
        shapes = f"{tuple(values_BK.shape)} and {tuple(weights_K.shape)}"
        raise ValueError(f"values must be (B, K) and weights (K,), got {shapes}")
    abstained_B = values_BK.isnan().any(dim=1)
    total_B = torch.zeros(len(values_BK), dtype=torch.float64, device=values_BK.device)
    for values_B, weight in zip(values_BK.unbind(1), weights_K.double(), strict=True):
        scored_B = values_B.double().masked_fill(abstained_B, torch.nan)
        total_B += weight * group_advantages(scored_B, group_B, scale="group", eps=eps)
    # Rewards that cancel out leave a rounding error, which would pass for a signal.
    total_B = torch.where(total_B.abs() < _CANCELLED, 0.0, total_B)
    return total_B.masked_fill(abstained_B, torch.nan)


def gdpo_advantages(values_BK: Tensor, group_B: Tensor, *, weights_K: Tensor, eps: float = 1e-4) -> Tensor:
    """Return the advantages of GDPO, (B,), in the dtype of the values but float32 at least.

    GDPO (arXiv 2601.05242) compares each reward on its own, so that rewards of different size or rarity do
    not drown each other, and then scales the sums to a deviation of 1: step three divides `decoupled_rewards`
    by their unbiased deviation over the batch plus `eps`. Their mean, which the paper subtracts, is 0 by
    construction. TRL calls it `normalize_then_sum`. An abstention has advantage 0.

    Raises ValueError as `decoupled_rewards` does.
    """
    summed_B = decoupled_rewards(values_BK, group_B, weights_K=weights_K, eps=eps)
    scored = summed_B[~summed_B.isnan()]
    if scored.numel() > 1:
        summed_B = summed_B / (scored.std() + eps)
    return summed_B.nan_to_num(0.0).to(torch.promote_types(values_BK.dtype, torch.float32))


def informative(rewards_B: Tensor, group_B: Tensor, *, greedy_B: Tensor | None = None) -> Tensor:
    """Return a bool a row, (B,): does the row's group hold two scored completions with different rewards?

    With `greedy_B`: one that earned something else than the greedy completion. A group without spread has
    advantages of 0 and teaches nothing (DAPO's dynamic sampling, arXiv 2503.14476, section 3.2, refills it).
    True for every row of an informative group, abstentions included.

    Raises ValueError for mismatched shapes or infinite rewards.
    """
    if greedy_B is None:
        return _group_statistics(rewards_B, group_B).spread_B
    differs_B = group_advantages(rewards_B, group_B, baseline="greedy", greedy_B=greedy_B) != 0
    return torch.isin(group_B, group_B[differs_B])


def overlong_penalty(lengths_B: Tensor, *, max_new_tokens: int, buffer: int) -> Tensor:
    """Return DAPO's soft overlong punishment, (B,) in [-1, 0], float32 (arXiv 2503.14476, equation 13).

    0 up to `max_new_tokens - buffer` tokens, then falling linearly to -1 at `max_new_tokens`, -1 beyond.
    The caller multiplies by its weight and adds the result to the rewards. Lengths are in tokens.

    Raises ValueError for a buffer outside 1..max_new_tokens.
    """
    if not 1 <= buffer <= max_new_tokens:
        raise ValueError(f"buffer must lie between 1 and max_new_tokens={max_new_tokens}, got {buffer}")
    excess_B = lengths_B - (max_new_tokens - buffer)
    return -(excess_B.float() / buffer).clamp(0.0, 1.0)


def _check_options(
    baseline: Baseline, scale: AdvantageScale, rewards_B: Tensor, greedy_B: Tensor | None
) -> None:
    if baseline not in get_args(Baseline):
        raise ValueError(f"unknown baseline {baseline!r}; known: {', '.join(get_args(Baseline))}")
    if scale not in get_args(AdvantageScale):
        raise ValueError(f"unknown advantage scale {scale!r}; known: {', '.join(get_args(AdvantageScale))}")
    if scale not in _SCALES[baseline]:
        known = ", ".join(_SCALES[baseline])
        raise ValueError(f"advantage scale {scale!r} is not for baseline {baseline!r}; known: {known}")
    if (baseline == "greedy") != (greedy_B is not None):
        raise ValueError("greedy_B belongs to the baseline 'greedy', and it to greedy_B")
    if greedy_B is not None and (greedy_B.shape != rewards_B.shape or greedy_B.isinf().any()):
        raise ValueError(f"greedy_B must be {tuple(rewards_B.shape)} and finite or NaN")


def _with_baseline(rewards_B: Tensor, greedy_B: Tensor | None) -> Tensor:
    """The rewards in float64; where there is nothing to hold one against, NaN."""
    rewards_B = rewards_B.double()
    return rewards_B if greedy_B is None else rewards_B.masked_fill(greedy_B.isnan(), torch.nan)


def check_rewards(rewards_B: Tensor, group_B: Tensor) -> None:
    """Raise ValueError for mismatched shapes or infinite rewards."""
    if rewards_B.dim() != 1 or group_B.shape != rewards_B.shape:
        raise ValueError(
            f"rewards and groups must both be (B,), got {tuple(rewards_B.shape)} and {tuple(group_B.shape)}"
        )
    if rewards_B.isinf().any():
        raise ValueError("rewards must be finite, or NaN for an abstention; got an infinite one")


def _group_statistics(rewards_B: Tensor, group_B: Tensor) -> _GroupStatistics:
    check_rewards(rewards_B, group_B)
    scored_B = ~rewards_B.isnan()
    # float64 makes the sums independent of the order of the rows in all but the last bits of float32.
    values_B = rewards_B.double().masked_fill(~scored_B, 0.0)
    row_B = torch.unique(group_B, return_inverse=True)[1]
    zeros_G = values_B.new_zeros(int(row_B.max()) + 1 if row_B.numel() else 0)

    def total(x_B: Tensor) -> Tensor:
        return zeros_G.index_add(0, row_B, x_B)[row_B]

    count_B = total(scored_B.double())
    mean_B = total(values_B) / count_B.clamp(min=1)
    centred_B = (values_B - mean_B).masked_fill(~scored_B, 0.0)
    std_B = (total(centred_B.square()) / (count_B - 1).clamp(min=1)).sqrt()
    for_max_B, for_min_B = (values_B.masked_fill(~scored_B, bound) for bound in (-torch.inf, torch.inf))
    highest_G = (zeros_G - torch.inf).scatter_reduce(0, row_B, for_max_B, "amax")
    lowest_G = (zeros_G + torch.inf).scatter_reduce(0, row_B, for_min_B, "amin")
    return _GroupStatistics(count_B, mean_B, std_B, spread_B=(highest_G > lowest_G)[row_B])
