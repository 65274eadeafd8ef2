"""`python -m rlreason rescore RUN --config NEW`: saved completions under changed rewards."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from rewards import REWARDS, Rubric, RubricScore, Score, Term
from rlreason.config import RunConfig, load
from rlreason.errors import UserError
from rlreason.report.page import QUIET, Completion, counted, line, section
from rlreason.report.text import harmless, one_line
from rlreason.runs.jsonl import check_new, write_new
from rlreason.scoring import Scorer, stand_in_ids
from rlreason.tasks import load_tasks
from rlreason.types import Example

_FIELDS = {"question": str, "answer": str, "prefill": str, "text": str, "tokens": int, "scores": dict}
_SAID = {"value": int | float | None, "reason": str, "failed": bool}
_OLDER = {"failed": False}  # what a line without it means
_MOST_TOKENS = 10_000_000
_KEPT = ("stage", "step", "group", "question", "answer", "prefill", "text", "finish_reason", "tokens")
_SHOWN_NOTES = 5
_SLACK = 1e-9


@dataclass(frozen=True)
class Sample:
    """One saved completion: the number of its line in `samples.jsonl`, and what that holds."""

    line: int
    record: Mapping[str, Any]

    @property
    def scores(self) -> dict[str, Score]:
        """What each reward said of it in the run."""
        said = self.record["scores"]
        return {
            name: Score(score["value"], score["reason"], score.get("failed", False))
            for name, score in said.items()
        }


@dataclass(frozen=True)
class Rescored:
    """One completion under the old and the new rewards."""

    sample: Sample
    old: Mapping[str, Score]
    new: Mapping[str, Score]
    old_total: float | None
    new_total: float | None

    @property
    def changed(self) -> list[str]:
        """The rewards of both whose value is another now."""
        both = [name for name in self.old if name in self.new]
        return [name for name in both if _differ(self.old[name].value, self.new[name].value)]

    @property
    def total_changed(self) -> bool:
        return _differ(self.old_total, self.new_total)


def rescore(run: Path, config: RunConfig) -> tuple[list[Rescored], list[str]]:
    """Score the completions in a run's `samples.jsonl` by the rewards of `config`; nothing is written.

    The questions, with all their columns, are loaded again from the run's own config. Returns the completions
    in their order, and notes on what could not be used. Raises UserError where `run` is no run directory or
    holds no completion, and as `Scorer` does.
    """
    before = _config_of(run)
    samples, notes = read_samples(run / "samples.jsonl", tuple(before.rewards))
    known, missing = _questions(before)
    unknown = sum(_key(sample) not in known for sample in samples)
    if unknown:
        notes.append(
            f"{counted(unknown, 'completion')} to questions that the run's config does not give again"
            f"{missing}: rewards see question and answer only"
        )
    examples = [known.get(_key(sample)) or _bare(sample) for sample in samples]
    with Scorer(config) as scorer:
        # A step at a time, as in training: the limit on failures is one of a step.
        steps = groupby(range(len(samples)), lambda row: samples[row].record.get("step"))
        scores = [score for _, rows in steps for score in _score(scorer, samples, examples, list(rows))]
    totals = _totals(before)
    return [
        Rescored(sample, sample.scores, score.parts, totals.add_up(sample.scores).total, score.total)
        for sample, score in zip(samples, scores, strict=True)
    ], notes


def _score(
    scorer: Scorer, samples: Sequence[Sample], examples: Sequence[Example], rows: Sequence[int]
) -> list[RubricScore]:
    records = [samples[row].record for row in rows]
    scores = scorer.score(
        [examples[row] for row in rows],
        [record["text"] for record in records],
        [record["prefill"] for record in records],
        [stand_in_ids(record["text"], record["tokens"]) for record in records],  # only their number is saved
    )
    scorer.check(scores)
    return scores


def _totals(config: RunConfig) -> Rubric:
    """The rubric of a config to add saved scores up with; its rewards are never called."""
    unused = REWARDS["think_format"]
    return Rubric(
        [Term(name, unused, term.weight, term.gate, term.clip) for name, term in config.rewards.items()]
    )


def _config_of(run: Path) -> RunConfig:
    if not (run / "config.yaml").is_file() or not (run / "samples.jsonl").is_file():
        raise UserError(
            f"{run}: is no run directory with completions (config.yaml and samples.jsonl); give one, such as "
            "runs/quickstart"
        )
    return load(run / "config.yaml")


def read_samples(path: Path, rewards: Sequence[str]) -> tuple[list[Sample], list[str]]:
    """Read saved completions; a line that holds none, with scores of `rewards`, is left out and noted.

    Raises UserError where the file cannot be read or no line can be used.
    """
    samples, notes = [], []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        problem, record = _parse(text, rewards)
        if problem:
            notes.append(f"{path}, line {number}: {problem}; it is left out")
        else:
            samples.append(Sample(number, record))
    if not samples:
        reason = f": {notes[0]}" if notes else ""
        raise UserError(f"{path}: holds no completion{reason}; give a run that has done a step of grpo")
    return samples, notes


def _parse(text: bytes, rewards: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The problem of a line, "" for none, and its record."""
    try:
        record = json.loads(text, parse_constant=_number_in, parse_float=_number_in, parse_int=_number_in)
    except (ValueError, RecursionError) as error:
        return (str(error) if isinstance(error, _NoNumberError) else "is no JSON"), {}
    if not isinstance(record, dict):
        return "is no record", {}
    for name, kind in _FIELDS.items():
        if not isinstance(record.get(name), kind) or isinstance(record[name], bool):
            return f"has no {name}", {}
    if not 0 <= record["tokens"] <= _MOST_TOKENS:
        return f"has {record['tokens']} tokens", {}
    for name in {*rewards, *record["scores"]}:
        said = record["scores"].get(name)
        if not isinstance(said, dict) or not all(_fits(said, key) for key in _SAID):
            return f"has no score of {name}", {}
    return "", record


def _fits(said: Mapping[str, Any], key: str) -> bool:
    value = said.get(key, _OLDER.get(key))
    return isinstance(value, _SAID[key]) and (key == "failed" or not isinstance(value, bool))


class _NoNumberError(ValueError):
    """A number that cannot be a value, in words."""


def _number_in(text: str) -> int | float:
    """What a number in JSON says. Raises _NoNumberError for NaN, infinity, and what no float can hold."""
    if not math.isfinite(float(text)):  # reads "1e999" and 400 digits as infinity
        raise _NoNumberError(f"holds the number {text[:20]}{'...' if len(text) > 20 else ''}")
    return int(text) if text.removeprefix("-").isdecimal() else float(text)


def _questions(config: RunConfig) -> tuple[dict[tuple[str, str], Example], str]:
    """The run's questions by text and gold, and, where they cannot be had, why in brackets."""
    try:
        data = load_tasks(config.task, seed=config.seed, eval_questions=config.eval.questions)
    except UserError as error:
        return {}, f" ({error})"
    return {(example.question, example.answer): example for example in data.train}, ""


def _key(sample: Sample) -> tuple[str, str]:
    return sample.record["question"], sample.record["answer"]


def _bare(sample: Sample) -> Example:
    return Example([{"role": "user", "content": sample.record["question"]}], sample.record["answer"])


def _differ(old: float | None, new: float | None) -> bool:
    if old is None or new is None:
        return old is not new
    return abs(old - new) > _SLACK


def out_path(run: Path, out: str | None) -> Path:
    """The new file to write: `out`, else the first free one of `rescored.jsonl`, `rescored-2.jsonl`, ...

    Raises UserError where `out` is there already, or its folder is not.
    """
    if out is None:
        names = (f"rescored-{number}.jsonl" if number > 1 else "rescored.jsonl" for number in count(1))
        return next(run / name for name in names if not (run / name).exists())
    check_new(Path(out), field="--out")
    return Path(out)


def write(rescored: Sequence[Rescored], path: Path) -> None:
    """Write one JSON line a completion to a new file: all of it, or no file. Nothing is overwritten.

    Raises UserError where that cannot be.
    """
    write_new(path, map(_record, rescored), field="--out")


def _record(one: Rescored) -> dict[str, Any]:
    def side(scores: Mapping[str, Score], name: str) -> dict[str, Any] | None:
        score = scores.get(name)
        return None if score is None else {"value": score.value, "reason": score.reason}

    record = one.sample.record
    return {
        "line": one.sample.line,
        **{name: record[name] for name in _KEPT if name in record},
        "total": {"old": one.old_total, "new": one.new_total},
        "scores": {
            name: {"old": side(one.old, name), "new": side(one.new, name)} for name in {**one.old, **one.new}
        },
        "changed": one.changed + (["total"] if one.total_changed else []),
    }


def show(rescored: Sequence[Rescored], notes: Sequence[str], console: Console, *, examples: int) -> None:
    """Print what changed, reward by reward, then the `examples` completions whose total changed most."""
    for part in _parts(rescored, notes, examples):
        console.print(part)


def _parts(rescored: Sequence[Rescored], notes: Sequence[str], examples: int) -> Iterator[RenderableType]:
    changed = [one for one in rescored if one.changed or one.total_changed]
    yield section("Rescored", f"{counted(len(rescored), 'completion')}, {len(changed):,} of them changed")
    for note in notes[:_SHOWN_NOTES]:
        yield line(note, "yellow")
    if len(notes) > _SHOWN_NOTES:
        yield line(f"and {len(notes) - _SHOWN_NOTES:,} notes more", "yellow")
    yield _table(rescored)
    yield line("before, now: mean values; to and from an abstention is neither up nor down", QUIET)
    changed.sort(key=_size, reverse=True)
    if changed and examples:
        yield section("Changes", f"the largest {min(examples, len(changed))}")
    for one in changed[:examples]:
        yield from _example(one)


def _table(rescored: Sequence[Rescored]) -> RenderableType:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), border_style=QUIET)
    table.add_column("reward", overflow="fold")
    for heading in ("before", "now", "changed", "up", "down"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in dict.fromkeys(name for one in rescored for name in (*one.old, *one.new)):
        old = [one.old[name].value for one in rescored if name in one.old]
        new = [one.new[name].value for one in rescored if name in one.new]
        both = [
            (one.old[name].value, one.new[name].value)
            for one in rescored
            if name in one.old and name in one.new
        ]
        table.add_row(Text(harmless(name)), _mean(old), _mean(new), *_moves(both, "new" if new else "gone"))
    table.add_section()
    totals = [(one.old_total, one.new_total) for one in rescored]
    table.add_row(
        "total", _mean([old for old, _ in totals]), _mean([new for _, new in totals]), *_moves(totals, "")
    )
    return table


def _mean(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):.3f}" if known else "-"


def _moves(pairs: Sequence[tuple[float | None, float | None]], without: str) -> tuple[str, str, str]:
    """How many values changed, rose and fell. To and from an abstention is a change in neither direction."""
    if not pairs:
        return without, "", ""
    changed = [(old, new) for old, new in pairs if _differ(old, new)]
    up = sum(old is not None and new is not None and new > old for old, new in changed)
    down = sum(old is not None and new is not None and new < old for old, new in changed)
    return f"{len(changed):,}", f"{up:,}", f"{down:,}"


def _size(one: Rescored) -> float:
    """How much a total changed; first those that are an abstention on one side."""
    if one.old_total is None or one.new_total is None:
        return math.inf if one.total_changed else 0.0
    return abs(one.new_total - one.old_total)


def _example(one: Rescored) -> Iterator[RenderableType]:
    record = one.sample.record
    yield Text("")
    place = f"line {one.sample.line}, step {record.get('step', '-')}: {one_line(record['question'], 120)}"
    yield line(f"{place} (gold {one_line(record['answer'], 60)})")
    yield Completion(record["text"], indent=4)
    for name in {**one.old, **one.new}:
        old, new = one.old.get(name), one.new.get(name)
        if old is None or new is None or name in one.changed:
            values = f"{_shown(old)} -> {_shown(new)}"
            reasons = " -> ".join(one_line(score.reason, 100) for score in (old, new) if score is not None)
            yield line(f"{name} {values}: {reasons}", indent=4)
    if one.total_changed:
        yield line(f"total {_number(one.old_total)} -> {_number(one.new_total)}", "bold", indent=4)


def _shown(score: Score | None) -> str:
    return "not asked" if score is None else _number(score.value)


def _number(value: float | None) -> str:
    return "abstained" if value is None else f"{value:.3g}"
