"""Two series in windows of some steps: the last window against the earlier one that was best."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Parting:
    """The last window against an earlier one, in means: `rise` of the first series, `fall` of the second.

    `best` and `now` are the means of the second series in the two windows, `noise` the variances of single
    steps of both, each measured on the changes between steps. `steps` is how many there have been.
    """

    rise: float
    fall: float
    best: float
    now: float
    noise: tuple[float, float]
    steps: int


class Windows:
    """Holds the last `size` steps against those with the highest mean of the second series before them.

    A step costs the same however many there have been, so that a long run is as cheap to watch as a short.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._sums: tuple[list[float], list[float]] = ([0.0], [0.0])  # of the first n steps
        self._changes = [0.0, 0.0]  # sums of squared changes from step to step
        self._before: Sequence[float] = ()
        self._best: tuple[float, int] | None = None  # mean and start of the best window before the last one

    def add(self, first: float | None, second: float | None) -> None:
        """Take a step; one that lacks a number is left out."""
        if first is None or second is None:
            return
        values = (first, second)
        for sums, value in zip(self._sums, values, strict=True):
            sums.append(sums[-1] + value)
        for place, before in enumerate(self._before):
            self._changes[place] += (values[place] - before) ** 2
        self._before = values
        start = self.count - 2 * self.size
        if start >= 0:
            mean = self._mean(1, start)
            if self._best is None or mean > self._best[0]:
                self._best = (mean, start)

    @property
    def count(self) -> int:
        return len(self._sums[0]) - 1

    def parting(self) -> Parting | None:
        """The last window against the best one before it; None while there are less than two."""
        if self._best is None:
            return None
        best, start = self._best
        last = self.count - self.size
        now = self._mean(1, last)
        first, second = (changes / (self.count - 1) / 2 for changes in self._changes)
        rise = self._mean(0, last) - self._mean(0, start)
        return Parting(rise, best - now, best, now, (first, second), self.count)

    def _mean(self, series: int, start: int) -> float:
        sums = self._sums[series]
        return (sums[start + self.size] - sums[start]) / self.size
