"""Sample and score: from questions to scored completions.

Shapes: P prompts, G completions of each.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rewards import RubricScore
from rlreason.policy.chat import RenderedPrompt, Renderer
from rlreason.policy.packing import Completion
from rlreason.rollout import Engine, Request, Sampling
from rlreason.scoring import Scorer
from rlreason.seeds import derive_seed
from rlreason.types import Rollout


@dataclass(frozen=True)
class TokenTargets:
    """What PPO's critic learns at each token of a completion, (T,) each, from before the step's update.

    It is aimed at `returns`; `values` are its own then, `logprobs` the policy's, where they were computed.
    """

    values: Tensor
    returns: Tensor
    logprobs: Tensor | None = None


@dataclass
class Sample:
    """One completion on its way through a step. `group` numbers its prompt within the step.

    `advantage` is that of the completion; where each token has its own (`token_advantages`, (T,)), the mean
    of theirs. `greedy` is the greedy completion of the same prompt, where rewards are held against that.
    One that is not `learned` was left out of advantages and update by down-sampling.
    """

    group: int
    prompt: RenderedPrompt
    rollout: Rollout
    text: str
    score: RubricScore
    reward: float | None
    advantage: float = 0.0
    token_advantages: Tensor | None = None
    tokens: TokenTargets | None = None
    greedy: "Sample | None" = None
    learned: bool = True

    @property
    def truncated(self) -> bool:
        return self.rollout.finish_reason == "length"

    @property
    def sequence(self) -> Completion:
        """Its tokens, for a forward pass."""
        return Completion(self.group, self.prompt.ids, self.rollout.completion_ids)


def greedy_of(samples: Iterable[Sample]) -> list[Sample]:
    """The greedy completions that `samples` are held against, each once."""
    return list({s.group: s.greedy for s in samples if s.greedy is not None}.values())


class PromptStream:
    """The training prompts in an endless, seeded order: every pass over them is a new permutation.

    `position` says how many have been handed out; a resumed run sets it and goes on with the same order.
    """

    def __init__(self, prompts: Sequence[RenderedPrompt], seed: int) -> None:
        self._prompts = prompts
        self._seed = seed
        self._pass = -1
        self._order: list[int] = []
        self.position = 0

    def take(self, count: int) -> list[RenderedPrompt]:
        return [self._next() for _ in range(count)]

    def _next(self) -> RenderedPrompt:
        number, place = divmod(self.position, len(self._prompts))
        if number != self._pass:
            self._pass = number
            self._order = list(range(len(self._prompts)))
            random.Random(derive_seed("order", self._seed, number)).shuffle(self._order)
        self.position += 1
        return self._prompts[self._order[place]]


@dataclass(frozen=True)
class Collector:
    """Samples and scores one batch of prompts."""

    engine: Engine
    renderer: Renderer
    scorer: Scorer
    sampling: Sampling
    eos_ids: Sequence[int]
    group_size: int
    seed: int

    def sample(
        self, prompts: Sequence[tuple[int, RenderedPrompt]], *, step: int
    ) -> list[tuple[int, RenderedPrompt, Rollout]]:
        """Draw `group_size` completions of each (group number, prompt).

        Seeds derive from step, group and place in the group: who samples a group changes nothing.
        """
        requests = [
            Request(
                prompt.ids,
                tuple(
                    derive_seed("rollout", self.seed, step, group, place) for place in range(self.group_size)
                ),
            )
            for group, prompt in prompts
        ]
        sampled = self.engine.generate(requests, self.sampling)
        return [
            (group, prompt, rollout)
            for (group, prompt), rollouts in zip(prompts, sampled, strict=True)
            for rollout in rollouts
        ]

    def greedy(
        self, prompts: Sequence[tuple[int, RenderedPrompt]]
    ) -> list[tuple[int, RenderedPrompt, Rollout]]:
        """The likeliest completion, token by token, of each (group number, prompt)."""
        requests = [Request(prompt.ids, (0,)) for _, prompt in prompts]
        sampled = self.engine.generate(requests, replace(self.sampling, temperature=0.0))
        return [(group, prompt, one) for (group, prompt), (one,) in zip(prompts, sampled, strict=True)]

    def score(self, drawn: Sequence[tuple[int, RenderedPrompt, Rollout]]) -> list[Sample]:
        """Decode and score completions; `reward` starts as the rubric's total, None for an abstention."""
        texts = [self.renderer.decode(rollout.completion_ids, self.eos_ids) for _, _, rollout in drawn]
        scores = self.scorer.score(
            [prompt.example for _, prompt, _ in drawn],
            texts,
            [prompt.prefill for _, prompt, _ in drawn],
            [rollout.completion_ids for _, _, rollout in drawn],
        )
        return [
            Sample(group, prompt, rollout, text, score, score.total)
            for (group, prompt, rollout), text, score in zip(drawn, texts, scores, strict=True)
        ]


def padded_rows(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack rows of different lengths on the CPU: (B, T), 0 where there is no token, and the mask."""
    padded_BT = torch.nn.utils.rnn.pad_sequence([row.float().cpu() for row in rows], batch_first=True)
    lengths_B = torch.tensor([len(row) for row in rows])
    return padded_BT, torch.arange(padded_BT.shape[1]) < lengths_B[:, None]
