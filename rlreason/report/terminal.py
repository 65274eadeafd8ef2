"""What a run says on the screen: a live panel in a terminal, one line a step anywhere else."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from types import TracebackType
from typing import Any, Self

from rich.box import ROUNDED
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rlreason.report.panel import StagePanel
from rlreason.report.plain import StepLines
from rlreason.report.text import harmless, number, omitted, one_line, role_at, roles, shown_ends

WIDTH = 110
_ROLE_STYLES = {"think": "bright_black", "answer": "bold green", "tag": "cyan", "text": "default"}


@dataclass(frozen=True)
class Plan:
    """What a run is about to do. `rows` are (label, value), in the order to show them; `loss` is the
    resolved formula of the loss, with every constant that is in it."""

    name: str
    rows: Sequence[tuple[str, str]] = field(default_factory=tuple)
    loss: str = ""


class View:
    """Shows a run on `console`; usable in a `with` statement, so that the terminal is given back.

    Text from outside (questions, completions, reasons, titles) is shown as it is: neither terminal escape
    codes nor rich markup in it have any effect. A live panel needs a terminal that can draw it.
    """

    def __init__(
        self,
        plan: Plan | None = None,
        console: Console | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # FORCE_COLOR, which many CI systems set, makes rich take a log file for a terminal.
        self._console = console or Console(force_interactive=None if sys.stdout.isatty() else False)
        self._clock = clock
        self._is_live = self._console.is_interactive and self._console.encoding.lower().startswith("utf")
        self._live: Live | None = None
        self._panel: StagePanel | None = None
        self._lines: StepLines | None = None
        if plan is not None:
            self.plan(plan)

    def plan(self, plan: Plan) -> None:
        """Show what is going to happen, before it does."""
        rows = [(harmless(label), harmless(value)) for label, value in plan.rows]
        if plan.loss:
            rows.append(("loss", harmless(plan.loss)))
        if not self._is_live:
            self._print_plain(f"plan: {harmless(plan.name)}")
            width = max((len(label) for label, _ in rows), default=0)
            for label, value in rows:
                self._print_wrapped(value, first=f"  {label:<{width}}  ", rest=" " * (width + 4))
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bright_black", no_wrap=True)
        table.add_column(overflow="fold")
        for label, value in rows:
            table.add_row(Text(label), Text(value))
        self._console.print(self._framed(table, Text(f" {harmless(plan.name)} ", style="bold")))

    def stage(self, title: str) -> None:
        """Begin a stage: its trends and clocks start anew."""
        self._end_stage()
        title = harmless(title)
        if self._is_live:
            self._panel = StagePanel(title, clock=self._clock)
            self._live = Live(self._panel, console=self._console, refresh_per_second=2)
            self._live.start()
        else:
            self._print_plain(f"\n== {title} ==")
            self._lines = StepLines()

    def note(self, text: str) -> None:
        """Say something in a line of its own."""
        if self._is_live:
            self._console.print(Text.assemble(("· ", "cyan"), harmless(text)))
        else:
            self._print_wrapped(harmless(text), first="  ", rest="  ")

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Show the metrics of a step, any of which may be missing or None.

        Shares of 1: accuracy, format, truncated, failed, informative, clipped. Tokens: length (mean of the
        completions). `time` holds seconds for each part of the step, `total` and `left` in seconds, and
        `tokens_per_s`.
        """
        if self._panel is None and self._lines is None:
            self.stage(str(metrics.get("stage", "training")))
        if self._panel is not None and self._live is not None:
            self._panel.update(metrics)
            self._live.refresh()
        elif self._lines is not None:
            for line in self._lines.step(metrics):
                self._print_plain(line)

    def sample(
        self,
        prompt: str,
        text: str,
        scores: Mapping[str, tuple[float | None, str]],
        advantage: float | None,
    ) -> None:
        """Show one completion with what each reward said of it (value None: it abstained) and why."""
        question = one_line(prompt, 400)
        completion = _coloured(text)
        reasons = [
            (harmless(name), "abstains" if value is None else f"{value:.2f}", one_line(reason, 160))
            for name, (value, reason) in scores.items()
        ]
        weight = "advantage -" if advantage is None else f"advantage {advantage:+.3f}"
        if not self._is_live:
            self._print_wrapped(question, first="  question | ", rest="           | ")
            for line in completion.plain.split("\n"):
                self._print_wrapped(line, first="           | ", rest="           | ", verbatim=True)
            for name, value, reason in reasons:
                self._print_wrapped(
                    f"{name} {value}: {reason}", first="    scores | ", rest="           |   "
                )
            self._print_plain(f"    scores | {weight}")
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bright_black", no_wrap=True)
        table.add_column(justify="right", no_wrap=True, style="bold")
        table.add_column(style="bright_black", overflow="fold")
        for name, value, reason in reasons:
            table.add_row(Text(name), Text(value), Text(reason))
        body = Group(Text(question, style="italic"), Text(""), completion, Text(""), table)
        self._console.print(self._framed(body, Text(" sample "), Text(f" {weight} ")))

    def evaluation(self, title: str, result: Mapping[str, Any]) -> None:
        """Show one evaluation: accuracy with its interval, then what else was measured."""
        head = f"{harmless(title)}: {_accuracy(result)}"
        rest = " · ".join(_other_numbers(result))
        if self._is_live:
            self._console.print(Text.assemble(("· ", "cyan"), (head, "bold")))
            if rest:
                self._console.print(Text(f"  {rest}", style="bright_black"))
            return
        self._print_wrapped(head, first="  ", rest="    ")
        if rest:
            self._print_wrapped(rest, first="    ", rest="    ")

    def final(
        self,
        before: Mapping[str, Any],
        after: Mapping[str, Any],
        gain: Mapping[str, Any],
        extra_lines: Sequence[str] = (),
        *,
        stage: str = "GRPO",
    ) -> None:
        """End the view with `extra_lines` and then three lines: accuracy before, after, and the gain.

        `before` and `after` hold accuracy, ci95, n (questions) and samples (of each); `gain` holds value,
        ci95 and n. All are shares of 1. The lines are the same whether or not this is a terminal.
        """
        self.close()
        self._print_plain("")
        for line in extra_lines:
            self._print_plain(harmless(line))
        self._print_plain(f"held-out accuracy before {harmless(stage)}: {_accuracy(before)}")
        self._print_plain(f"held-out accuracy after {harmless(stage)}: {_accuracy(after)}")
        self._print_plain(_gain(gain))

    def close(self) -> None:
        """Stop drawing and give the terminal back. Calling it twice is fine."""
        self._end_stage()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _end_stage(self) -> None:
        if self._panel is not None and self._live is not None:
            self._panel.finish()
            self._live.stop()
        if self._lines is not None:
            for line in self._lines.finish():
                self._print_plain(line)
        self._live = self._panel = self._lines = None

    def _framed(self, body: RenderableType, title: Text, subtitle: Text | None = None) -> Panel:
        return Panel(
            body,
            title=title,
            subtitle=subtitle,
            title_align="left",
            subtitle_align="right",
            border_style="bright_black",
            box=ROUNDED,
            padding=(0, 2),
            width=min(self._console.width, WIDTH),
        )

    def _print_wrapped(self, text: str, *, first: str, rest: str, verbatim: bool = False) -> None:
        """Print `text` in lines of at most `WIDTH`; `verbatim` keeps the spaces of a completion.

        A longer word of ours, like a path, stays in one piece, so that it can be copied.
        """
        for paragraph in text.split("\n"):
            lines = wrap(
                paragraph,
                WIDTH,
                initial_indent=first,
                subsequent_indent=rest,
                replace_whitespace=False,
                drop_whitespace=not verbatim,
                break_long_words=verbatim,
                break_on_hyphens=False,
            )
            for line in lines or [first]:
                self._print_plain(line.rstrip())
            first = rest

    def _print_plain(self, line: str) -> None:
        """Print a line that is neither styled, wrapped nor cropped."""
        encoding = self._console.encoding
        text = line.encode(encoding, "backslashreplace").decode(encoding)
        self._console.print(Text(text), soft_wrap=True, highlight=False)


def _coloured(text: str) -> Text:
    """A completion with its parts told apart and its middle left out where it is long."""
    # What is left out is neither made harmless nor coloured: there may be megabytes of it.
    head, tail = shown_ends(text, characters=1200, lines=24)
    coloured = _painted(text[:head], role_at(text, 0))
    if head == tail:
        return coloured
    mark = Text(f" {omitted(tail - head)} ", style="italic yellow")
    return coloured + mark + _painted(text[tail:], role_at(text, tail))


def _painted(text: str, role: str) -> Text:
    painted = Text()
    for start, end, part in roles(text, role):
        painted.append(harmless(text[start:end]), style=_ROLE_STYLES[part])
    return painted


def _accuracy(result: Mapping[str, Any]) -> str:
    questions, samples = result.get("n", 0), result.get("samples", 1)
    return (
        f"{number('accuracy', result.get('accuracy'))} {_interval(result.get('ci95'))} "
        f"(n={questions} question{'s' if questions != 1 else ''}, "
        f"{samples} sample{'s' if samples != 1 else ''} each)"
    )


def _gain(gain: Mapping[str, Any]) -> str:
    value, interval = gain.get("value"), gain.get("ci95")
    if value is None or interval is None:
        return "gain: not measured"
    low, high = interval
    verdict = "" if low > 0 else " (below 0: it got worse)" if high < 0 else " (holds 0: no gain is shown)"
    return f"gain: {100 * value:+.1f} points, 95% interval {_interval(interval)}{verdict}"


def _interval(bounds: Sequence[float] | None) -> str:
    """Bounds in points, as [low, high]."""
    if bounds is None:
        return "[no interval]"
    # Adding zero turns the -0.0 that rounding can leave into 0.0.
    low, high = (round(100 * bound, 1) + 0.0 for bound in bounds)
    return f"[{low:.1f}, {high:.1f}]"


def _other_numbers(result: Mapping[str, Any]) -> list[str]:
    """Everything measured beside the headline, such as `format 98.1%` or `pass@4 61.0%`."""
    texts = []
    for name, value in result.items():
        if name in {"accuracy", "ci95", "n", "samples"} or value is None:
            continue
        if name in {"failed", "abstained"} and value == 0:
            continue
        words = harmless(name).replace("_", " ")
        if isinstance(value, Mapping):
            words = words.removesuffix(" at")
            texts += [f"{words}@{harmless(k)} {number(name, v)}" for k, v in value.items()]
        elif isinstance(value, int | float):
            texts.append(f"{words} {number(name, value)}")
    return texts
