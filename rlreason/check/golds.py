"""Whether the known right answers can be read, and earn full marks of the reward that says what is right."""

from dataclasses import dataclass

from rewards import SPECS, Score, TagSpec
from rewards.quantity import read_quantity
from rewards.text import plain
from rlreason.config import RunConfig
from rlreason.scoring import Scorer
from rlreason.tasks import TaskData, question_key, row_numbers
from rlreason.types import Example

REASONING = "The known right answer."


@dataclass(frozen=True)
class GoldProblem:
    """A gold answer that fails; `where` says which row it is, for the person who keeps the data."""

    where: str
    example: Example
    score: Score


@dataclass(frozen=True)
class Golds:
    """What became of all gold answers.

    `unreadable` are those on which the main reward abstains, `unpaid` those that earn less than 1. `good` are
    the examples whose gold earns 1, training questions first. `untried` are those whose gold is no answer
    text: the generator knows none, or it is a value where an expression is asked for.
    """

    unreadable: list[GoldProblem]
    unpaid: list[GoldProblem]
    untried: list[Example]
    good: list[Example]

    @property
    def total(self) -> int:
        return len(self.unreadable) + len(self.unpaid) + len(self.untried) + len(self.good)

    def too_many(self, max_share: float) -> bool:
        """Whether more fail than a run may leave out (`task.max_unreadable`)."""
        return len(self.unreadable) + len(self.unpaid) > max_share * self.total


def examine_golds(config: RunConfig, scorer: Scorer, data: TaskData) -> Golds:
    """Score a completion that gives the gold answer, for every question."""
    spec = SPECS[config.prompt.format]
    places = [f"training question {n}" for n in range(1, len(data.train) + 1)]
    places += [f"held-out question {n}" for n in range(1, len(data.held_out) + 1)]
    asked = list(zip(places, [*data.train, *data.held_out], strict=True))
    tried = [(place, example) for place, example in asked if _is_answer(scorer.main, example)]
    written = [_write(spec, example) for _, example in tried]
    known, texts = [example for _, example in tried], [text for text, _ in written]
    scores = scorer.score_golds(known, texts) if known else []
    found = Golds([], [], [e for _, e in asked if not _is_answer(scorer.main, e)], [])
    for (place, example), (_, refusal), score in zip(tried, written, scores, strict=True):
        if score.value is None:
            found.unreadable.append(GoldProblem(place, example, score))
        elif score.value < 1:
            said = Score(score.value, refusal) if refusal else score
            found.unpaid.append(GoldProblem(place, example, said))
        else:
            found.good.append(example)
    return _with_rows(found, config)


def _with_rows(golds: Golds, config: RunConfig) -> Golds:
    """Name the rows of a file by their numbers in it; only then is it read a second time."""
    if not golds.unreadable and not golds.unpaid:
        return golds
    rows = row_numbers(config.task)

    def named(problem: GoldProblem) -> GoldProblem:
        where = rows.get(question_key(problem.example), problem.where)
        return GoldProblem(where, problem.example, problem.score)

    return Golds(
        [named(problem) for problem in golds.unreadable],
        [named(problem) for problem in golds.unpaid],
        golds.untried,
        golds.good,
    )


def _is_answer(main: str, example: Example) -> bool:
    """Whether the gold is something that a completion could give as its answer."""
    if main == "accuracy":
        return True
    if main == "countdown":  # it asks for an expression, and data may hold the value that this has to reach
        return read_quantity(plain(example.answer)) is None
    return bool(example.answer.strip())


def _write(spec: TagSpec, example: Example) -> tuple[str, str]:
    """The completion that gives the gold answer and "", or "" and why there is none."""
    try:
        return spec.render(REASONING, example.answer), ""
    except ValueError as error:
        return "", str(error)
