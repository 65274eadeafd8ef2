"""A Preflight for a person."""

import math
from collections.abc import Iterator, Sequence

import yaml
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from rlreason.memory import summary_text
from rlreason.policy.tokens import Token
from rlreason.preflight.examine import Preflight
from rlreason.preflight.forecast import total_seconds
from rlreason.report.page import QUIET, counted, line, section
from rlreason.report.text import duration, harmless

_SHOWN_TOKENS = 160
_LINE_ENDS = str.maketrans({"\n": "\u23ce", "\t": "\u21e5"})


def show(found: Preflight, console: Console) -> None:
    """Print all of it."""
    for part in _parts(found):
        console.print(part)


def _parts(found: Preflight) -> Iterator[RenderableType]:
    yield section("Resolved config", "what differs from the defaults; a run keeps all of it in config.yaml")
    differs = found.config.model_dump(mode="json", exclude_defaults=True)
    for row in yaml.safe_dump(differs, sort_keys=False, width=100).splitlines():
        yield Text("  " + harmless(row))
    if found.plan is not None:
        yield section("Plan", found.plan.name)
        yield _table([*found.plan.rows, ("loss", found.plan.loss)])
        for note in found.notes:
            yield line(note, "yellow")
    yield from _tokens(found)
    yield from _lengths(found)
    yield section("Memory")
    yield line(summary_text(found.estimate, found.machine))
    yield from _time(found)
    yield from _verdict(found)


def _tokens(found: Preflight) -> Iterator[RenderableType]:
    yield section("Tokens")
    ends = ", ".join(f"{text!r} ({token})" for token, text in found.eos)
    yield line(f"a turn ends with any of: {ends}")
    begins = {None: "there is none", 0: "not written", 1: "once"}.get(found.begins, f"{found.begins} times")
    yield line(f"beginning-of-sequence token at the start of a prompt: {begins}")
    for title, tokens in found.shown.items():
        yield Text("")
        yield line(title, "bold")
        learned = sum(token.loss for token in tokens)
        yield line(
            f"{counted(len(tokens), 'token')}, of which {learned} carry loss; id and text of each:", QUIET
        )
        for kind, part in _runs(tokens):
            carries = "loss" if part[0].loss else "no loss"
            yield line(
                f"{kind} ({counted(len(part), 'token')}, {carries})", "green" if part[0].loss else QUIET, 4
            )
            yield line(_written(part), "green" if part[0].loss else "", 6)


def _runs(tokens: Sequence[Token]) -> Iterator[tuple[str, list[Token]]]:
    """Neighbours of one kind, learned or not, together."""
    start = 0
    for place in range(1, len(tokens) + 1):
        first = tokens[start]
        if place == len(tokens) or (tokens[place].kind, tokens[place].loss) != (first.kind, first.loss):
            yield first.kind, list(tokens[start:place])
            start = place


def _written(tokens: Sequence[Token]) -> str:
    shown = [f"{token.id}\u00b7{harmless(token.text.translate(_LINE_ENDS))}" for token in tokens]
    if len(shown) > _SHOWN_TOKENS:
        half = _SHOWN_TOKENS // 2
        shown = [*shown[:half], f"[{len(shown) - 2 * half} more]", *shown[-half:]]
    return "  ".join(shown)


def percentile(values: Sequence[int], share: float) -> int:
    """The smallest of the values that `share` of them do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _lengths(found: Preflight) -> Iterator[RenderableType]:
    yield section("Lengths", "in tokens")
    rows = [("prompts", found.prompt_lengths, found.config.prompt.max_tokens)]
    if found.trial is not None:
        rows.append(("completions", found.trial.lengths, found.config.rollout.max_new_tokens))
    table = Table(box=None, padding=(0, 1, 0, 1))
    for heading in ("", "number", "10%", "50%", "90%", "longest", "limit"):
        table.add_column(
            heading, justify="left" if not heading else "right", style=None if heading else QUIET
        )
    for name, lengths, limit in rows:
        cells = [percentile(lengths, share) for share in (0.1, 0.5, 0.9)] if lengths else [0, 0, 0]
        table.add_row(name, *(f"{cell:,}" for cell in (len(lengths), *cells, max(lengths, default=0), limit)))
    yield table
    if found.trial is None:
        return
    trial = found.trial
    where = "" if trial.limit == found.config.rollout.max_new_tokens else ", where sampling was ended here"
    count = counted(len(trial.samples), "completion")
    yield line(f"cut off at {trial.limit:,} tokens{where}: {trial.cut_off:.0%} of {count}")
    if not found.is_start:
        yield line(
            f"of the model as it is now; the stages before {found.config.online_stage} will change that",
            QUIET,
        )


def _time(found: Preflight) -> Iterator[RenderableType]:
    if found.trial is None:
        return
    rates, price = found.trial.rates, found.config.log.price_per_hour
    yield section("Time", "from what a few tokens took")
    sampled = rates.width / rates.token
    yield line(
        f"sampling {sampled:,.0f} tokens/s, {rates.width} completions side by side; updating "
        f"{1 / rates.update_token:,.0f} tokens/s of prompts and completions"
    )
    if not rates.token_exact:
        yield line(
            "the time of a token could not be told more exactly, since more tokens took no longer than a few "
            "(a busy machine, or a limit of very few): sampling is at least as fast as that",
            QUIET,
        )
    rows = [
        (stage.name, f"{'-' if stage.seconds is None else duration(stage.seconds)}  {stage.parts}")
        for stage in found.forecast
    ]
    seconds = total_seconds(found.forecast)
    cost = (
        "" if price is None else f", {seconds / 3600 * price:,.2f} at {price:g} an hour (log.price_per_hour)"
    )
    untold = " and ".join(stage.name for stage in found.forecast if stage.seconds is None)
    label, rest = ("at least", f"; {untold} comes on top") if untold else ("in all", "")
    yield _table([*rows, (label, f"{duration(seconds)}{cost}{rest}")])
    yield line(
        "assumed: completions stay as long as they are now, no round of dynamic sampling, nothing else on "
        "this machine; loading and saving are not counted",
        QUIET,
    )


def _table(rows: Sequence[tuple[str, str]]) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=QUIET, no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(Text(f"  {harmless(label)}"), Text(harmless(value)))
    return table


def _verdict(found: Preflight) -> Iterator[RenderableType]:
    if not found.findings:
        yield section("ok", "nothing to change before this run", "green")
        return
    errors = sum(finding.level == "error" for finding in found.findings)
    warnings = len(found.findings) - errors
    said = [counted(count, what) for count, what in ((errors, "error"), (warnings, "warning")) if count]
    yield section("not ok" if errors else "ok, but", ", ".join(said), "red" if errors else "yellow")
    for finding in found.findings:
        yield line(f"{finding.level}: {finding.text}", "red" if finding.level == "error" else "yellow")
