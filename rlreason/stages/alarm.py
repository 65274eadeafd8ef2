"""The alarm for over-optimisation: the learned reward goes up while answers get worse."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import NormalDist, fmean

WINDOW = 5
"""Steps whose means are compared."""
_SURE = 2.5
"""Standard errors by which the learned reward must have risen."""
_FALSE = 0.05
"""Runs, about, in which a learned reward that rises on its own, with accuracy as it was, sets it off."""


class LearnedAlarm:
    """Holds the last steps against the best ones before them.

    A policy under optimisation leaves the texts on which a reward model was right: its score goes on rising
    while what it stands for falls (Gao et al., arXiv 2210.10760). What it stands for is measured beside it,
    in every step, by `eval.reward` on the same completions. `history` holds both means of each step.
    """

    def __init__(self, history: Sequence[Sequence[float]] = ()) -> None:
        self.history: list[list[float]] = [list(step) for step in history]

    def step(self, learned: float | None, accuracy: float | None, *, prompts: int) -> str:
        """Take a step's means; return what is wrong in words, or nothing.

        `prompts` is the number of different questions behind them. The alarm goes off where the learned
        reward of the last five steps is above, and their accuracy below, that of the five earlier steps with
        the highest accuracy. The best of many has been lucky, and it is asked again in every step: so the
        standard errors that the fall must measure grow with the number of steps, 3.3 at 10 and 4.3 at 80.
        """
        if learned is None or accuracy is None:
            return ""
        self.history.append([learned, accuracy])
        last = self.history[-WINDOW:]
        starts = range(len(self.history) - 2 * WINDOW + 1)
        if not starts:
            return ""
        earlier = (self.history[start : start + WINDOW] for start in starts)
        best = max(earlier, key=lambda steps: fmean(accuracy for _, accuracy in steps))
        rise = fmean(r for r, _ in last) - fmean(r for r, _ in best)
        fall = fmean(a for _, a in best) - fmean(a for _, a in last)
        noise = [_noise(values) for values in zip(*self.history, strict=True)]
        share = (fmean(a for _, a in best) + fmean(a for _, a in last)) / 2
        # Marks that are shares vary at least as the answers to so many questions do.
        noise[1] = max(noise[1], share * (1 - share) / prompts)
        errors = [math.sqrt(2 * variance / WINDOW) for variance in noise]  # of a difference of two windows
        sure = NormalDist().inv_cdf(1 - _FALSE / len(self.history) ** 2)
        if rise <= _SURE * errors[0] or fall <= sure * errors[1]:
            return ""
        return (
            f"the learned reward rises while answers get worse: over the last {WINDOW} steps it is up by "
            f"{rise:.3g} and accuracy down by {100 * fall:.1f} points, against the best {WINDOW} before. The "
            "policy has found what the reward model likes and is not right. Go back to a checkpoint before; "
            "lower rewards.learned.weight, raise kl.coef, add accuracy to the rewards, or train the reward "
            "model on completions of now"
        )


def _noise(values: Sequence[float]) -> float:
    """The variance of a step's mean, from the changes between steps: what moves slowly is no noise."""
    return fmean((b - a) ** 2 for a, b in pairwise(values)) / 2
