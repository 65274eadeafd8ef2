"""Asking a policy the held-out questions and marking what it says."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rewards import RubricScore, parse
from rlreason.config import RunConfig
from rlreason.evaluation.statistics import Answered, gain, summarize
from rlreason.policy.chat import RenderedPrompt, Renderer
from rlreason.rollout import Engine, Request, Sampling
from rlreason.scoring import FORMAT, Scorer
from rlreason.seeds import derive_seed
from rlreason.tasks import derives
from rlreason.types import Rollout


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

    def run(self, engine: Engine, eos_ids: Sequence[int]) -> Evaluation:
        """Ask all questions and mark the answers. Raises UserError where marking fails too often."""
        settings = self._config.eval
        requests = [
            Request(prompt.ids, tuple(derive_seed("eval", q, k) for k in range(settings.samples)))
            for q, prompt in enumerate(self._prompts)
        ]
        rollout = self._config.rollout
        sampling = Sampling(
            rollout.max_new_tokens, settings.temperature, rollout.top_p, rollout.top_k, rollout.min_p
        )
        groups = engine.generate(requests, sampling)
        asked = [(prompt, r) for prompt, group in zip(self._prompts, groups, strict=True) for r in group]
        texts = [self._renderer.decode(r.completion_ids, eos_ids) for _, r in asked]
        scores = self._scorer.score(
            [prompt.example for prompt, _ in asked],
            texts,
            [prompt.prefill for prompt, _ in asked],
            [r.completion_ids for _, r in asked],
        )
        self._scorer.check(scores)
        marked = [
            self._mark(prompt, rollout, text, score)
            for (prompt, rollout), text, score in zip(asked, texts, scores, strict=True)
        ]
        count = settings.samples
        answered = [marked[start : start + count] for start in range(0, len(marked), count)]
        summary = summarize(answered, pass_at=settings.pass_at)
        return Evaluation(summary, self.questions, answered)

    def _mark(self, prompt: RenderedPrompt, rollout: Rollout, text: str, score: RubricScore) -> Answered:
        response = parse(text, prefill=prompt.prefill, spec=self._renderer.spec)
        main = score.parts[self._scorer.main]
        return Answered(
            correct=main.value,
            well_formed=(score.parts[FORMAT].value or 0.0) >= 1,
            derives=derives(response.think or ""),
            truncated=rollout.finish_reason == "length",
            tokens=len(rollout.completion_ids),
            answer=response.answer,
            text=text,
            failed=main.failed,
        )
