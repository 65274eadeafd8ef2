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
    """One evaluated completion."""

    correct: float
    well_formed: bool
    derives: bool
    truncated: bool
    tokens: int
    answer: str | None
    text: str


def summarize(answered_QK: Sequence[Sequence[Answered]], *, pass_at: Sequence[int]) -> dict[str, Any]:
    """Return the numbers of one evaluation.

    `accuracy` is the mean over questions of the mean over samples; `ci95` its interval by bootstrap over
    questions (percentiles of 4,000 resamples), which respects that samples of one question are alike; with
    no spread between questions it is the Wilson interval, which has a width where the bootstrap has none.
    `pass_at` is the unbiased estimator of arXiv 2107.03374, eq. 1; `maj_at` counts a question right if the
    most frequent answer is (ties go to the answer given first).
    """
    if not answered_QK or not all(answered_QK):
        raise ValueError("an evaluation needs at least one completion of each question")
    means_Q = [_mean([a.correct for a in group]) for group in answered_QK]
    flat = [a for group in answered_QK for a in group]
    formed = [a for a in flat if a.well_formed]
    samples = len(answered_QK[0])
    return {
        "accuracy": _mean(means_Q),
        "ci95": list(mean_interval(means_Q)),
        "n": len(means_Q),
        "samples": samples,
        "format": _mean([float(a.well_formed) for a in flat]),
        "accuracy_given_format": _mean([a.correct for a in formed]) if formed else None,
        "derives": _mean([float(a.derives) for a in flat]),
        "truncated": _mean([float(a.truncated) for a in flat]),
        "tokens": _mean([float(a.tokens) for a in flat]),
        "pass_at": {
            str(k): _mean([pass_at_k(len(g), sum(a.correct >= 1 for a in g), k) for g in answered_QK])
            for k in pass_at
        },
        "maj_at": {str(samples): _mean([_majority(group) for group in answered_QK])},
    }


def gain(before_Q: Sequence[float], after_Q: Sequence[float]) -> dict[str, Any]:
    """The mean paired difference over the same questions, with its interval by bootstrap over questions."""
    differences = [b - a for a, b in zip(before_Q, after_Q, strict=True)]
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


def _majority(group: Sequence[Answered]) -> float:
    counts: dict[str, int] = {}
    for answered in group:
        if answered.answer is not None:
            counts[answered.answer] = counts.get(answered.answer, 0) + 1
    if not counts:
        return 0.0
    winner = max(counts, key=lambda answer: counts[answer])  # max keeps the first of equals
    return next(a.correct for a in group if a.answer == winner)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
