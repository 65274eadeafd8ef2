"""Asking a policy the held-out questions and marking what it says."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rewards import parse
from rlreason.config import RunConfig
from rlreason.evaluation.statistics import Answered, gain, summarize
from rlreason.policy.chat import RenderedPrompt, Renderer
from rlreason.rollout import Engine, Request, Sampling
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


def _means(answered: Sequence[Sequence[Answered]]) -> list[float]:
    return [sum(a.correct for a in group) / len(group) for group in answered]


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
        answered = []
        for prompt, rollouts in zip(self._prompts, groups, strict=True):
            texts = [self._renderer.decode(r.completion_ids, eos_ids) for r in rollouts]
            count = len(rollouts)
            scores = self._scorer.score(
                [prompt.example] * count,
                texts,
                [prompt.prefill] * count,
                [rollout.completion_ids for rollout in rollouts],
            )
            group = []
            for r, text, score in zip(rollouts, texts, scores, strict=True):
                response = parse(text, prefill=prompt.prefill, spec=self._renderer.spec)
                group.append(
                    Answered(
                        correct=score.parts[self._scorer.main].value or 0.0,
                        well_formed=(score.parts[FORMAT].value or 0.0) >= 1,
                        derives=derives(response.think or ""),
                        truncated=r.finish_reason == "length",
                        tokens=len(r.completion_ids),
                        answer=response.answer,
                        text=text,
                    )
                )
            answered.append(group)
        summary = summarize(answered, pass_at=settings.pass_at)
        return Evaluation(summary, self.questions, answered)
