"""What the rules look at: the numbers of all steps so far, and what is known of the run behind them."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlreason.doctor.windows import Windows

ACCURACY, FORMAT, LEARNED = "accuracy", "format", "reward/learned"
NON_FINITE = "non_finite"
_HUGE = 1e100


@dataclass(frozen=True)
class Facts:
    """What a run is, as far as the rules ask. `groups` is the number of questions in a step, if known.

    `learned` says whether a learned reward is to be held against accuracy: there is one, and accuracy is not
    that reward itself. `trl` says that the numbers and the advice are of TRL's `GRPOTrainer`.
    """

    stage: str = "grpo"
    groups: int | None = None
    learned: bool = False
    trl: bool = False


@dataclass(frozen=True)
class HeldOut:
    """Accuracy on the held-out questions after `step`, and its standard error."""

    step: int
    accuracy: float
    error: float


class History:
    """The numbers of each step, in the order of the steps. What is missing or not finite is None."""

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.steps: list[int] = []
        self.broken: list[tuple[str, ...]] = []  # of each step, the names of numbers that were not finite
        self.held_out: list[HeldOut] = []
        self._columns: dict[str, list[float | None]] = {}
        self._known: dict[str, list[float]] = {}
        self._windows: dict[tuple[str, str, int], Windows] = {}

    def add(self, line: Mapping[str, Any]) -> None:
        """Take the line of one more step."""
        said = line.get(NON_FINITE)
        # Clocks are no business of the doctor's; live, it sees the line before they are in it.
        names = said if isinstance(said, Mapping) else ()
        broken = {name for name in names if not name.startswith("time.")}
        count = len(self.steps)
        self.steps.append(int(line["step"]))
        for key, raw in line.items():
            value = finite(raw)
            if value is not None:
                self._columns.setdefault(key, [None] * count).append(value)
                self._known.setdefault(key, []).append(value)
            elif isinstance(raw, float):
                broken.add(key)
        for column in self._columns.values():
            if len(column) == count:
                column.append(None)
        self.broken.append(tuple(sorted(broken)))
        for (first, second, _), windows in self._windows.items():
            windows.add(self.now(first), self.now(second))

    def now(self, key: str) -> float | None:
        """The number of the last step."""
        column = self._columns.get(key)
        return column[-1] if column else None

    def known(self, key: str) -> Sequence[float]:
        """All numbers of that name, steps without one left out."""
        return self._known.get(key, ())

    def names(self) -> Iterator[str]:
        """The names of all numbers that any step has had."""
        return iter(self._known)

    def last(self, key: str, count: int) -> Sequence[float]:
        """The newest `count` numbers; fewer where there are no more, none where the last step has none."""
        return self.known(key)[-count:] if self.now(key) is not None else ()

    def series(self, key: str) -> Windows:
        """One series alone, whose means and noise cost the same however long it is."""
        return self.windows(key, key, 1)

    def recent(self, key: str, count: int) -> list[float]:
        """The numbers of the last `count` steps, 0 where one has none."""
        column = self._columns.get(key) or [None] * len(self.steps)
        return [value or 0.0 for value in column[-count:]]

    def windows(self, first: str, second: str, size: int) -> Windows:
        """The two series at the steps that have both, ready to be compared in windows of `size` steps."""
        key = (first, second, size)
        if key not in self._windows:
            made = self._windows[key] = Windows(size)
            none = [None] * len(self.steps)
            for pair in zip(self._columns.get(first, none), self._columns.get(second, none), strict=True):
                made.add(*pair)
        return self._windows[key]

    def accuracy_rise(self, size: int) -> tuple[float, float] | None:
        """How much higher accuracy is in the last `size` steps than in the first, and its standard error.

        None where there are less than twice as many steps.
        """
        series = self.series(ACCURACY)
        if series.count < 2 * size:
            return None
        rise = series.mean(series.count - size, series.count) - series.mean(0, size)
        return rise, math.sqrt(2 * self.accuracy_noise() / size)

    def accuracy_noise(self) -> float:
        """The variance of a step's accuracy about what it would be with endless questions."""
        series = self.series(ACCURACY)
        expected = share_noise(series.mean(0, series.count), self.facts.groups)
        return steadied(series.noise[1], expected, series.count)


def finite(value: Any) -> float | None:
    """`value` as a number; None for what is none, a truth value, not finite, or too large to be squared."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) < _HUGE else None


def share_noise(share: float, groups: int | None) -> float | None:
    """The variance of a share of so many questions, if each is answered all right or all wrong.

    Completions of a question differ, so this is more than the truth. Two are added, one right and one wrong:
    a share of 0 in few questions is not certain. None where the number of questions is not known.
    """
    if groups is None or not 0 <= share <= 1:
        return None
    likely = (share * groups + 1) / (groups + 2)
    return likely * (1 - likely) / groups


def steadied(measured: float, expected: float | None, count: int) -> float:
    """A variance measured on `count` steps, drawn towards the one expected, which weighs as ten steps do."""
    if expected is None:
        return measured
    return (10 * expected + (count - 1) * measured) / (9 + count)
