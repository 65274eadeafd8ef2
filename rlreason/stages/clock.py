"""Where the time of a step goes."""

import time


class Clock:
    """Laps of one step, in seconds, and the time that a run has left."""

    def __init__(self) -> None:
        self._durations: list[float] = []
        self.laps: dict[str, float] = {}
        self._started = self._last = time.perf_counter()

    def start(self) -> None:
        """Begin a step."""
        self.laps = {}
        self._started = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Add the time since the last lap to `name`."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now

    def finish(self, *, tokens: int, steps_left: int) -> dict[str, float]:
        """End the step: laps, total, sampled tokens a second of sampling, and estimated seconds left.

        The estimate takes the mean of the last 20 steps, as recent steps tell more than early ones.
        """
        total = time.perf_counter() - self._started
        self._durations = [*self._durations[-19:], total]
        return {
            **self.laps,
            "total": total,
            "tokens_per_s": tokens / max(self.laps.get("sample", total), 1e-9),
            "left": steps_left * sum(self._durations) / len(self._durations),
        }
