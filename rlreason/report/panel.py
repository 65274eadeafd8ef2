"""The live panel of a stage: how far it is, the newest numbers, their trends, and where the time goes."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rich.box import ROUNDED
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlreason.report.text import duration, harmless, number, sparkline

# Metric -> what the panel calls it. The first are drawn as trends, where there is something to draw.
TRENDS = {
    "reward": "reward",
    "accuracy": "accuracy",
    "format": "format",
    "length": "length",
    "informative": "informative",
}
NUMBERS = {
    "loss": "loss",
    "kl": "KL",
    "entropy": "entropy",
    "grad_norm": "grad norm",
    "lr": "rate",
    "clipped": "clipped",
    "truncated": "cut off",
    "failed": "failed",
    "sampler_gap": "sampler gap",
    "explained_variance": "critic fit",
    "value_loss": "value loss",
    "kl_coef": "KL weight",
}
NEXT_TO_NOTHING = 0.005  # parts that would read "0%" are left out
_NOT_PARTS = frozenset({"total", "tokens_per_s", "left"})
_PART_COLOURS = ("cyan", "yellow", "blue", "magenta", "green")


class PartsOfTime:
    """Seconds spent in each part of a step, summed over a stage."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def add(self, clocks: Mapping[str, Any]) -> None:
        """Add the clocks of one step: every key but the totals names a part."""
        for part, seconds in clocks.items():
            if part not in _NOT_PARTS and seconds is not None:
                self._seconds[part] = self._seconds.get(part, 0.0) + seconds

    def shares(self) -> list[tuple[str, float]]:
        """(part, share of 1) in the order in which the parts of a step come."""
        total = math.fsum(self._seconds.values())
        return [(part, seconds / total) for part, seconds in self._seconds.items()] if total > 0 else []


class StagePanel:
    """What rich's Live draws, several times a second and on another thread than `update`."""

    def __init__(self, title: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._title = harmless(title)
        self._clock = clock
        self._started = self._updated = clock()
        self._lock = threading.Lock()
        self._last: dict[str, Any] = {}
        self._history: dict[str, list[float | None]] = {name: [] for name in (*TRENDS, "loss")}
        self._parts = PartsOfTime()
        self._done = False

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of one more step; any of them may be missing or None."""
        with self._lock:
            self._last = dict(metrics)
            self._updated = self._clock()
            self._parts.add(metrics.get("time") or {})
            for name, values in self._history.items():
                values.append(metrics.get(name))

    def finish(self) -> None:
        """Stop the clocks: what stays on the screen is the end of the stage."""
        with self._lock:
            self._done = True

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        with self._lock:
            width = min(options.max_width, 110)
            parts: list[RenderableType] = [self._progress(width - 6)]
            if self._last:
                parts += [Text(""), *self._figures(width - 6)]
            if shares := self._parts.shares():
                parts += [Text(""), _time_bar(shares, width - 6)]
            parts.append(self._speed())
            yield Panel(
                Padding(Group(*parts), (0, 1)),
                title=Text(f" {self._title} ", style="bold"),
                title_align="left",
                border_style="bright_black",
                box=ROUNDED,
                width=width,
            )

    def _progress(self, width: int) -> Text:
        step, steps = self._last.get("step"), self._last.get("steps")
        if step is None or not steps:
            return Text("step -" if step is None else f"step {step}", style="bright_black")
        share = min(max(step / steps, 0.0), 1.0)
        label = f"  step {step} of {steps}"
        columns = max(width - len(label), 1)
        filled = round(columns * share)
        return Text.assemble(
            ("━" * filled, "cyan"), ("━" * (columns - filled), "bright_black"), (label, "default")
        )

    def _figures(self, width: int) -> list[RenderableType]:
        trends = [name for name in TRENDS if _known(self._history[name])]
        # A stage without rewards (imitation) is followed by its loss.
        trends = trends or [name for name in ("loss",) if _known(self._history[name])]
        names = [name for name in NUMBERS if self._last.get(name) is not None and name not in trends]
        names = [name for name in names if name != "failed" or self._last[name]]
        spaced: list[RenderableType] = [Text(""), self._number_table(names, width)] if names else []
        return [self._trend_table(trends, width - 40), *spaced]

    def _trend_table(self, names: list[str], width: int) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bright_black", no_wrap=True, min_width=11)
        table.add_column(justify="right", no_wrap=True, min_width=8)
        table.add_column(no_wrap=True)
        table.add_column(style="bright_black", no_wrap=True)
        for name in names:
            values = self._history[name]
            known = _known(values)
            span = f"{number(name, min(known))} … {number(name, max(known))}"
            table.add_row(
                {**TRENDS, **NUMBERS}[name],
                _value(name, self._last.get(name)),
                Text(sparkline(values, max(width, 8)), style="cyan"),
                span if len(known) > 1 else "",
            )
        return table

    def _number_table(self, names: list[str], width: int) -> Table:
        pairs = max(width // 25, 1)
        table = Table.grid(padding=(0, 2))
        for _ in range(pairs):
            table.add_column(style="bright_black", no_wrap=True, min_width=11)
            table.add_column(justify="right", no_wrap=True, min_width=8)
        for start in range(0, len(names), pairs):
            row = names[start : start + pairs]
            table.add_row(*(cell for name in row for cell in (NUMBERS[name], _value(name, self._last[name]))))
        return table

    def _speed(self) -> Text:
        now = self._updated if self._done else self._clock()
        clocks = self._last.get("time") or {}
        facts = []
        if clocks.get("tokens_per_s") is not None:
            facts.append(f"{clocks['tokens_per_s']:,.0f} tokens/s")
        if clocks.get("total") is not None:
            facts.append(f"{clocks['total']:.1f} s a step")
        facts.append(f"{duration(now - self._started)} gone")
        if clocks.get("left") is not None and not self._done:
            facts.append(f"{duration(max(clocks['left'] - (now - self._updated), 0.0))} left")
        return Text(" · ".join(facts), style="bright_black")


def _known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _value(name: str, value: float | None) -> Text:
    broken = value is not None and not math.isfinite(value)
    return Text(number(name, value), style="bold red" if broken else "bold")


def _time_bar(shares: list[tuple[str, float]], width: int) -> Group:
    bar, legend = Text(), Text()
    filled, reached = 0, 0.0
    for place, (part, share) in enumerate(shares):
        colour = _PART_COLOURS[place % len(_PART_COLOURS)]
        reached += share
        bar.append("━" * (round(width * reached) - filled), style=colour)
        filled = round(width * reached)
        if share >= NEXT_TO_NOTHING:
            legend.append("■ ", style=colour)
            legend.append(f"{harmless(part)} {100 * share:.0f}%   ", style="bright_black")
    return Group(bar, legend)
