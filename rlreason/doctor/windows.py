"""Two series in windows of some steps: the last window against the earlier one that was best."""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Parting:
    """The last window against an earlier one, in means: `rise` of the first series, `fall` of the second.

    `best` and `now` are the means of the second series in the two windows, `noise` the variances of single
    steps of both, `wavering` that of a window's mean of the second; see `Windows`. `steps` is how many there
    have been.
    """

    rise: float
    fall: float
    best: float
    now: float
    noise: tuple[float, float]
    wavering: float
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
        self._jumps: list[
            float
        ] = []  # squares of the changes of the second series from window to window, sorted
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
        if start >= 0 and self.count % self.size == 0:
            middle = start + self.size
            insort(self._jumps, (self.mean(middle, self.count) - self.mean(start, middle)) ** 2)
        if start >= 0:
            mean = self.mean(start, start + self.size)
            if self._best is None or mean > self._best[0]:
                self._best = (mean, start)

    @property
    def count(self) -> int:
        return len(self._sums[0]) - 1

    @property
    def noise(self) -> tuple[float, float]:
        """The variance of a step's number in each series, from the changes: what moves slowly is no noise.

        Half the mean square successive difference (von Neumann 1941).
        """
        first, second = (changes / max(self.count - 1, 1) / 2 for changes in self._changes)
        return first, second

    @property
    def wavering(self) -> float:
        """The variance of a window's mean in the second series, from the changes between neighbours.

        Where the policy wavers slowly this is more than the noise of single steps comes to. The median of the
        squares, over that of chi-square with one degree of freedom (0.455): a few large changes, such as the
        fall that is looked for, do not count as noise. 0 where there are less than ten changes.
        """
        return median(self._jumps) / 0.455 / 2 if len(self._jumps) >= 10 else 0.0

    def mean(self, start: int, stop: int, *, series: int = 1) -> float:
        """The mean of a series over the steps from `start` to before `stop`, counted from 0."""
        return (self._sums[series][stop] - self._sums[series][start]) / (stop - start)

    def parting(self) -> Parting | None:
        """The last window against the best one before it; None while there are less than two."""
        if self._best is None:
            return None
        (best, start), last = self._best, self.count - self.size
        now = self.mean(last, self.count)
        rise = self.mean(last, self.count, series=0) - self.mean(start, start + self.size, series=0)
        return Parting(rise, best - now, best, now, self.noise, self.wavering, self.count)
