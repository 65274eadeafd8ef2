"""The questions of a run: which ones train, which ones are held out."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rlreason.errors import UserError
from rlreason.seeds import derive_seed
from rlreason.tasks.examples import prompt_messages, to_examples
from rlreason.tasks.generated import Generator
from rlreason.tasks.questions import question_key
from rlreason.tasks.tables import read_dataset, read_file
from rlreason.types import Example

# So many draws in a row without a new question mean that a generator has hardly any left.
PATIENCE = 1000


class ColumnNames(Protocol):
    """Names of the columns with the question and the gold answer."""

    @property
    def prompt(self) -> str: ...
    @property
    def answer(self) -> str: ...


class TaskConfig(Protocol):
    """What this room reads of the config's section `task`."""

    @property
    def source(self) -> Literal["reasoning_gym", "file", "dataset"]: ...
    @property
    def name(self) -> str: ...
    @property
    def params(self) -> dict[str, Any]: ...
    @property
    def subset(self) -> str | None: ...
    @property
    def split(self) -> str: ...
    @property
    def eval_name(self) -> str | None: ...
    @property
    def eval_split(self) -> str | None: ...
    @property
    def columns(self) -> ColumnNames: ...
    @property
    def train_size(self) -> int: ...


@dataclass(frozen=True)
class TaskData:
    """Questions to train on and questions to measure by; no question is in both (see `question_key`).

    `report` counts what happened on the way: `read` (rows or draws), `duplicates` dropped, `in_held_out`
    (met for training, but held out, so dropped), `unused` (beyond what was asked for), `without_gold`
    (generated questions that only their verifier can judge), `train`, `held_out`.
    """

    train: list[Example]
    held_out: list[Example]
    report: dict[str, int]

    def __post_init__(self) -> None:
        shared = {question_key(example) for example in self.train}
        shared &= {question_key(example) for example in self.held_out}
        if shared:
            raise AssertionError(f"{len(shared)} questions are both trained on and held out: {min(shared)!r}")


def load_tasks(task: TaskConfig, *, seed: int, eval_questions: int) -> TaskData:
    """Load the questions of a run: at most `task.train_size` to train on and `eval_questions` held out.

    The held-out questions do not depend on the run's seed, nor on `train_size`, so that runs of one config
    stay comparable: generated ones are drawn first, from a seed of their own, and the training questions,
    drawn from the run's seed, leave them out. Without a held-out file or split of its own, a table gives
    away the `eval_questions` questions whose text hashes lowest; rows added later change few of them.
    A held-out table with fewer than `eval_questions` questions is used whole. Training questions of a table
    are taken in an order that the seed decides.

    Raises UserError for anything in the config or the data that cannot be used, among it a generator with
    too few different questions, and a table of which less would be left to train on than is held out.
    """
    if task.source == "reasoning_gym":
        return _generate(task, seed, eval_questions)
    return _read(task, seed, eval_questions)


def _generate(task: TaskConfig, seed: int, eval_questions: int) -> TaskData:
    generator = Generator(task.name, task.params)
    draws = _Draws(generator)
    held_out = draws.distinct(generator.entries("held-out"), eval_questions)
    apart = frozenset(map(question_key, held_out))
    train = draws.distinct(generator.entries("train", seed), task.train_size, apart=apart)
    return TaskData(
        train,
        held_out,
        {
            "read": draws.read,
            "duplicates": draws.duplicates,
            "in_held_out": draws.in_held_out,
            "unused": 0,
            "without_gold": sum(not example.answer for example in [*train, *held_out]),
            "train": len(train),
            "held_out": len(held_out),
        },
    )


class _Draws:
    """Draws different questions and counts what it saw."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.read = self.duplicates = self.in_held_out = 0

    def distinct(
        self, entries: Iterator[dict[str, Any]], wanted: int, *, apart: frozenset[str] = frozenset()
    ) -> list[Example]:
        """Take `wanted` questions that differ from each other and from those `apart`."""
        found: dict[str, Example] = {}
        in_vain = 0
        while len(found) < wanted:
            example = self._generator.example(next(entries))
            key = question_key(example)
            self.read += 1
            in_vain += 1
            if key in apart:
                self.in_held_out += 1
            elif key in found:
                self.duplicates += 1
            else:
                found[key] = example
                in_vain = 0
            if in_vain == PATIENCE:
                beside = f" beside {len(apart)} held-out ones" if apart else " for the held-out set"
                raise UserError(
                    f"task.params: {self._generator.name} has too few different questions with these params: "
                    f"{wanted} are wanted{beside}, and after {len(found)} the next {PATIENCE} draws gave no "
                    "new one; lower task.train_size or eval.questions, or widen the parameters"
                )
        return list(found.values())


def _read(task: TaskConfig, seed: int, eval_questions: int) -> TaskData:
    read = _table(task, task.name, task.split, "task.name")
    own = _own_held_out(task)
    candidates = _distinct(read)
    askable = candidates if own is None else _distinct(own)
    apart = _first_by_hash(askable, eval_questions, "held-out")
    free = {key: example for key, example in candidates.items() if key not in apart}
    if own is None:
        _check_enough(task, len(free), len(candidates), eval_questions)
    elif not free:
        raise UserError(f"task.name: every question of {task.name} is also held out; give others to train on")
    train = _first_by_hash(free, task.train_size, "train", seed)
    return TaskData(
        list(train.values()),
        list(apart.values()),
        {
            "read": len(read) + len(own or []),
            "duplicates": len(read) - len(candidates) + len(own or []) - (len(askable) if own else 0),
            "in_held_out": len(candidates) - len(free) if own else 0,
            "unused": len(free) - len(train) + (len(askable) - len(apart) if own else 0),
            "without_gold": 0,
            "train": len(train),
            "held_out": len(apart),
        },
    )


def row_numbers(task: TaskConfig) -> dict[str, str]:
    """Where the owner of a file finds each question: from its `question_key` to "FILE, row N", from 1.

    Of several rows with one question it is the first, as in `load_tasks`. Empty for other sources.
    """
    found: dict[str, str] = {}
    for name in (task.eval_name, task.name) if task.source == "file" else ():
        for number, row in read_file(name, field="task.name") if name else []:
            messages = prompt_messages(row.get(task.columns.prompt))
            if messages is not None:
                found.setdefault(question_key(Example(messages, "")), f"{name}, row {number}")
    return found


def _own_held_out(task: TaskConfig) -> list[Example] | None:
    """The held-out table that the config names, if it names one."""
    if task.eval_name is None and task.eval_split is None:
        return None
    field = "task.eval_split" if task.eval_name is None else "task.eval_name"
    return _table(task, task.eval_name or task.name, task.eval_split or task.split, field)


def _table(task: TaskConfig, name: str, split: str, field: str) -> list[Example]:
    if task.source == "file":
        rows, origin = read_file(name, field=field), f"{field}: {name}"
    else:
        # A subset belongs to the data set it was written for.
        subset = task.subset if name == task.name else None
        rows = read_dataset(name, subset=subset, split=split, field=field)
        origin = f"{field}: data set {name} (split {split})"
    return to_examples(
        rows,
        prompt=task.columns.prompt,
        answer=task.columns.answer,
        origin=origin,
        remedy="Set task.columns.prompt and task.columns.answer to the columns to use",
    )


def _distinct(examples: Iterable[Example]) -> dict[str, Example]:
    """Examples by the key of their question; of several with the same one, the first."""
    found: dict[str, Example] = {}
    for example in examples:
        found.setdefault(question_key(example), example)
    return found


def _first_by_hash(examples: dict[str, Example], count: int, *purpose: int | str) -> dict[str, Example]:
    """The `count` examples whose keys hash lowest: an arbitrary choice that other rows hardly change."""
    order = sorted(examples, key=lambda key: (derive_seed("split", *purpose, key), key))
    return {key: examples[key] for key in order[:count]}


def _check_enough(task: TaskConfig, left: int, total: int, eval_questions: int) -> None:
    if left < max(1, eval_questions):
        most = f"at most {total // 2}" if total > 1 else "0"
        raise UserError(
            f"eval.questions: {eval_questions} of the {total} different questions of {task.name} would be "
            f"held out, which leaves {left} to train on; lower it to {most}, bring more questions, or name a "
            "held-out set in task.eval_name"
        )
