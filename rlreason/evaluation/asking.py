"""Asking a model and marking what it says: the same for evaluation, for pairs and for traces."""

from collections.abc import Sequence
from dataclasses import dataclass

from rewards import RubricScore
from rlreason.policy.chat import RenderedPrompt, Renderer
from rlreason.rollout import Engine, Request, Sampling, Told
from rlreason.scoring import Scorer
from rlreason.types import Rollout


@dataclass(frozen=True)
class Marked:
    """One completion of a prompt: its tokens, its text without the prefill, what the rubric says of it."""

    prompt: RenderedPrompt
    rollout: Rollout
    text: str
    score: RubricScore


@dataclass(frozen=True)
class Asker:
    """Samples completions and scores them with the questions' columns."""

    engine: Engine
    renderer: Renderer
    eos_ids: Sequence[int]
    scorer: Scorer

    def ask(
        self,
        prompts: Sequence[RenderedPrompt],
        seeds: Sequence[Sequence[int]],
        sampling: Sampling,
        told: Told | None = None,
    ) -> list[list[Marked]]:
        """The completions of each prompt, one for each of its seeds, in their order.

        Raises UserError where a reward lacks a column or fails too often.
        """
        requests = [Request(prompt.ids, tuple(own)) for prompt, own in zip(prompts, seeds, strict=True)]
        groups = self.engine.generate(requests, sampling, told)
        asked = [(prompt, one) for prompt, group in zip(prompts, groups, strict=True) for one in group]
        texts = [self.renderer.decode(one.completion_ids, self.eos_ids) for _, one in asked]
        scores = self.scorer.score(
            [prompt.example for prompt, _ in asked],
            texts,
            [prompt.prefill for prompt, _ in asked],
            [one.completion_ids for _, one in asked],
        )
        self.scorer.check(scores)
        marked = iter(
            [Marked(*one, text, score) for one, text, score in zip(asked, texts, scores, strict=True)]
        )
        return [[next(marked) for _ in group] for group in groups]
