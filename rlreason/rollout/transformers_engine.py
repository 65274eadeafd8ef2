"""The general engine: `model.generate` of transformers, for any causal language model.

Shapes: S sequences, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from rlreason.policy.adapter import causal_lm_of
from rlreason.rollout.engine import Request, Sampling, Told
from rlreason.rollout.sampler import sample_tokens
from rlreason.types import Rollout


class TransformersEngine:
    """Sample with the policy's own module, in batches of at most `max_sequences`, left-padded."""

    name = "transformers"

    def __init__(
        self,
        model: Any,
        *,
        eos_ids: Iterable[int],
        pad_id: int,
        max_sequences: int,
        autocast: Callable[[], AbstractContextManager[Any]],
    ) -> None:
        self._model = causal_lm_of(model)  # an adapter's layers are in it
        self._eos_ids = sorted(eos_ids)
        self._pad_id = pad_id
        self._max_sequences = max_sequences
        self._autocast = autocast

    def release(self) -> None:
        """Nothing to do: it has no copy."""

    def refresh(self) -> None:
        """Nothing to do: it samples from the weights that train."""

    @torch.no_grad()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, told: Told | None = None
    ) -> list[list[Rollout]]:
        """Sample every request; see `Engine.generate`."""
        flat = [
            (number, request.prompt_ids, seed)
            for number, request in enumerate(requests)
            for seed in request.seeds
        ]
        done: list[list[Rollout]] = [[] for _ in requests]
        was_training = self._model.training
        self._model.eval()
        try:
            for start in range(0, len(flat), self._max_sequences):
                chunk = flat[start : start + self._max_sequences]
                rollouts = self._batch([row[1] for row in chunk], [row[2] for row in chunk], sampling)
                for (number, _, _), rollout in zip(chunk, rollouts, strict=True):
                    done[number].append(rollout)
                if told is not None:
                    told(start + len(chunk))
        finally:
            self._model.train(was_training)
        return done

    def _batch(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> list[Rollout]:
        device = next(self._model.parameters()).device
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self._pad_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        drawer = _Drawer(seeds, sampling, device)
        settings = GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            do_sample=False,
            eos_token_id=self._eos_ids or None,
            pad_token_id=self._pad_id,
            use_cache=True,
        )
        with self._autocast(), self._own_defaults_aside():
            output = self._model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                generation_config=settings,
                logits_processor=LogitsProcessorList([drawer]),
            )
        tokens = output[:, width:].tolist()
        logprobs = torch.stack(drawer.logprobs, dim=1).tolist()
        return [self._cut(*row) for row in zip(prompts, tokens, logprobs, strict=True)]

    @contextmanager
    def _own_defaults_aside(self) -> Iterator[None]:
        """Sample without the model's own generation config, from which `generate` takes what it is not told.

        It may hold a repetition penalty or banned tokens, which the trainer's log-probs know nothing of.
        """
        own = self._model.generation_config
        self._model.generation_config = GenerationConfig()
        try:
            yield
        finally:
            self._model.generation_config = own

    def _cut(self, prompt: list[int], tokens: list[int], logprobs: list[float]) -> Rollout:
        """End the row at its first end-of-sequence token; what generate wrote after it is padding."""
        for place, token in enumerate(tokens):
            if token in self._eos_ids:
                return Rollout(prompt, tokens[: place + 1], logprobs[: place + 1], "stop")
        return Rollout(prompt, tokens, logprobs[: len(tokens)], "length")


class _Drawer(LogitsProcessor):
    """Draws each token itself and leaves generate's arg-max only that one.

    So both engines share one sampler, each row has a seed of its own, and the log-prob is at hand.
    """

    def __init__(self, seeds: list[int], sampling: Sampling, device: torch.device) -> None:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        uniforms = [torch.rand(sampling.max_new_tokens, generator=g) for g in generators]
        self._uniform_ST = torch.stack(uniforms).to(device)
        self._sampling = sampling
        self.logprobs: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        tokens_S, logprobs_S = sample_tokens(scores, self._uniform_ST[:, len(self.logprobs)], self._sampling)
        self.logprobs.append(logprobs_S)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens_S.unsqueeze(-1), 0.0)
