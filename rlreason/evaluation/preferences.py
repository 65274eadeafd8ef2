"""How well a reward model tells the better of two completions, and whether it only counts their tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlreason.evaluation.statistics import cluster_interval

_BINS = 10


@dataclass(frozen=True)
class Judged:
    """A pair with the model's scores and the lengths of both sides in tokens. `group` is its prompt."""

    group: int
    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int


def preference_report(judged: Sequence[Judged], *, longer_is_better: bool) -> dict[str, Any]:
    """Return the numbers of held-out pairs.

    `accuracy` is the share of pairs whose chosen side scores higher (equal scores count half), `ci95` its
    interval by bootstrap over prompts, as pairs of one prompt are alike. `length_accuracy` is the same for
    the baseline that scores by length alone, in the direction that was better on the training pairs, and
    `over_length_ci95` the interval of the difference. `calibration_error` is the expected calibration error
    of sigmoid(difference) as the chance that the side with the higher score is the chosen one (Guo et al.,
    arXiv 1706.04599, equation 3, ten bins), and `length_correlation` Pearson's correlation of score and
    length over all completions, None where one of the two does not vary. Raises ValueError without pairs.
    """
    if not judged:
        raise ValueError("there are no held-out pairs to measure on")
    sign = 1 if longer_is_better else -1
    by_score = [_won(pair.chosen - pair.rejected) for pair in judged]
    by_length = [_won(sign * (pair.chosen_tokens - pair.rejected_tokens)) for pair in judged]
    groups = [pair.group for pair in judged]
    better = [a - b for a, b in zip(by_score, by_length, strict=True)]
    return {
        "accuracy": math.fsum(by_score) / len(judged),
        "ci95": list(cluster_interval(by_score, groups)),
        "n": len(judged),
        "prompts": len(set(groups)),
        "length_accuracy": math.fsum(by_length) / len(judged),
        "over_length_ci95": list(cluster_interval(better, groups, least=-1.0)),
        "calibration_error": calibration_error([pair.chosen - pair.rejected for pair in judged]),
        "length_correlation": _correlation(
            [score for pair in judged for score in (pair.chosen, pair.rejected)],
            [float(n) for pair in judged for n in (pair.chosen_tokens, pair.rejected_tokens)],
        ),
    }


def best_of(scores: Sequence[Sequence[float]], marks: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Compare the mark of the completion with the highest score to the mean mark, question by question.

    Returns `mean`, `best` with `best_ci95`, and `gain` with its `ci95` over questions. The first of equal
    scores is taken. `n` is how many a question has, at most: those on which the rewards abstain are left out.
    """
    means = [math.fsum(row) / len(row) for row in marks]
    chosen = [row[max(range(len(row)), key=s.__getitem__)] for s, row in zip(scores, marks, strict=True)]
    gains = [a - b for a, b in zip(chosen, means, strict=True)]
    places = range(len(gains))
    return {
        "n": max(map(len, marks)),
        "questions": len(marks),
        "mean": math.fsum(means) / len(means),
        "best": math.fsum(chosen) / len(chosen),
        "best_ci95": list(cluster_interval(chosen, places)),
        "gain": math.fsum(gains) / len(gains),
        "ci95": list(cluster_interval(gains, places, least=-1.0)),
    }


def calibration_error(differences: Sequence[float]) -> float:
    """How far sigmoid(|difference|), the chance that the higher score is right, is from how often it is."""
    bins: list[list[tuple[float, float]]] = [[] for _ in range(_BINS)]
    for difference in differences:
        chance = 1 / (1 + math.exp(-min(abs(difference), 700.0)))
        place = min(int((chance - 0.5) * 2 * _BINS), _BINS - 1)
        bins[place].append((chance, _won(difference)))
    gaps = (abs(math.fsum(c - won for c, won in found)) for found in bins)
    return math.fsum(gaps) / len(differences)


def _won(difference: float) -> float:
    return 0.5 if difference == 0 else float(difference > 0)


def _correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    spread_a = math.fsum((x - mean_a) ** 2 for x in a)
    spread_b = math.fsum((x - mean_b) ** 2 for x in b)
    if spread_a == 0 or spread_b == 0:
        return None
    shared = math.fsum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    return shared / math.sqrt(spread_a * spread_b)
