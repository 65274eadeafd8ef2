"""What the traces command found, for a person: the way from questions to traces, lengths, an example."""

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from rlreason.config import RunConfig
from rlreason.report.page import QUIET, Completion, counted, line, section
from rlreason.report.text import harmless, one_line
from rlreason.traces.make import Made, Options

_PERCENTILES = (10, 50, 90, 100)
_EXAMPLE = 600


def show(made: Made, config: RunConfig, options: Options, console: Console) -> None:
    """Print all of a report."""
    for part in _parts(made, config, options):
        console.print(part)


def _parts(made: Made, config: RunConfig, options: Options) -> Iterator[RenderableType]:
    origin = f"samples of {made.model}" if made.model else f"derivations of {config.task.name}"
    yield section("Traces", f"{counted(len(made.kept), 'trace')} kept, {origin}")
    if made.interrupted:
        yield line(f"interrupted: {made.planned - made.asked:,} questions were not asked", "yellow")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=QUIET, no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value, remark in _rows(made, config, options):
        grid.add_row(Text(label), Text(value), Text(harmless(remark), QUIET))
    yield grid
    if made.kept:
        # From the middle, so that it is neither the first question nor picked to please.
        example = made.kept[len(made.kept) // 2]
        yield section("An example", one_line(example.example.question, 200))
        yield Completion(example.text, indent=2, limit=_EXAMPLE)


def _rows(made: Made, config: RunConfig, options: Options) -> Iterator[tuple[str, str, str]]:
    too_long = f"{made.too_long:,} longer than prompt.max_tokens left out" if made.too_long else ""
    yield "questions asked", f"{made.asked:,}", too_long
    rollout = config.rollout
    sampled = f"{options.samples} a question, temperature {rollout.temperature:g}" if made.model else ""
    yield "completions", f"{made.sampled:,}", sampled
    yield "in the form", _share(made.in_form, made.sampled), config.prompt.format
    if made.cut_off:
        yield "cut off", _share(made.cut_off, made.sampled), f"at {rollout.max_new_tokens} tokens"
    yield "right", _share(made.right, made.sampled), f"full marks of {config.eval.reward} (eval.reward)"
    least = "" if options.min_reward is None else f", total at least {options.min_reward:g}"
    yield "usable", _share(made.usable, made.sampled), f"right, in the form, not cut off{least}"
    if made.model:
        yield "different", f"{made.distinct:,}", "from all others of their question"
        order = "the shortest" if options.shortest else "the best paid"
        yield "kept", f"{len(made.kept):,}", f"at most {options.keep} a question, {order}"
    yield "never right", _share(made.unanswered, made.asked), "questions without a right completion"
    if made.unused:
        yield "right, not usable", _share(made.unused, made.asked), "questions"
    if made.kept:
        lengths = sorted(one.tokens for one in made.kept)
        yield (
            "length",
            "",
            ", ".join(f"{percent}%: {_percentile(lengths, percent)}" for percent in _PERCENTILES)
            + f" {made.unit}",
        )


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.0%})" if total else f"{count:,}"


def _percentile(ordered: list[int], percent: int) -> int:
    """The nearest rank: the smallest value that `percent` of all do not exceed."""
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]
