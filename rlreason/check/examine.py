"""The dry run: every gold answer, then every attack on some of the questions, through the config's rubric."""

from collections.abc import Sequence
from dataclasses import dataclass

from rewards import SPECS, RubricScore, Score, TagSpec
from rewards.attacks import Hit, Hole, Trial, Verdict, judge, sorted_holes, summed_up, targets, try_all
from rewards.hacks import ANOTHER
from rlreason.check.golds import REASONING, Golds, examine_golds
from rlreason.config import RunConfig
from rlreason.scoring import Scorer, stand_in_ids, without_own_model
from rlreason.tasks import TaskData, load_tasks
from rlreason.types import Example

TOTAL = "total"
BY_LOT = "random"
_CHARACTERS_PER_TOKEN = 4
_SLACK = 1e-9


@dataclass(frozen=True)
class RewardReport:
    """One reward of the rubric. `open` holes pay: in the total, or in the measure of evaluation (`is_main`).

    `closed` are those that pay nothing, because a gate is shut or the weight is 0.
    """

    verdict: Verdict
    weight: float
    gate: str | None
    is_main: bool
    open: tuple[Hole, ...]
    closed: tuple[Hole, ...]


@dataclass(frozen=True)
class CheckReport:
    """All that a check has found.

    `total` says which attacks earn as much in total as the right answer; it is None where no reward that is
    paid judges answers, or one is drawn by lot. `beside` are those of its holes that no open hole of a single
    reward explains: what is paid for something else outweighs the answer. `is_whole` is False where a reward
    was left out that the run has yet to learn.
    """

    config: RunConfig
    data: TaskData
    golds: Golds
    trial: Trial
    rewards: list[RewardReport]
    total: Verdict | None
    is_whole: bool = True

    @property
    def golds_fail(self) -> bool:
        return self.golds.too_many(self.config.task.max_unreadable)

    @property
    def beside(self) -> tuple[Hole, ...]:
        known = {id(hit.shot) for reward in self.rewards for hole in reward.open for hit in hole.hits}
        holes = self.total.holes if self.total else ()
        return sorted_holes([hit for hole in holes for hit in hole.hits if id(hit.shot) not in known])

    @property
    def holes(self) -> int:
        """How many holes pay."""
        return sum(len(report.open) for report in self.rewards) + len(self.beside)

    @property
    def sound(self) -> bool:
        return not self.golds_fail and not self.holes


def check(config: RunConfig, *, questions: int = 20) -> CheckReport:
    """Dry-run the rewards of a config on its own questions: all golds, and attacks on `questions` of them.

    A reward that the run has yet to learn is left out. Raises UserError for rewards or questions that cannot
    be had or do not fit together.
    """
    asked, config = config, without_own_model(config)
    with Scorer(config) as scorer:
        data = load_tasks(config.task, seed=config.seed, eval_questions=config.eval.questions)
        _try_two(config, scorer, data)
        golds = examine_golds(config, scorer, data)
        examples = _to_attack(golds, SPECS[config.prompt.format], questions)
        trial = _attack(config, scorer, examples)
    names = list(trial.right[0].parts) if trial.right else []
    reports = [_report(config, scorer.main, trial, name) for name in names]
    total = _total(config, scorer.main, trial, reports)
    return CheckReport(config, data, golds, trial, reports, total, is_whole=asked is config)


def _try_two(config: RunConfig, scorer: Scorer, data: TaskData) -> None:
    """Score two right answers: a reward that is broken fails on them, too, and they cost little time.

    A batch function that never comes back has the time of all its completions, and there may be many golds.
    """
    spec = SPECS[config.prompt.format]
    first = [example for example in data.train if _fits(spec, example.answer)][:2]
    texts = [spec.render(REASONING, example.answer) for example in first]
    scorer.check(_score(scorer, first, texts))


def _score(scorer: Scorer, examples: Sequence[Example], completions: Sequence[str]) -> list[RubricScore]:
    ids = [stand_in_ids(text, len(text) // _CHARACTERS_PER_TOKEN) for text in completions]
    return scorer.score(examples, completions, [""] * len(completions), ids)


def _attack(config: RunConfig, scorer: Scorer, examples: Sequence[Example]) -> Trial:
    spec = SPECS[config.prompt.format]

    def score(rows: Sequence[int], completions: list[str]) -> list[RubricScore]:
        return _score(scorer, [examples[row] for row in rows], completions)

    found = targets(
        [example.question for example in examples],
        [example.answer for example in examples],
        [_options(example) for example in examples],
    )
    return try_all(found, score, spec)


def _to_attack(golds: Golds, spec: TagSpec, count: int) -> list[Example]:
    """Up to `count` questions whose gold can be written, with as many different golds as there are.

    Those whose gold earns 1 come first: what an attack earns is measured by what the right answer earns.
    """
    others = [*golds.untried, *(problem.example for problem in golds.unpaid)]
    usable = [example for example in golds.good or others if _fits(spec, example.answer)]
    first: dict[str, Example] = {}
    for example in usable:
        first.setdefault(example.answer, example)
    chosen = list(first.values())[:count]
    taken = {id(example) for example in chosen}
    return chosen + [example for example in usable if id(example) not in taken][: count - len(chosen)]


def _fits(spec: TagSpec, answer: str) -> bool:
    try:
        spec.render(REASONING, answer)
    except ValueError:
        return False
    return True


def _options(example: Example) -> tuple[str, ...]:
    """What the question lets one choose from, if its row says so in a way that holds the gold answer."""
    for name in ("options", "choices"):
        options = example.metadata.get(name)
        if isinstance(options, list | tuple) and example.answer in map(str, options):
            return tuple(map(str, options))
    return ()


def _report(config: RunConfig, main: str, trial: Trial, name: str) -> RewardReport:
    term = config.rewards.get(name)
    weight, gate = (term.weight, term.gate) if term else (0.0, None)
    verdict = judge(trial, name, judges=True if name == main else None)

    def pays(hit: Hit) -> bool:
        # Behind a negative weight what is paid costs, but a failure escapes the cost.
        counts = weight > 0 or (weight < 0 and hit.score.failed)
        return name == main or (counts and _is_open(config, gate, hit.shot.score))

    hits = [hit for hole in verdict.holes for hit in hole.hits]
    return RewardReport(
        verdict,
        weight,
        gate,
        name == main,
        sorted_holes([hit for hit in hits if pays(hit)]),
        sorted_holes([hit for hit in hits if not pays(hit)]),
    )


def _is_open(config: RunConfig, gate: str | None, score: RubricScore) -> bool:
    """Whether a gate, and all that it stands behind, has full marks."""
    while gate is not None:
        value = score.parts[gate].value
        if value is None or value < 1:
            return False
        gate = config.rewards[gate].gate
    return True


def _total(config: RunConfig, main: str, trial: Trial, reports: Sequence[RewardReport]) -> Verdict | None:
    """Whether an attack earns as much in total as the right answer to the same question.

    There is nothing to say where only built-in rewards are paid that do not judge answers (their authors know
    it; of a user's own reward that is a hole), and where the total is drawn by lot.
    """
    paying = [report for report in reports if report.weight != 0]
    judged = any(report.verdict.judges or ":" in report.verdict.name for report in paying)
    by_lot = config.rewards.get(BY_LOT)
    if not judged or (by_lot is not None and by_lot.weight != 0):
        return None
    right = [_in_total(score) for score in trial.right]
    wrong = [_in_total(shot.score) for shot in trial.shots if shot.attack.name == ANOTHER]
    tried = []
    for shot in trial.shots:
        own, full = _in_total(shot.score), right[shot.row].value
        known = (trial.right[shot.row].parts[main].value or 0.0) >= 1
        as_much = own.value is not None and full is not None and own.value >= full - _SLACK
        tried.append((Hit(shot, own), known and as_much))
    return summed_up(TOTAL, True, right, wrong, tried)


def _in_total(score: RubricScore) -> Score:
    said = [f"{name} {part.value:g}" for name, part in score.parts.items() if part.value is not None]
    return Score(score.total, ", ".join(said))
