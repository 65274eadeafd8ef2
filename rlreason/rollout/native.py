"""The native engine: batched decoding of the families it knows, with a cache that grows in blocks.

Each prompt is computed once, however many completions it gets; its keys and values are copied into the
slot of every completion. A finished completion leaves its slot at once and the next one enters, so that no
step is spent on padding.

Shapes: S slots, V vocabulary.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from rlreason.policy.adapter import causal_lm_of
from rlreason.rollout.decoder import Decoder
from rlreason.rollout.engine import Request, Sampling, Told
from rlreason.rollout.families import describe
from rlreason.rollout.sampler import sample_tokens
from rlreason.types import FinishReason, Rollout

# Prompts are computed together up to this many tokens, padding included.
_PREFILL_TOKENS = 1024


@dataclass
class _Row:
    """One completion while it is being written."""

    request: int
    index: int
    prompt_ids: list[int]
    uniforms: list[float]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"


class NativeEngine:
    """Sample from a transformers model of a known family, with weights copied into `dtype`.

    `model` is the plain causal LM, or a peft model whose adapter is folded into the copy at each refresh.
    Raises NoNativePathError, a ValueError, for a model of another family.
    """

    name = "native"

    def __init__(self, model: Any, *, eos_ids: Iterable[int], max_sequences: int, dtype: torch.dtype) -> None:
        self._model = model
        self._dtype = dtype
        causal_lm = causal_lm_of(model)
        self.device = next(causal_lm.parameters()).device
        self.decoder = Decoder(describe(causal_lm), dtype=dtype, device=self.device)
        self._eos_ids = frozenset(eos_ids)
        self._max_sequences = max_sequences

    def refresh(self) -> None:
        self.decoder.refresh()

    def twin(self) -> "NativeEngine":
        """Another engine of the same model, with the weights that it has now."""
        return NativeEngine(
            self._model, eos_ids=self._eos_ids, max_sequences=self._max_sequences, dtype=self._dtype
        )

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, told: Told | None = None
    ) -> list[list[Rollout]]:
        """Sample every request; see `Engine.generate`. Raises ValueError on an empty prompt."""
        if any(not request.prompt_ids for request in requests):
            raise ValueError("a prompt without tokens cannot be sampled")
        waiting = deque(_rows(requests, sampling.max_new_tokens))
        done: list[list[Rollout | None]] = [[None] * len(request.seeds) for request in requests]
        slots = min(self._max_sequences, len(waiting))
        if slots == 0:
            return [[] for _ in requests]
        batch = _Batch(self.decoder, slots, self.device)
        finished = 0
        while True:
            batch.admit(waiting)
            if not batch.rows:
                break
            for row in batch.step(sampling, self._eos_ids):
                finished += 1
                done[row.request][row.index] = Rollout(
                    row.prompt_ids, row.ids, row.logprobs, row.finish_reason
                )
            if told is not None:
                told(finished)
        return [[rollout for rollout in group if rollout is not None] for group in done]


class _Batch:
    """The slots that decode together: their cache, their last logits and their rows."""

    def __init__(self, decoder: Decoder, slots: int, device: torch.device) -> None:
        self._decoder = decoder
        self._device = device
        self._cache = decoder.new_cache(slots)
        self._capacity = slots
        self._lengths = torch.zeros(0, dtype=torch.long, device=device)
        self._logits = torch.empty(0, device=device)
        # The last prompt by the number of its request: the next rows may be of the same one.
        self._prefilled: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self.rows: list[_Row] = []

    def admit(self, waiting: deque[_Row]) -> None:
        """Fill free slots with waiting rows, computing each prompt once."""
        entering = [waiting.popleft() for _ in range(min(self._capacity - len(self.rows), len(waiting)))]
        if not entering:
            return
        longest = max(len(row.prompt_ids) + len(row.ids) for row in (*self.rows, *entering))
        self._cache.reserve(longest + 1)
        fresh = {row.request: row.prompt_ids for row in entering if row.request not in self._prefilled}
        prompts = {**self._prefilled, **self._prefill(fresh)}
        for number, group in groupby(entering, key=lambda row: row.request):
            rows = list(group)
            slots = torch.arange(len(self.rows), len(self.rows) + len(rows), device=self._device)
            keys, values, last = prompts[number]
            self._cache.fill(slots, keys, values)
            self.rows += rows
            self._lengths = torch.cat([self._lengths, torch.full_like(slots, keys.shape[2])])
            logits = last.expand(len(rows), -1)
            self._logits = torch.cat([self._logits, logits]) if len(self._logits) else logits
            self._prefilled = {number: prompts[number]}

    def _prefill(self, prompts: dict[int, list[int]]) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """Compute prompts by the number of their request, several at a time."""
        found: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        numbers = sorted(prompts, key=lambda number: len(prompts[number]), reverse=True)
        while numbers:
            several = max(1, _PREFILL_TOKENS // len(prompts[numbers[0]]))
            now, numbers = numbers[:several], numbers[several:]
            found.update(zip(now, self._decoder.prefill([prompts[n] for n in now]), strict=True))
        return found

    def step(self, sampling: Sampling, eos_ids: frozenset[int]) -> list[_Row]:
        """Draw one token a row; drop and return the rows that are finished; compute the next logits."""
        uniforms = torch.tensor([row.uniforms[len(row.ids)] for row in self.rows], device=self._device)
        tokens_S, logprobs_S = sample_tokens(self._logits, uniforms, sampling)
        keep, finished = [], []
        for slot, (row, token, logprob) in enumerate(
            zip(self.rows, tokens_S.tolist(), logprobs_S.tolist(), strict=True)
        ):
            row.ids.append(token)
            row.logprobs.append(logprob)
            if token in eos_ids:
                row.finish_reason = "stop"
            if token in eos_ids or len(row.ids) == sampling.max_new_tokens:
                finished.append(row)
            else:
                keep.append(slot)
        if finished:
            tokens_S = self._drop(keep, tokens_S)
        if self.rows:
            self._cache.reserve(max(len(row.prompt_ids) + len(row.ids) for row in self.rows))
            self._logits = self._decoder.decode(tokens_S, self._lengths, self._cache)
            self._lengths = self._lengths + 1
        return finished

    def _drop(self, keep: list[int], tokens_S: Tensor) -> Tensor:
        """Move rows from the end into the holes that finished rows leave; copy no more than that."""
        survivors = len(keep)
        holes = sorted(set(range(survivors)) - set(keep))
        movers = [slot for slot in keep if slot >= survivors]
        order = list(range(survivors))
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if movers:
            sources, targets = (torch.tensor(slots, device=self._device) for slots in (movers, holes))
            self._cache.move(sources, targets)
        self.rows = [self.rows[slot] for slot in order]
        index = torch.tensor(order, dtype=torch.long, device=self._device)
        self._lengths = self._lengths[index]
        self._logits = self._logits[index]
        return tokens_S[index]


def _rows(requests: Sequence[Request], max_new_tokens: int) -> Iterable[_Row]:
    for number, request in enumerate(requests):
        for index, seed in enumerate(request.seeds):
            generator = torch.Generator().manual_seed(seed)
            uniforms = torch.rand(max_new_tokens, generator=generator, dtype=torch.float32).tolist()
            yield _Row(number, index, request.prompt_ids, uniforms)
