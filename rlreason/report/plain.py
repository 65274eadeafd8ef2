"""Steps as lines of a table, for logs: one line a step, at most 110 columns."""

from collections.abc import Mapping
from typing import Any

from rlreason.report.panel import NEXT_TO_NOTHING, PartsOfTime
from rlreason.report.text import duration, harmless, number

WIDTH = 110
_EVERY = 20  # lines between two headers

# Heading and width of each column; where a line would become too long, the last ones go first.
_COLUMNS = {
    "reward": ("reward", 7),
    "accuracy": ("accuracy", 8),
    "format": ("format", 6),
    "length": ("length", 6),
    "informative": ("inform.", 7),
    "failed": ("failed", 6),
    "truncated": ("cut off", 7),
    "kl": ("KL", 7),
    "explained_variance": ("critic", 6),
    "entropy": ("entropy", 7),
    "loss": ("loss", 7),
    "grad_norm": ("gradient", 8),
    "lr": ("rate", 7),
}
_CLOCKS = {"total": ("s/step", 6), "tokens_per_s": ("tokens/s", 8), "left": ("left", 7)}


class StepLines:
    """Turns the metrics of each step into lines. The columns are those that have had a value so far."""

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._since_header = _EVERY
        self._parts = PartsOfTime()

    def step(self, metrics: Mapping[str, Any]) -> list[str]:
        """The line of one step, with a header above it where one is due or a column is new."""
        clocks = metrics.get("time") or {}
        self._parts.add(clocks)
        values = {name: metrics.get(name) for name in _COLUMNS} | {name: clocks.get(name) for name in _CLOCKS}
        if not values["failed"] and "failed" not in self._columns:
            values["failed"] = None  # a column for what does not happen would push out another
        label = _label(metrics)
        columns = self._choose(values, len(label))
        lines = []
        if columns != self._columns or self._since_header >= _EVERY:
            if self._columns:
                lines += self.finish()
            self._columns, self._since_header = columns, 0
            lines.append(_row("step", len(label), [(_heading(name), _width(name)) for name in columns]))
        self._since_header += 1
        lines.append(_row(label, len(label), [(_cell(name, values[name]), _width(name)) for name in columns]))
        return lines

    def finish(self) -> list[str]:
        """The share of time in each part so far, in words."""
        shares = [
            f"{harmless(part)} {100 * share:.0f}%"
            for part, share in self._parts.shares()
            if share >= NEXT_TO_NOTHING
        ]
        return [f"  time: {', '.join(shares)}"] if shares else []

    def _choose(self, values: Mapping[str, Any], label: int) -> list[str]:
        seen = {name for name, value in values.items() if value is not None} | set(self._columns)
        room = WIDTH - label - sum(2 + _width(name) for name in _CLOCKS if name in seen)
        chosen = []
        for name in _COLUMNS:
            if name in seen and room >= 2 + _width(name):
                chosen.append(name)
                room -= 2 + _width(name)
        return chosen + [name for name in _CLOCKS if name in seen]


def _label(metrics: Mapping[str, Any]) -> str:
    """Stage and step, as wide at the first step as at the last."""
    step, steps = metrics.get("step"), metrics.get("steps")
    place = "-" if step is None else str(step)
    if steps:
        place = f"{place:>{len(str(steps))}}/{steps}"
    return f"{harmless(metrics.get('stage') or '')} {place}".strip()


def _row(label: str, width: int, cells: list[tuple[str, int]]) -> str:
    return f"{label:<{width}}" + "".join(f"  {text:>{size}}" for text, size in cells)


def _heading(name: str) -> str:
    return (_COLUMNS | _CLOCKS)[name][0]


def _width(name: str) -> int:
    return (_COLUMNS | _CLOCKS)[name][1]


def _cell(name: str, value: float | None) -> str:
    if name == "left":
        return duration(value)
    if value is not None and name in _CLOCKS:
        return f"{value:,.0f}" if name == "tokens_per_s" else f"{value:.1f}"
    return number(name, value)
