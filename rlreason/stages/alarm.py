"""The alarm for over-optimisation: the learned reward goes up while answers get worse."""

import math
from collections.abc import Sequence
from statistics import fmean, pvariance

WINDOW = 5
"""Steps whose means are compared."""
_SURE = 2.5
"""Standard errors that a change must measure. With tens of comparisons in a run few alarms are false."""


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
        the highest accuracy, both by 2.5 standard errors.
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
        noise = math.sqrt((pvariance([r for r, _ in best]) + pvariance([r for r, _ in last])) / WINDOW)
        questions = WINDOW * prompts
        spread = sum(share * (1 - share) for share in (fmean(a for _, a in best), fmean(a for _, a in last)))
        if rise <= _SURE * noise or fall <= _SURE * math.sqrt(max(spread, 0.0) / questions):
            return ""
        return (
            f"the learned reward rises while answers get worse: over the last {WINDOW} steps it is up by "
            f"{rise:.3g} and accuracy down by {100 * fall:.1f} points, against the best {WINDOW} before. The "
            "policy has found what the reward model likes and is not right. Go back to a checkpoint before; "
            "lower rewards.learned.weight, raise kl.coef, add accuracy to the rewards, or train the reward "
            "model on completions of now"
        )
