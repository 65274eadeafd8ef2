"""attack: does a reward pay for what deserves nothing?

    from rewards.attacks import attack
    print(attack("my_rewards.py:my_reward"))

Every attack of `rewards.hacks` is tried on every question; what was paid is sorted by the hole that it shows.
The yardsticks come from the reward itself: what it gives for the known right answer, and what it gives for a
plain wrong answer in the asked form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from rewards.adapt import as_reward
from rewards.base import Reward
from rewards.hacks import (
    ANOTHER,
    AS_A_PATTERN,
    BOMB,
    THINK,
    Attack,
    attacks,
    kind_of,
    same_answer,
    wrong_answer,
)
from rewards.pool import WorkerPool
from rewards.rubric import Rubric, RubricScore, Term
from rewards.score import Score
from rewards.spec import SPECS, TagSpec

FAILS = "fails on what a policy may write: an error or a time-out is no score"

# Which attacks are paid together tells how a reward reads. (paid, not paid, what it then does)
_IN_REASONING, _BEHIND = "right value in the reasoning, wrong answer", "right value behind a wrong answer"
_OR_FIRST, _OR_LAST, _NOT = "a or b, right first", "a or b, right last", "not the right value"
_TAGGED = "answer tags in the reasoning"
_CAUSES: tuple[tuple[set[str], set[str], str], ...] = (
    ({_IN_REASONING, _OR_FIRST, _OR_LAST, _NOT}, set(), "searches the whole text for the right value"),
    ({_OR_FIRST, _OR_LAST, _NOT}, {_IN_REASONING}, "searches the answer for the right value"),
    ({_OR_LAST, _BEHIND}, {_OR_FIRST}, "takes the last value of the whole text, such as its last number"),
    (
        {_OR_FIRST, _IN_REASONING},
        {_OR_LAST},
        "takes the first value of the whole text, such as its first number",
    ),
    ({_OR_LAST}, {_OR_FIRST, _BEHIND}, "takes the last value of the answer, such as its last number"),
    ({_OR_FIRST}, {_OR_LAST, _IN_REASONING}, "takes the first value of the answer, such as its first number"),
    ({_TAGGED}, {_IN_REASONING}, "takes the first pair of answer tags, wherever it stands"),
    (
        {"a second try, right last"},
        {_OR_FIRST, _OR_LAST, "empty answer"},
        "takes the last pair of answer tags, wherever it stands",
    ),
    ({AS_A_PATTERN}, set(), "uses the gold answer as a regular expression"),
    ({"a pattern that matches everything"}, set(), "uses the answer as a regular expression"),
    ({"an object that equals everything"}, set(), "runs the answer as code"),
    ({"nan"}, set(), "lets nan pass: no comparison with it is true"),
    (
        {"empty answer", "its first character"},
        set(),
        "looks for the answer in the gold, not the other way round",
    ),
    ({ANOTHER}, set(), "takes any answer"),
)

_NO_JUDGES = frozenset({"random", "learned"})
"""Rewards that tell answers apart by lot or by taste: what they pay for says nothing about holes."""
_BOMBED = 2  # questions
_SLACK = 1e-9

ROWS: tuple[Mapping[str, Any], ...] = (
    {"prompt": "What is 4 + 3 + 10?", "answer": "17"},
    {"prompt": "A ticket costs 8 euros. What do 3 tickets and a programme for 4 euros cost?", "answer": "28"},
    {"prompt": "What is 5 - 17?", "answer": "-12"},
    {"prompt": "How much is seven halves?", "answer": "3.5"},
    {"prompt": "How many metres are 1.5 kilometres?", "answer": "1500"},
    {"prompt": "Which is a prime? A) 4 B) 7 C) 9 D) 15", "answer": "B", "answer_type": "choice"},
    {"prompt": "What is the capital of France?", "answer": "Paris"},
    {"prompt": "Write the square root of 12 in its simplest form.", "answer": "2\\sqrt{3}"},
)
"""Questions for a reward that brings none of its own: numbers, a choice, a word, an expression."""


@dataclass(frozen=True)
class Target:
    """A question to attack. `other` is a wrong answer; `partner` the row whose gold that is, if any."""

    question: str
    gold: str
    other: str
    options: tuple[str, ...] = ()
    partner: int | None = None


@dataclass(frozen=True)
class Shot:
    """One attack on the question of one row, and its score."""

    row: int
    attack: Attack
    score: RubricScore


@dataclass(frozen=True)
class Trial:
    """The scores of the known right answers, one a target, and those of all attacks."""

    targets: Sequence[Target]
    right: Sequence[RubricScore]
    shots: Sequence[Shot]


@dataclass(frozen=True)
class Hit:
    """A shot that shows a hole, and what the reward in question said of it."""

    shot: Shot
    score: Score


@dataclass(frozen=True)
class Hole:
    """What a reward does wrong, in words, and the attacks that show it, the best paid first."""

    hole: str
    hits: tuple[Hit, ...]

    @property
    def attacks(self) -> list[str]:
        """The names of the attacks, each once."""
        return list(dict.fromkeys(hit.shot.attack.name for hit in self.hits))

    @property
    def rows(self) -> set[int]:
        """The rows on whose questions one of them was paid."""
        return {hit.shot.row for hit in self.hits}

    @property
    def most(self) -> float:
        """The highest value that was paid; 0 for failures."""
        return max(hit.score.value or 0.0 for hit in self.hits)


@dataclass(frozen=True)
class Verdict:
    """What a trial on `rows` questions says of one reward.

    `judges` is whether the reward tells right answers from wrong ones; only then can it have holes. `right`
    and `wrong` are the mean values of the known right answers and of plain wrong ones in the asked form, None
    where it never gave one. `paid` is how many of the `tried` kinds of attack earned more than 0 somewhere.
    """

    name: str
    judges: bool
    right: float | None
    wrong: float | None
    paid: int
    tried: int
    rows: int
    holes: tuple[Hole, ...]

    @property
    def causes(self) -> list[str]:
        """What the reward seems to do, told from which attacks are paid together."""
        hits = [hit for hole in self.holes for hit in hole.hits]
        paid = {hit.shot.attack.name for hit in hits if not hit.score.failed}
        return [text for needed, absent, text in _CAUSES if needed <= paid and not absent & paid]

    def __str__(self) -> str:
        if not self.judges:
            right, wrong = ("None" if mean is None else f"{mean:g}" for mean in (self.right, self.wrong))
            return f"{self.name}: does not judge answers: {right} for right ones, {wrong} for wrong ones"
        counts = f"{self.tried} attacks on {self.rows} questions"
        if not self.holes:
            return f"{self.name}: no hole found by {counts}"
        lines = [f"{self.name}: {len(self.holes)} holes found by {counts}"]
        lines += [f"  It seems that it {cause}." for cause in self.causes]
        for hole in self.holes:
            best = hole.hits[0]
            lines.append(f"- {hole.hole}")
            lines.append(
                f"    paid up to {hole.most:g} on {len(hole.rows)} questions for: {'; '.join(hole.attacks)}"
            )
            lines.append(f"    such as {best.shot.attack.text!r:.200}: {best.score.reason}")
        return "\n".join(lines)


def attack(
    reward: Reward | Callable[..., Any] | str,
    rows: Sequence[Mapping[str, Any]] = ROWS,
    *,
    spec: TagSpec = SPECS["think_answer"],
    seconds: float = 10.0,
) -> Verdict:
    """Try every attack on one reward and say which holes it has.

    `reward` is a registered name or an import path, or a reward, or a function as `as_reward` takes it. What
    is named by path runs in worker processes, where a completion may take `seconds`; a function runs here,
    and nothing stops it. `rows` are questions: mappings with `answer`, best also `prompt` (text or messages)
    and `options`, and whatever columns the reward reads. Raises ValueError for a row without an answer, and
    where the reward fails on all the right answers.
    """
    for number, row in enumerate(rows):
        if row.get("answer") is None:
            raise ValueError(f"row {number} has no answer: every row needs its gold answer to be attacked")
    with WorkerPool() as pool:
        if isinstance(reward, str):
            term = Term(reward, pool.reward(reward, None, spec), seconds=seconds)
        else:
            own = as_reward(reward).with_spec(spec)
            term = Term(own.__name__, own)
        trial = _on_rows(Rubric([term]), rows, spec)
    said = [right.parts[term.name] for right in trial.right]
    if all(part.failed for part in said):
        raise ValueError(
            f"reward {term.name!r} fails on the right answers: {said[0].reason}\n{said[0].trace}"
        )
    return judge(trial, term.name)


def _on_rows(rubric: Rubric, rows: Sequence[Mapping[str, Any]], spec: TagSpec) -> Trial:
    names = dict.fromkeys(name for row in rows for name in row)

    def score(chosen: Sequence[int], completions: list[str]) -> list[RubricScore]:
        columns = {name: [rows[row].get(name) for row in chosen] for name in names}
        return rubric.score(completions, columns={"solution": columns["answer"], **columns})

    questions = [_question(row.get("prompt", "")) for row in rows]
    options = [tuple(map(str, row.get("options") or ())) for row in rows]
    return try_all(targets(questions, [str(row["answer"]) for row in rows], options), score, spec)


def _question(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return next((m["content"] for m in reversed(prompt) if m.get("role") == "user"), "")


def targets(
    questions: Sequence[str], golds: Sequence[str], options: Sequence[tuple[str, ...]]
) -> list[Target]:
    """Give each question a wrong answer: the next gold of its kind that is another, else a made-up one."""
    found = []
    for row, (question, gold, choices) in enumerate(zip(questions, golds, options, strict=True)):
        partner = None
        if not choices:
            following = [*range(row + 1, len(golds)), *range(row)]
            of_a_kind = (n for n in following if kind_of(golds[n]) == kind_of(gold))
            partner = next((n for n in of_a_kind if not same_answer(gold, golds[n])), None)
        other = wrong_answer(gold, choices) if partner is None else golds[partner]
        found.append(Target(question, gold, other, choices, partner))
    return found


def try_all(
    found: Sequence[Target],
    score: Callable[[Sequence[int], list[str]], list[RubricScore]],
    spec: TagSpec,
) -> Trial:
    """Score the right answers, then every attack; `score` takes row numbers and their completions.

    One call an attack: a batch function that fails on one attack is then known by it. What only costs time
    does not depend on the question, and is tried on two.
    """
    right = score(range(len(found)), [spec.render(THINK, target.gold) for target in found])
    volleys: dict[str, list[tuple[int, Attack]]] = {}
    for row, target in enumerate(found):
        for one in attacks(
            question=target.question, gold=target.gold, other=target.other, options=target.options, spec=spec
        ):
            if one.hole != BOMB or row < _BOMBED:
                volleys.setdefault(one.name, []).append((row, one))
    shots: list[Shot] = []
    for volley in volleys.values():
        scores = score([row for row, _ in volley], [one.text for _, one in volley])
        shots += [Shot(row, one, said) for (row, one), said in zip(volley, scores, strict=True)]
    return Trial(found, right, shots)


def judge(trial: Trial, name: str, *, judges: bool | None = None) -> Verdict:
    """Say what the reward `name` did in a trial; `judges` says whether it has to know right from wrong.

    Unless told, that is found out: the same completion must earn more for the question that it answers than
    for another one. What shows a hole is set by each attack (`Attack.bar`); a failure always does.
    """
    right = [score.parts[name] for score in trial.right]
    wrong = {shot.row: shot.score.parts[name] for shot in trial.shots if shot.attack.name == ANOTHER}
    if judges is None:
        judges = name not in _NO_JUDGES and _tells_apart(trial, right, wrong)
    tried: list[tuple[Hit, bool]] = []
    for shot in trial.shots:
        said = shot.score.parts[name]
        if shot.attack.bar == "anything":
            paid = _above(said, wrong[shot.row])
        else:
            paid = _reaches(said, right[shot.row])
        tried.append((Hit(shot, said), paid))
    return summed_up(name, judges, right, list(wrong.values()), tried)


def summed_up(
    name: str,
    judges: bool,
    right: Sequence[Score],
    wrong: Sequence[Score],
    tried: Sequence[tuple[Hit, bool]],
) -> Verdict:
    """The verdict over all shots, each with whether it was paid what shows a hole."""
    shots: dict[str, int] = {}
    paid: dict[str, list[Hit]] = {}
    for hit, is_paid in tried:
        kind = hit.shot.attack.name
        shots[kind] = shots.get(kind, 0) + 1
        if is_paid or hit.score.failed:
            paid.setdefault(kind, []).append(hit)
    hits = [
        hit
        for kind, found in paid.items()
        for hit in found
        if hit.score.failed or hit.shot.attack.bar != "mostly" or 2 * len(found) > shots[kind]
    ]
    earning = {hit.shot.attack.name for hit, _ in tried if (hit.score.value or 0.0) > 0}
    holes = sorted_holes(hits) if judges else ()
    return Verdict(name, judges, mean(right), mean(wrong), len(earning), len(shots), len(right), holes)


def sorted_holes(hits: Sequence[Hit]) -> tuple[Hole, ...]:
    """Gather hits by the hole that they show, the widest hole first."""
    by_hole: dict[str, list[Hit]] = {}
    for hit in hits:
        by_hole.setdefault(FAILS if hit.score.failed else hit.shot.attack.hole, []).append(hit)
    holes = [
        Hole(hole, tuple(sorted(found, key=lambda hit: -(hit.score.value or 0.0))))
        for hole, found in by_hole.items()
    ]
    return tuple(sorted(holes, key=lambda hole: (-hole.most, -len(hole.hits))))


def _tells_apart(trial: Trial, right: Sequence[Score], wrong: Mapping[int, Score]) -> bool:
    """Whether the same text earns more under the question that it answers than under another one."""
    better = worse = 0
    for row, target in enumerate(trial.targets):
        own, foreign = right[row if target.partner is None else target.partner].value, wrong[row].value
        if own is not None and foreign is not None:
            better += own > foreign + _SLACK
            worse += own < foreign - _SLACK
    return better > 0 and 4 * worse <= better


def _above(said: Score, wrong: Score) -> bool:
    return said.value is not None and said.value > max(0.0, wrong.value or 0.0) + _SLACK


def _reaches(said: Score, right: Score) -> bool:
    full = 1.0 if right.value is None or right.value <= 0 else right.value
    return said.value is not None and said.value >= full - _SLACK


def mean(scores: Sequence[Score]) -> float | None:
    """The mean of the values that were given, None where none was."""
    values = [score.value for score in scores if score.value is not None]
    return fmean(values) if values else None
