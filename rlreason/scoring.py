"""The rubric of a config, applied to examples: one scorer for training and for evaluation."""

import os
import zlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rewards import SPECS, PooledReward, Rubric, RubricScore, Score, TagSpec, Term, WorkerPool
from rewards.pool import cores
from rlreason.config import RunConfig
from rlreason.config.data import RewardConfig
from rlreason.errors import UserError
from rlreason.tasks import TaskData
from rlreason.types import Example

FORMAT = "think_format"
LEARNED = "learned"
_SHOWN_GOLDS = 3
_RESERVED = frozenset({"completions", "completion_ids", "prompts", "prefill", "answer", "answer_type"})


class Scorer:
    """Scores completions by the rubric, and by what is observed at weight 0: `eval.reward` and the format.

    It has a pool of worker processes; those that were needed end with `close`, or with this process.
    """

    def __init__(self, config: RunConfig) -> None:
        self.main = config.eval.reward
        self._answer_type = config.task.answer_type
        self._reward_model = str(reward_model_path(config))
        self._pool = WorkerPool(_workers())
        observed = RewardConfig(weight=0.0)
        self._settings = {self.main: observed, FORMAT: observed, **config.rewards}
        spec = SPECS[config.prompt.format]
        # In the order of the config, which is that of the reports.
        names = dict.fromkeys((*config.rewards, self.main, FORMAT))
        terms = {name: self._term(name, self._settings[name], spec) for name in names}
        try:
            self._rubric = Rubric(list(terms.values()))
            main = terms[self.main]
            self._golds = Rubric([Term(self.main, main.reward, seconds=main.seconds)])
        except ValueError as error:  # gates that form a circle
            raise UserError(f"rewards: {error}") from error

    def _term(self, name: str, settings: RewardConfig, spec: TagSpec) -> Term:
        args = dict(settings.args)
        if name == LEARNED:  # the run's own reward model, unless another one is named
            args.setdefault("model", self._reward_model)
        try:
            reward = self._pool.reward(name, args, spec)
        except (ValueError, ImportError) as error:
            raise UserError(f"rewards.{name}: {error}") from error
        return Term(name, reward, settings.weight, settings.gate, settings.clip, settings.seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker processes."""
        self._pool.close()

    def isolated(self) -> dict[str, float]:
        """The rewards that are scored in worker processes alone, with their budgets in seconds."""
        rewards = {name: term.reward for name, term in self._rubric.terms.items()}
        return {
            name: self._settings[name].seconds
            for name, reward in rewards.items()
            if isinstance(reward, PooledReward) and reward.isolated
        }

    def score(
        self,
        examples: Sequence[Example],
        completions: Sequence[str],
        prefills: Sequence[str],
        completion_ids: Sequence[list[int]],
    ) -> list[RubricScore]:
        """One RubricScore a completion. Raises UserError if a reward lacks a column.

        Errors and time-outs of a reward are failed scores; `check` says when they are too many.
        """
        columns = {**self._columns(examples), "completion_ids": list(completion_ids)}
        try:
            return self._rubric.score(list(completions), prefill=list(prefills), columns=columns)
        except ValueError as error:
            raise UserError(f"rewards: {error}") from error

    def score_golds(self, examples: Sequence[Example], completions: Sequence[str]) -> list[Score]:
        """What `eval.reward` alone says of written completions: other rewards may be slow, or cost money."""
        try:
            scores = self._golds.score(list(completions), columns=self._columns(examples))
        except ValueError as error:
            raise UserError(f"eval.reward: {error}") from error
        self.check(scores)
        return [score.parts[self.main] for score in scores]

    def check(self, scores: Sequence[RubricScore]) -> None:
        """Raise UserError if a reward has failed on a larger share of completions than its max_errors."""
        for name, failed in failures(scores).items():
            allowed = self._settings[name].max_errors
            if len(failed) / len(scores) > allowed:
                raise UserError(
                    f"rewards.{name}: scoring failed on {len(failed)} of {len(scores)} completions, more "
                    f"than the share of max_errors = {allowed:g}. Correct the reward, or allow more. The "
                    f"first failure: {failed[0].reason}\n{failed[0].trace}".rstrip()
                )

    def _columns(self, examples: Sequence[Example]) -> dict[str, list[Any]]:
        names = {name for example in examples for name in example.metadata} - _RESERVED
        columns: dict[str, list[Any]] = {
            name: [example.metadata.get(name) for example in examples] for name in sorted(names)
        }
        columns["prompts"] = [example.prompt for example in examples]
        columns["answer"] = [example.answer for example in examples]
        columns.setdefault("solution", columns["answer"])  # what TRL's rewards call it
        columns["answer_type"] = [
            example.metadata.get("answer_type") or self._answer_type for example in examples
        ]
        return columns


def without_own_model(config: RunConfig) -> RunConfig:
    """The config without the reward that the run has yet to learn, as `rules_only` makes it."""
    learned = config.rewards.get(LEARNED)
    if learned is None or "model" in learned.args:
        return config
    return rules_only(config)


def rules_only(config: RunConfig) -> RunConfig:
    """The config without the learned reward; paid by `eval.reward` if nothing else has a weight."""
    rules = {
        name: term.model_copy(update={"gate": None}) if term.gate == LEARNED else term
        for name, term in config.rewards.items()
        if name != LEARNED
    }
    if all(term.weight == 0 for term in rules.values()):
        rules[config.eval.reward] = RewardConfig()
    return config.model_copy(update={"rewards": rules})


def reward_model_path(config: RunConfig) -> Path:
    """Where the stage `reward_model` leaves its model."""
    return Path(config.output_dir) / config.name / "checkpoints" / "reward_model"


def failures(scores: Sequence[RubricScore]) -> dict[str, list[Score]]:
    """The failed scores of each reward that has any."""
    found: dict[str, list[Score]] = {}
    for score in scores:
        for name, part in score.parts.items():
            if part.failed:
                found.setdefault(name, []).append(part)
    return found


def stand_in_ids(text: str, count: int) -> list[int]:
    """`count` made-up token ids for a completion whose own are not known: equal pieces have equal ids."""
    cuts = [len(text) * place // count for place in range(count + 1)] if count else []
    return [zlib.crc32(text[a:b].encode(errors="surrogatepass")) for a, b in pairwise(cuts)]


def _workers() -> int:
    """Worker processes for this process: its share of the cores, where a launcher has started several."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def unreadable_golds(
    scorer: Scorer, examples: Sequence[Example], rendered: Sequence[str]
) -> list[tuple[int, Score]]:
    """Dry-run of the rewards on the known right answers, before any model is loaded.

    `rendered` holds, for each example, a completion that gives its gold answer. Returns the row numbers at
    which the main reward abstains or gives less than full marks, with what it said. Rewards whose gold
    answer is no answer text (an expression is asked for, the gold is its value) are not listed for a 0.
    """
    bad = []
    for row, said in enumerate(scorer.score_golds(examples, rendered)):
        wrong = said.value is not None and said.value < 1 and scorer.main == "accuracy"
        if said.value is None or wrong:
            bad.append((row, said))
    return bad


def readable(config: RunConfig, scorer: Scorer, data: TaskData) -> tuple[TaskData, str]:
    """Dry-run the rewards on every gold answer; leave out, count, or refuse those that cannot be read.

    Returns the data without them, and a line that says so, empty if there are none. Raises UserError if they
    are more than `task.max_unreadable` of all.
    """
    spec = SPECS[config.prompt.format]
    # Every reward once, on two rows: a missing column or a broken function shows here, not in step 1.
    trial = data.train[:2]
    scorer.check(
        scorer.score(
            trial, [_gold_completion(spec, e.answer) for e in trial], [""] * len(trial), [[0]] * len(trial)
        )
    )
    kept: dict[str, list[Any]] = {}
    bad_total, total, shown = 0, 0, []
    for part, examples in (("train", data.train), ("held_out", data.held_out)):
        rendered = [_gold_completion(spec, example.answer) for example in examples]
        bad = dict(unreadable_golds(scorer, examples, rendered))
        shown += [f"{examples[row].answer!r} ({score.reason})" for row, score in bad.items()]
        kept[part] = [example for row, example in enumerate(examples) if row not in bad]
        bad_total, total = bad_total + len(bad), total + len(examples)
    if not bad_total:
        return data, ""
    summary = f"{bad_total} of {total} gold answers cannot be read, such as {'; '.join(shown[:_SHOWN_GOLDS])}"
    if bad_total > config.task.max_unreadable * total or not kept["train"] or not kept["held_out"]:
        raise UserError(
            f"task.answer_type={config.task.answer_type}: {summary}. Set another answer_type, correct the "
            "gold answers, or set task.max_unreadable to the share of rows that may be left out."
        )
    return TaskData(kept["train"], kept["held_out"], data.report), f"left out: {summary}"


def _gold_completion(spec: TagSpec, answer: str) -> str:
    try:
        return spec.render("The known right answer.", answer)
    except ValueError:  # a gold answer that is blank or does not fit the form: no completion can give it
        return ""
