"""Asking a policy the held-out questions and marking what it says."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rewards import parse
from rlreason.config import RunConfig
from rlreason.evaluation.asking import Asker, Marked
from rlreason.evaluation.statistics import Answered, gain, summarize
from rlreason.policy.chat import RenderedPrompt, Renderer
from rlreason.report.progress import Progress
from rlreason.rollout import Engine, sampling_of
from rlreason.scoring import FORMAT, Scorer
from rlreason.seeds import derive_seed
from rlreason.tasks import derives


@dataclass(frozen=True)
class Evaluation:
    """One evaluation: its numbers, and the completions behind them, grouped by question."""

    summary: dict[str, Any]
    questions: list[str]
    answered: list[list[Answered]]

    def records(self) -> list[dict[str, Any]]:
        """One record a completion, for `eval-*.jsonl`."""
        return [
            {"question": question, "sample": number, **asdict(answer)}
            for question, group in zip(self.questions, self.answered, strict=True)
            for number, answer in enumerate(group)
        ]

    def gain_over(self, before: "Evaluation") -> dict[str, Any]:
        """The paired gain in accuracy over an earlier evaluation of the same questions."""
        return gain(_means(before.answered), _means(self.answered))


def _means(answered: Sequence[Sequence[Answered]]) -> list[float | None]:
    """The mean mark of each question; None where no completion of it has one."""
    marks = [[a.correct for a in group if a.correct is not None] for group in answered]
    return [sum(group) / len(group) if group else None for group in marks]


class Evaluator:
    """Evaluates on one fixed set of rendered held-out prompts.

    The seeds of the samples derive from the question's place and the sample's number alone, so that before
    and after, and any two models, are asked under equal conditions.
    """

    def __init__(
        self, config: RunConfig, scorer: Scorer, renderer: Renderer, prompts: Sequence[RenderedPrompt]
    ) -> None:
        self._config = config
        self._scorer = scorer
        self._renderer = renderer
        self._prompts = list(prompts)
        self.questions = [prompt.example.question for prompt in self._prompts]

    def run(
        self, engine: Engine, eos_ids: Sequence[int], note: Callable[[str], None] | None = None
    ) -> Evaluation:
        """Ask all questions and mark the answers; `note` is told how far that is, where it takes minutes.

        Raises UserError where marking fails too often.
        """
        settings = self._config.eval
        seeds = [
            [derive_seed("eval", q, k) for k in range(settings.samples)] for q in range(len(self._prompts))
        ]
        sampling = sampling_of(self._config.rollout, temperature=settings.temperature)
        asker = Asker(engine, self._renderer, eos_ids, self._scorer)
        told = Progress(note, "answers", len(seeds) * settings.samples) if note else None
        groups = asker.ask(self._prompts, seeds, sampling, told)
        answered = [[self._mark(one) for one in group] for group in groups]
        summary = summarize(answered, pass_at=settings.pass_at)
        return Evaluation(summary, self.questions, answered)

    def _mark(self, one: Marked) -> Answered:
        response = parse(one.text, prefill=one.prompt.prefill, spec=self._renderer.spec)
        main = one.score.parts[self._scorer.main]
        return Answered(
            correct=main.value,
            well_formed=(one.score.parts[FORMAT].value or 0.0) >= 1,
            derives=derives(response.think or ""),
            truncated=one.rollout.finish_reason == "length",
            tokens=len(one.rollout.completion_ids),
            answer=response.answer,
            text=one.text,
            failed=main.failed,
        )
