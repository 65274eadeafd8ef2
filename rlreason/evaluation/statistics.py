"""Evaluation on held-out questions: the same rendering, the same rewards, an interval with every number.

Shapes: Q questions, K samples of each.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlreason.seeds import derive_seed

_RESAMPLES = 4000


@dataclass(frozen=True)
class Answered:
    """One evaluated completion. `correct` is None where it could not be marked; `failed` if by an error."""

    correct: float | None
    well_formed: bool
    derives: bool
    truncated: bool
    tokens: int
    answer: str | None
    text: str
    failed: bool = False


def summarize(answered_QK: Sequence[Sequence[Answered]], *, pass_at: Sequence[int]) -> dict[str, Any]:
    """Return the numbers of one evaluation.

    `accuracy` is the mean over questions of the mean over samples; `ci95` its interval by bootstrap over
    questions (percentiles of 4,000 resamples), which respects that samples of one question are alike; with
    no spread between questions it is the Wilson interval, which has a width where the bootstrap has none.
    `pass_at` is the unbiased estimator of arXiv 2107.03374, eq. 1; `maj_at` counts a question right if the
    most frequent answer is (ties go to the answer given first).

    A completion that has no mark is left out of accuracy, pass@k and maj@k, and a question with too few marks
    as well; `n` counts the questions with a mark. `abstained` and `failed` are the shares of completions
    on which the marking reward abstained, and on which it failed. A number that nothing is left for is None.
    """
    if not answered_QK or not all(answered_QK):
        raise ValueError("an evaluation needs at least one completion of each question")
    marks_QK = [[a.correct for a in group if a.correct is not None] for group in answered_QK]
    means_Q = [_mean(marks) for marks in marks_QK if marks]
    flat = [a for group in answered_QK for a in group]
    formed = [a.correct for a in flat if a.well_formed and a.correct is not None]
    samples = len(answered_QK[0])
    return {
        "accuracy": _mean(means_Q) if means_Q else None,
        "ci95": list(mean_interval(means_Q)) if means_Q else None,
        "n": len(means_Q),
        "samples": samples,
        "format": _mean([float(a.well_formed) for a in flat]),
        "accuracy_given_format": _mean(formed) if formed else None,
        "derives": _mean([float(a.derives) for a in flat]),
        "truncated": _mean([float(a.truncated) for a in flat]),
        "tokens": _mean([float(a.tokens) for a in flat]),
        "abstained": _mean([float(a.correct is None and not a.failed) for a in flat]),
        "failed": _mean([float(a.failed) for a in flat]),
        "pass_at": {str(k): _pass_at(marks_QK, k) for k in pass_at},
        "maj_at": {str(samples): _maj_at(answered_QK)},
    }


def gain(before_Q: Sequence[float | None], after_Q: Sequence[float | None]) -> dict[str, Any]:
    """The mean paired difference over the same questions, with its interval by bootstrap over questions.

    Questions that have no mark (None) in one of the two are left out; with none left, there is no gain.
    """
    pairs = zip(before_Q, after_Q, strict=True)
    differences = [b - a for a, b in pairs if a is not None and b is not None]
    if not differences:
        return {"value": None, "ci95": None, "n": 0}
    low, high = _bootstrap(differences)
    return {"value": _mean(differences), "ci95": [low, high], "n": len(differences)}


def pass_at_k(n: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n samples, drawn without return, hold a right one."""
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs 1 <= k <= {n} samples")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """95% interval of a mean: bootstrap, or Wilson's where all values are equal and a share.

    Marks outside [0, 1], which a reward of the user's own may give, have no interval of Wilson's.
    """
    if len(set(values)) > 1 or not 0 <= values[0] <= 1:
        return _bootstrap(values)
    return wilson(_mean(values), len(values))


def cluster_interval(
    values: Sequence[float], groups: Sequence[Any], *, least: float = 0.0
) -> tuple[float, float]:
    """95% interval of the mean of `values` of which those of one group are alike: bootstrap over groups.

    `values` lie in [`least`, 1]. Where no resample differs from another, as with a single group, it is
    Wilson's interval of as many marks as there are groups, on that scale.
    """
    by_group: dict[Any, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        by_group.setdefault(group, []).append(value)
    sums = [(math.fsum(members), len(members)) for members in by_group.values()]
    draw = random.Random(derive_seed("bootstrap", len(sums)))
    means = []
    for _ in range(_RESAMPLES):
        drawn = draw.choices(sums, k=len(sums))
        means.append(math.fsum(total for total, _ in drawn) / sum(count for _, count in drawn))
    means.sort()
    low, high = means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES) - 1]
    if high - low > 1e-12 or not least <= low <= 1:
        return low, high
    low, high = wilson((low - least) / (1 - least), len(sums))
    return least + (1 - least) * low, least + (1 - least) * high


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's 95% score interval of a proportion (Wilson 1927)."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Percentile interval of the mean over resamples of `values`; deterministic."""
    draw = random.Random(derive_seed("bootstrap", len(values)))
    means = sorted(_mean(draw.choices(values, k=len(values))) for _ in range(_RESAMPLES))
    return means[int(0.025 * _RESAMPLES)], means[int(0.975 * _RESAMPLES) - 1]


def _pass_at(marks_QK: Sequence[Sequence[float]], k: int) -> float | None:
    enough = [marks for marks in marks_QK if len(marks) >= k]
    shares = [pass_at_k(len(marks), sum(mark >= 1 for mark in marks), k) for marks in enough]
    return _mean(shares) if shares else None


def _maj_at(answered_QK: Sequence[Sequence[Answered]]) -> float | None:
    marked = [[a for a in group if a.correct is not None] for group in answered_QK]
    marks = [_majority(group) for group in marked if group]
    return _mean(marks) if marks else None


def _majority(group: Sequence[Answered]) -> float:
    counts: dict[str, int] = {}
    for answered in group:
        if answered.answer is not None:
            counts[answered.answer] = counts.get(answered.answer, 0) + 1
    if not counts:
        return 0.0
    winner = max(counts, key=lambda answer: counts[answer])  # max keeps the first of equals
    return next(a.correct or 0.0 for a in group if a.answer == winner)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
