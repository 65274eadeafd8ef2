"""Which completions of a group to learn from, where an update is dearer than sampling.

Shape letters: B completions. A NaN reward is an abstention, as in `advantages`.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rlreason.algorithms.advantages import check_rewards

# Variances that are nearer to each other are one variance and the rounding of it.
_ROUNDING = 1e-9


def max_variance(rewards_B: Tensor, group_B: Tensor, *, keep: int) -> Tensor:
    """Return a bool a row, (B,): is it one of the `keep` of its group whose rewards vary most?

    Max-variance down-sampling (PODS, arXiv 2504.13818): of all subsets of that size, the one of greatest
    variance is made of some of the highest rewards and, for the rest, the lowest. Of several such subsets
    the one with most nearly as many high as low ones is taken, the odd one being high; of equal rewards, by
    their places, which are independent of them. A group whose rewards differ keeps two that do.

    Abstentions are kept only where a group has fewer than `keep` others. A smaller group is kept whole.

    Raises ValueError for mismatched shapes, infinite rewards, `keep` below 2.
    """
    check_rewards(rewards_B, group_B)
    if keep < 2:
        raise ValueError(f"keep must be 2 or more, so that rewards can differ, got {keep}")
    rewards = rewards_B.double().tolist()
    groups: dict[int, list[int]] = {}
    for row, group in enumerate(group_B.tolist()):
        groups.setdefault(group, []).append(row)
    kept_B = torch.zeros(len(rewards), dtype=torch.bool)
    for rows in groups.values():
        scored = sorted((row for row in rows if not math.isnan(rewards[row])), key=lambda row: rewards[row])
        abstained = [row for row in rows if math.isnan(rewards[row])]
        if len(scored) > keep:
            low = _lowest([rewards[row] for row in scored], keep)
            scored = scored[:low] + scored[len(scored) - (keep - low) :]
        kept_B[scored + abstained[: keep - len(scored)]] = True
    return kept_B.to(rewards_B.device)


def _lowest(ascending: Sequence[float], keep: int) -> int:
    """How many of the `keep` should be the lowest, the others being the highest."""
    middle = math.fsum(ascending) / len(ascending)
    centred = [value - middle for value in ascending]  # sums of squares then cancel no leading digits
    scale = max(map(abs, centred)) or 1.0  # nor overflow
    centred = [value / scale for value in centred]
    variances = []
    for low in range(keep + 1):
        chosen = centred[:low] + centred[len(centred) - (keep - low) :]
        mean = math.fsum(chosen) / keep
        variances.append(math.fsum((value - mean) ** 2 for value in chosen) / keep)
    enough = max(variances) * (1 - _ROUNDING)
    best = [low for low, variance in enumerate(variances) if variance >= enough]
    return min(best, key=lambda low: (abs(2 * low - keep), low))
