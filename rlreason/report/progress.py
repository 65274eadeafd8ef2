"""What is said of long work that has no steps of its own: how much is done, and what is left."""

import time
from collections.abc import Callable

from rlreason.report.text import duration

_EVERY = 60.0  # seconds
_TELLING = 0.1  # the share that has to be done before the time left is told


class Progress:
    """Called with how many of `total` are done; says so once a minute, so nothing of shorter work."""

    def __init__(
        self, note: Callable[[str], None], what: str, total: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._note, self._what, self._total, self._now = note, what, total, now
        self._began = self._said = now()

    def __call__(self, done: int) -> None:
        moment = self._now()
        if moment - self._said < _EVERY or not 0 < done < self._total:
            return
        self._said = moment
        # What is done side by side ends all at once: the first to end say nothing about the rest.
        known = done >= _TELLING * self._total
        left = f", {duration((moment - self._began) * (self._total - done) / done)} left" if known else ""
        self._note(f"{done:,} of {self._total:,} {self._what}{left}")
