"""The completions that are being written side by side, one a slot, with all their state on the device.

A step computes every slot's last token and draws its next one. Nothing of that needs the host, which looks
now and then at which slots are done. On CUDA the looks are 16 tokens apart, since each waits for the device,
and a step is a CUDA graph, since launching its kernels one by one takes longer than they do.

Shapes: S slots, N tokens a completion at most, V vocabulary, K key-value heads, D head size, T positions.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from rlreason.rollout.decoder import Decoder, Prompt
from rlreason.rollout.engine import Sampling
from rlreason.rollout.prefixes import Prefixes
from rlreason.rollout.sampler import sample_tokens


class Graph(Protocol):
    """Something that was recorded and can be done again."""

    def replay(self) -> None: ...


Record = Callable[[Callable[[], None], torch.device, Graph | None], Graph]
"""Record the work that a function gives to a device, without doing it.

A graph to share memory with may be given: one of them runs at a time, and the work leaves its results in
tensors from outside. Raises RuntimeError where it cannot be recorded.
"""


@dataclass(frozen=True)
class Pace:
    """How the host drives the device.

    `tokens` are drawn between two looks at which completions are done; one that is done keeps its slot, and
    draws into the void, until then. With `record` a step is recorded once and replayed: the number of slots
    is then rounded up to a power-of-two part of all, and the cache doubles and never shrinks, so that there
    are few recordings; else it holds what is needed. Its size is a multiple of `block` positions. Prompts are
    computed together up to `prefill` tokens, padding included. A prefix that slots share is held once where
    that spares them `least_spared` positions in all; with None, as on all but processors, it never is.
    Raises ValueError for `least_spared` below 1 or beside `record`.
    """

    tokens: int
    block: int
    record: Record | None = None
    prefill: int = 1024
    least_spared: int | None = None

    def __post_init__(self) -> None:
        least = self.least_spared
        if least is not None and (least < 1 or self.record is not None):
            raise ValueError(f"least_spared must be at least 1, and None for recorded steps; got {least}")


def pace_of(device: torch.device) -> Pace:
    if device.type == "cuda":
        return Pace(tokens=16, block=256, record=_record_cuda, prefill=8192)
    if device.type != "cpu":
        return Pace(tokens=1, block=32)
    # Looking costs nothing. Products of widths that are no multiple of 32 take up to twice as long. Where
    # fewer positions are spared, gathering the queries of a prefix costs more than it saves (docs/log.md).
    return Pace(tokens=1, block=32, least_spared=3000)


def sequences_at_once(asked: int | None, device: torch.device) -> int:
    """How many completions are written side by side: what is asked for, else what suits the device.

    A step of a GPU takes about as long for 512 as for 128; that of a processor is as quick a token with 128.
    """
    return asked or (512 if device.type == "cuda" else 128)


class Slots:
    """The first `used` slots hold a completion each. `capacity` is the number of slots.

    `longest` is how many positions a slot may come to take. With `prefixes` each has a prefix that it may
    share, of which there are at most so many. `records` is how steps are recorded, None from the moment in
    which that failed.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        capacity: int,
        longest: int,
        sampling: Sampling,
        eos_ids: Sequence[int],
        device: torch.device,
        pace: Pace,
        prefixes: int | None = None,
    ) -> None:
        self._decoder = decoder
        self._sampling = sampling
        self.records = pace.record
        self._cache = decoder.new_cache(capacity, block=pace.block)
        self._prefixes = None
        if prefixes is not None:
            assert device.type == "cpu"
            assert pace.record is None
            self._prefixes = Prefixes(decoder.new_cache(0, block=pace.block), min(prefixes, capacity))
        self._graphs: dict[int, Graph] = {}
        self._longest = longest
        self.capacity = capacity
        self.used = 0
        limit = sampling.max_new_tokens
        self._eos_E = torch.tensor(list(eos_ids), dtype=torch.long, device=device)
        # The token that was drawn last and is not in the cache yet; positions in the cache; tokens drawn.
        self._tokens_S, self._lengths_S, self._drawn_S = torch.zeros(
            (3, capacity), dtype=torch.long, device=device
        ).unbind()
        self._writing_S = torch.zeros(capacity, dtype=torch.bool, device=device)
        # One column more than a completion has tokens: there goes what a slot draws that is done.
        self._ids_SN = torch.zeros((capacity, limit + 1), dtype=torch.long, device=device)
        self._logprobs_SN = torch.zeros((capacity, limit + 1), device=device)
        self._uniforms_SN = torch.zeros((capacity, limit + 1), device=device)

    def reserve(self, positions: int) -> None:
        """Have room for that many positions in the cache."""
        if self.records is None:
            self._cache.reserve(positions)
        elif positions > self._cache.positions:
            # They write where the cache is now, and read rotary tables that grow with it. All go at once,
            # since they share memory, also cuBLAS's; and before a second cache stands beside this one.
            self._graphs.clear()
            self._cache.reserve(min(max(positions, 2 * self._cache.positions), self._longest))

    def enter(self, prompt: Prompt, uniforms_SN: Tensor, prefix: tuple[int, Prompt] | None = None) -> None:
        """Begin a completion of one prompt for each row of uniforms, and draw its first token.

        `prefix` is what of the prompt is shared: all of it or what stands in front, and a number by which it
        is known. Given if, and only if, these slots have prefixes.
        """
        assert (prefix is None) == (self._prefixes is None)
        count = len(uniforms_SN)
        slots = slice(self.used, self.used + count)
        own, start = prompt.parts(), 0
        if self._prefixes is not None and prefix is not None:
            number, shared = prefix
            parts, start = shared.parts(), len(shared)
            self._prefixes.enter(count, number, [(part.keys_LKND, part.values_LKND) for part in parts])
            own = own[len(parts) :]
        for part in own:
            self._cache.fill(slots, part.keys_LKND, part.values_LKND, end=len(part) - start)
        self._lengths_S[slots] = len(prompt)
        self._drawn_S[slots] = 0
        self._writing_S[slots] = True
        self._uniforms_SN[slots, :-1] = uniforms_SN.to(self._tokens_S.device)
        self._draw(slots, prompt.logits_V.expand(count, -1))
        self.used += count

    @property
    def spared(self) -> int:
        """How many positions are spared by prefixes that are held once."""
        return 0 if self._prefixes is None else self._prefixes.spared

    def copy_prefixes(self) -> None:
        """Give each slot in use its prefix as its own, and give up the other slots."""
        assert self._prefixes is not None
        counts_S = (self._lengths_S[: self.used] - self._prefixes.length_S).tolist()
        self._prefixes.copy_to(self._cache, counts_S)
        self._prefixes, self.capacity = None, self.used

    def advance(self, tokens: int) -> None:
        """Draw that many tokens in every slot in use. There is room in the cache for them."""
        for _ in range(tokens):
            self._step()

    def done(self) -> list[int]:
        """The slots whose completion has ended. Waits for the device."""
        writing = self._writing_S[: self.used].tolist()
        return [slot for slot, one in enumerate(writing) if not one]

    def read(self, slots: Sequence[int]) -> list[tuple[list[int], list[float]]]:
        """The token ids of each, and their log-probs."""
        index = torch.tensor(slots, device=self._tokens_S.device)
        drawn = self._drawn_S[index].tolist()
        ids, logprobs = self._ids_SN[index].tolist(), self._logprobs_SN[index].tolist()
        return [(a[:n], b[:n]) for n, a, b in zip(drawn, ids, logprobs, strict=True)]

    def drop(self, slots: Sequence[int]) -> list[int]:
        """Free some slots. Returns the old slots of those that stay, in the order of their new ones.

        What stands behind moves into the holes, and no more than that is copied.
        """
        gone = set(slots)
        left = self.used - len(gone)
        order = list(range(left))
        holes = [slot for slot in order if slot in gone]
        movers = [slot for slot in range(left, self.used) if slot not in gone]
        for hole, mover in zip(holes, movers, strict=True):
            order[hole] = mover
        if movers:
            sources, targets = (torch.tensor(part, device=self._tokens_S.device) for part in (movers, holes))
            self._cache.move(sources, targets)
            for state in (
                *(self._tokens_S, self._lengths_S, self._drawn_S, self._writing_S),
                *(self._ids_SN, self._logprobs_SN, self._uniforms_SN),
            ):
                state[targets] = state[sources]
        if self._prefixes is not None:
            self._prefixes.drop(order)
        # A free slot may be computed along with the others: at the first position, which there always is.
        self._lengths_S[left : self.used] = 0
        self._writing_S[left : self.used] = False
        self.used = left
        return order

    # ------------------------------------------------------------------ on the device

    def _step(self) -> None:
        if self.records is None:
            self._compute(self.used)
            return
        count = _part(self.capacity, self.used)
        if count in self._graphs:
            self._graphs[count].replay()
            return
        self._compute(count)  # the first time as it is: libraries set themselves up then
        self._try_to_record(self.records, count)

    def _try_to_record(self, record: Record, count: int) -> None:
        """Record a step, or say that steps are not recorded from now on."""
        beside = next(iter(self._graphs.values()), None)
        try:
            self._graphs[count] = record(partial(self._compute, count), self._tokens_S.device, beside)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.records = None
            self._graphs.clear()  # the cache may move from now on, and they hold memory
            warnings.warn(
                f"sampling goes on without CUDA graphs, more slowly: {str(error).splitlines()[0]}",
                stacklevel=2,
            )

    def _compute(self, count: int) -> None:
        """Put the last token of the first `count` slots into the cache and draw the next one."""
        slots = slice(0, count)
        tokens_S, lengths_S = self._tokens_S[slots], self._lengths_S[slots]
        logits_SV = self._decoder.decode(tokens_S, lengths_S, self._cache, self._prefixes)
        self._lengths_S[slots] += self._writing_S[slots]
        self._draw(slots, logits_SV)

    def _draw(self, slots: slice, logits_SV: Tensor) -> None:
        limit = self._sampling.max_new_tokens
        writing_S, drawn_S = self._writing_S[slots], self._drawn_S[slots]
        place_S1 = torch.where(writing_S, drawn_S, limit).unsqueeze(1)
        uniform_S = self._uniforms_SN[slots].gather(1, place_S1).squeeze(1)
        tokens_S, logprobs_S = sample_tokens(logits_SV, uniform_S, self._sampling)
        self._tokens_S[slots] = tokens_S
        self._ids_SN[slots].scatter_(1, place_S1, tokens_S.unsqueeze(1))
        self._logprobs_SN[slots].scatter_(1, place_S1, logprobs_S.unsqueeze(1))
        drawn_S += writing_S
        ended_S = (tokens_S.unsqueeze(1) == self._eos_E).any(1)
        writing_S &= ~ended_S & (drawn_S < limit)


def _part(capacity: int, used: int) -> int:
    """The smallest that holds `used` of capacity, its half, a quarter, ..., rounded up."""
    while (half := -(-capacity // 2)) >= used and half < capacity:
        capacity = half
    return capacity


def _record_cuda(work: Callable[[], None], device: torch.device, beside: Graph | None) -> Graph:
    graph = torch.cuda.CUDAGraph()
    pool = beside.pool() if isinstance(beside, torch.cuda.CUDAGraph) else None
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream()
        try:
            # Other threads, such as a watchdog's, may talk to the device meanwhile.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                work()
        finally:
            torch.cuda.set_stream(stream)  # where the end of a recording fails, torch leaves its own in place
    return graph
