"""The native engine: batched decoding of the families it knows, with a cache that grows in blocks.

Each prompt is computed once, however many completions it gets, and so is what all prompts begin with, such
as a system prompt. On a processor keys and values of such a prefix are held once as well, where that pays;
else they are copied into the slot of every completion. A finished completion leaves its slot and the next one
enters before another token is drawn: on a processor at once, on a GPU when the host looks next.

Shapes: V vocabulary.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import chain, groupby
from typing import Any

import torch
from torch import Tensor

from rlreason.policy.adapter import causal_lm_of
from rlreason.policy.packing import common_beginning
from rlreason.rollout.decoder import Decoder, Prompt
from rlreason.rollout.engine import Request, Sampling, Told
from rlreason.rollout.families import describe
from rlreason.rollout.slots import Pace, Slots, pace_of
from rlreason.types import Rollout

# Prompts are computed together up to so many times as many tokens as by themselves (`Pace.prefill`) with what
# stands in front of them, whose keys are copied for each in one layer at a time.
PREFILL_KEYS = 8
# What prompts begin with is computed by itself if that saves this share of their tokens, in a pass that is
# worth making. What goes on from it needs a mask, and kernels for those are slower.
_COMMON_SHARE, _COMMON_TOKENS = 1 / 8, 16


class Shared(Enum):
    """The prefix that is held once for several slots: one of them, where `packing.Sharing` adds up."""

    NOTHING = "nothing"
    BEGINNING = "what all prompts begin with"
    PROMPT = "the prompt of a group"


@dataclass
class _Row:
    """One completion while it waits or is being written. `drawn` counts its tokens if it has not ended."""

    request: int
    index: int
    prompt_ids: list[int]
    seed: int
    drawn: int = 0


class NativeEngine:
    """Sample from a transformers model of a known family, with weights copied into `dtype`.

    `model` is the plain causal LM, or a peft model whose adapter is folded into the copy at each refresh.
    `pace` is the device's own unless given, and may be replaced between two calls of `generate`.
    Raises NoNativePathError, a ValueError, for a model of another family.
    """

    name = "native"

    def __init__(
        self,
        model: Any,
        *,
        eos_ids: Iterable[int],
        max_sequences: int,
        dtype: torch.dtype,
        pace: Pace | None = None,
    ) -> None:
        self._model = model
        self._dtype = dtype
        causal_lm = causal_lm_of(model)
        self.device = next(causal_lm.parameters()).device
        self.decoder = Decoder(describe(causal_lm), dtype=dtype, device=self.device)
        self.pace = pace or pace_of(self.device)
        self._eos_ids = frozenset(eos_ids)
        self._max_sequences = max_sequences

    def release(self) -> None:
        self.decoder.release()

    def refresh(self) -> None:
        self.decoder.refresh()

    def twin(self) -> "NativeEngine":
        """Another engine of the same model, with the weights that it has now."""
        return NativeEngine(
            self._model,
            eos_ids=self._eos_ids,
            max_sequences=self._max_sequences,
            dtype=self._dtype,
            pace=self.pace,
        )

    @torch.inference_mode()
    def generate(
        self, requests: Sequence[Request], sampling: Sampling, told: Told | None = None
    ) -> list[list[Rollout]]:
        """Sample every request; see `Engine.generate`. Raises ValueError on an empty prompt."""
        if any(not request.prompt_ids for request in requests):
            raise ValueError("a prompt without tokens cannot be sampled")
        waiting = deque(
            _Row(number, index, request.prompt_ids, seed)
            for number, request in enumerate(requests)
            for index, seed in enumerate(request.seeds)
        )
        done: list[list[Rollout | None]] = [[None] * len(request.seeds) for request in requests]
        if not waiting:
            return [[] for _ in requests]
        asked = [request for request in requests if request.seeds]
        common = _common([request.prompt_ids for request in asked])
        capacity = min(self._max_sequences, len(waiting))
        groups = [(len(request.prompt_ids), len(request.seeds)) for request in asked]
        shared = what_to_share(groups, len(common), capacity, self.pace.least_spared)
        slots = Slots(
            self.decoder,
            capacity=capacity,
            longest=max(len(request.prompt_ids) for request in requests) + sampling.max_new_tokens,
            sampling=sampling,
            eos_ids=sorted(self._eos_ids),
            device=self.device,
            pace=self.pace,
            prefixes={Shared.NOTHING: None, Shared.BEGINNING: 1, Shared.PROMPT: len(asked)}[shared],
        )
        batch = _Batch(self.decoder, slots, sampling, self._eos_ids, common, self.pace.prefill, shared)
        finished = 0
        while waiting or batch.rows:
            left = batch.leave()
            while batch.admit(waiting):
                left += batch.leave()  # the first token may have been the last
            for row, rollout in left:
                done[row.request][row.index] = rollout
            finished += len(left)
            if told is not None:
                told(finished)
            if batch.rows:
                if not waiting:
                    batch.settle(self.pace.least_spared)
                batch.write(self.pace.tokens)
        if slots.records is None and self.pace.record is not None:
            self.pace = replace(self.pace, record=None)  # it would fail again
        return [[rollout for rollout in group if rollout is not None] for group in done]


class _Batch:
    """The completions in the slots, and the prompts they go on from."""

    def __init__(
        self,
        decoder: Decoder,
        slots: Slots,
        sampling: Sampling,
        eos_ids: frozenset[int],
        common: list[int],
        prefill: int,
        shared: Shared,
    ) -> None:
        self._prefill_tokens = prefill
        self._shared = shared
        self._decoder = decoder
        self._common = decoder.prefill([common])[0] if common else None
        self._slots = slots
        self._limit = sampling.max_new_tokens
        self._eos_ids = eos_ids
        # The last prompt by the number of its request, where the next rows are of the same one.
        self._prefilled: dict[int, Prompt] = {}
        self.rows: list[_Row] = []

    def admit(self, waiting: deque[_Row]) -> bool:
        """Fill free slots with waiting rows, computing each prompt once, and draw their first token.

        Returns whether any row entered.
        """
        entering = [
            waiting.popleft() for _ in range(min(self._slots.capacity - len(self.rows), len(waiting)))
        ]
        if not entering:
            return False
        self._reserve([*self.rows, *entering], 0)
        rows_of = {number: list(rows) for number, rows in groupby(entering, key=lambda row: row.request)}
        fresh = {
            number: rows[0].prompt_ids for number, rows in rows_of.items() if number not in self._prefilled
        }
        following = waiting[0].request if waiting else None
        kept = {}
        for number, prompt in chain(self._prefilled.items(), self._prefill(fresh)):
            if rows := rows_of.get(number):
                uniforms = torch.stack([_uniforms(row, self._limit) for row in rows])
                self._slots.enter(prompt, uniforms, self._prefix(number, prompt))
                self.rows += rows
            if number == following:
                # As each is a part of the tensors of all that were computed with it.
                kept[number] = prompt if number in self._prefilled else prompt.clone()
            del prompt
        self._prefilled = kept
        for row in entering:
            row.drawn = 1
        return True

    def _prefix(self, number: int, prompt: Prompt) -> tuple[int, Prompt] | None:
        """What of the prompt of a request is shared, with a number for it."""
        if self._shared is Shared.BEGINNING:
            assert prompt.after is not None
            return 0, prompt.after
        return None if self._shared is Shared.NOTHING else (number, prompt)

    def _own(self, row: _Row) -> int:
        """How many tokens of its prompt a row has in its own slot."""
        match self._shared:
            case Shared.NOTHING:
                return len(row.prompt_ids)
            case Shared.BEGINNING:
                return len(row.prompt_ids) - len(self._common or ())
            case Shared.PROMPT:
                return 0

    def _reserve(self, rows: Sequence[_Row], tokens: int) -> None:
        """Have room for what is in the cache, where the last token drawn is not yet, and `tokens` more."""
        self._slots.reserve(
            max(self._own(row) + min(self._limit, max(0, row.drawn - 1) + tokens) for row in rows)
        )

    def _prefill(self, prompts: dict[int, list[int]]) -> Iterator[tuple[int, Prompt]]:
        """Compute prompts by the number of their request, several at a time, the longest first.

        Those that were taken are not held here, so that never more than several stand beside the cache.
        """
        start = len(self._common) if self._common is not None else 0
        numbers = sorted(prompts, key=lambda number: len(prompts[number]), reverse=True)
        while numbers:
            longest = len(prompts[numbers[0]])
            several = max(
                1,
                min(
                    self._prefill_tokens // (longest - start), PREFILL_KEYS * self._prefill_tokens // longest
                ),
            )
            now, numbers = numbers[:several], numbers[several:]
            own = [prompts[number][start:] for number in now]
            yield from zip(now, self._decoder.prefill(own, self._common), strict=True)

    def settle(self, least: int | None) -> None:
        """Nobody is to come: stop sharing prefixes once what is left of the slots is spared too little."""
        if self._shared is not Shared.NOTHING and least is not None and self._slots.spared < least:
            self._slots.copy_prefixes()
            self._shared = Shared.NOTHING

    def write(self, tokens: int) -> None:
        """Draw up to that many tokens more in each row, and not more than any row can take."""
        tokens = min(tokens, self._limit - min(row.drawn for row in self.rows))
        self._reserve(self.rows, tokens)
        self._slots.advance(tokens)
        for row in self.rows:
            row.drawn += tokens

    def leave(self) -> list[tuple[_Row, Rollout]]:
        """Drop and return the rows that have ended."""
        ended = self._slots.done()
        if not ended:
            return []
        rollouts = [
            Rollout(
                self.rows[slot].prompt_ids, ids, logprobs, "stop" if ids[-1] in self._eos_ids else "length"
            )
            for slot, (ids, logprobs) in zip(ended, self._slots.read(ended), strict=True)
        ]
        leaving = [self.rows[slot] for slot in ended]
        self.rows = [self.rows[slot] for slot in self._slots.drop(ended)]
        return list(zip(leaving, rollouts, strict=True))


def _common(prompts: Sequence[Sequence[int]]) -> list[int]:
    """What all of several prompts begin with, if computing it once pays; none is all of it."""
    length = min(common_beginning(prompts), *(len(prompt) - 1 for prompt in prompts))
    saved = length * (len(prompts) - 1)
    pays = length >= _COMMON_TOKENS and saved >= _COMMON_SHARE * sum(map(len, prompts))
    return list(prompts[0][:length]) if pays else []


def what_to_share(groups: Sequence[tuple[int, int]], common: int, capacity: int, least: int | None) -> Shared:
    """What slots share of prompts that begin with `common` same tokens.

    `groups` are the tokens of each prompt and its number of completions. Copied prompts would take as many
    positions in each slot as the longest has. The prefix is taken that spares most of them, less those of
    what is held; and none where that is less than `least`, or where `least` is None.
    """
    if least is None:
        return Shared.NOTHING
    rows = sum(count for _, count in groups)
    longest = max(length for length, _ in groups)
    # Of copies that would stand side by side, the share that is held: one of each group.
    kept = sum(count / rows / min(count, capacity) for _, count in groups)
    spared = {Shared.BEGINNING: common * (capacity - 1), Shared.PROMPT: capacity * longest * (1 - kept)}
    most = max(spared, key=lambda shared: spared[shared])
    return most if spared[most] >= least else Shared.NOTHING


def _uniforms(row: _Row, count: int) -> Tensor:
    """The numbers that decide a completion's tokens: they depend on its seed alone."""
    return torch.rand(count, generator=torch.Generator().manual_seed(row.seed), dtype=torch.float32)
