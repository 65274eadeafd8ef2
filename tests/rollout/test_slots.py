"""Completions side by side: who waits, who leaves, and what is asked of the device meanwhile."""

import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
from sampled import CROWD, assert_same, check_logprobs, flat, native, requests
from tiny import EOS, tiny_model
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlreason.rollout import Request, Sampling
from rlreason.rollout.slots import Pace, Slots, pace_of


class Replayed:
    """Stands in for a CUDA graph: all that it used when it was recorded lies where it lay, or it fails."""

    def __init__(self, work: Any, device: torch.device, beside: Any) -> None:
        self._work = work
        self._baked = self._found()

    def _found(self) -> list[int]:
        slots = self._work.func.__self__
        cache, state = slots._cache, [value for value in vars(slots).values() if torch.is_tensor(value)]
        tables = [table for pair in slots._decoder._tables for table in pair]
        tensors = [*cache._keys, *cache._values, *state, *tables]
        return [cache.positions, *(tensor.data_ptr() for tensor in tensors)]

    def replay(self) -> None:
        assert self._found() == self._baked
        self._work()


class OnOneDevice(TorchDispatchMode):
    """Refuses what mixes devices, which on a GPU is a copy that the host waits for."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        assert {tensor.device.type for tensor in tensors} <= {"meta"}, function
        return function(*args, **(kwargs or {}))


# A look at what is done after each token; with shared prefixes; several tokens between two looks; and that
# with recorded steps.
PACES = {
    "each token": Pace(tokens=1, block=32),
    "held once": Pace(tokens=1, block=32, least_spared=1),
    "bursts": Pace(tokens=5, block=1),
    "recorded": Pace(tokens=7, block=8, record=Replayed),
}


@pytest.mark.parametrize("pace", PACES.values(), ids=PACES)
@pytest.mark.parametrize("slots", [1, 2, 3, 8, 9, 100])
def test_waiting_rows_get_what_they_would_get_alone(slots: int, pace: Pace) -> None:
    model = tiny_model("llama")
    eos_ids = (EOS, 7, 11, 19, 23, 31)  # many, so that rows end early and at different times
    crowd, sampling = requests(CROWD), Sampling(max_new_tokens=16)
    engine = native(model, max_sequences=slots, eos_ids=eos_ids, pace=pace)
    together = flat(engine.generate(crowd, sampling))
    alone = [
        native(model, eos_ids=eos_ids).generate([Request(request.prompt_ids, (seed,))], sampling)[0][0]
        for request in crowd
        for seed in request.seeds
    ]
    assert_same(together, alone)
    check_logprobs(model, together)
    assert len({len(r.completion_ids) for r in together}) >= 4
    for rollout in together:
        *body, last = rollout.completion_ids
        assert not set(body) & set(eos_ids)
        assert rollout.finish_reason == ("stop" if last in eos_ids else "length")
        assert (last in eos_ids) or len(rollout.completion_ids) == 16
        assert len(rollout.logprobs) == len(rollout.completion_ids)


def test_steps_are_recorded_once_for_each_part_of_the_slots() -> None:
    recorded = []

    def record(work: Any, device: torch.device, beside: Any) -> Replayed:
        recorded.append((*work.args, beside is not None))
        return Replayed(work, device, beside)

    engine = native(
        tiny_model("llama"), max_sequences=12, eos_ids=(), pace=Pace(tokens=4, block=256, record=record)
    )
    # 12 slots: all of them, and of the other five a part that holds them: 12, 6, 3, 2, 1.
    engine.generate(requests([(5, 17)]), Sampling(20))
    assert recorded == [(12, False), (6, True)]


def test_waves_of_completions_find_the_cache_as_large_as_the_last_left_it() -> None:
    """Four waves of two, 3 + 40 positions in blocks of 8: the cache doubles from 8, and holds 43 at most."""
    sizes = []

    def record(work: Any, device: torch.device, beside: Any) -> Replayed:
        sizes.append(work.func.__self__._cache.positions)
        return Replayed(work, device, beside)

    pace = Pace(tokens=4, block=8, record=record)
    engine = native(tiny_model("llama"), max_sequences=2, eos_ids=(), pace=pace)
    engine.generate(requests([(3, 8)]), Sampling(40))
    assert sizes == [8, 24, 48]  # a sixteenth more than 16 in whole blocks, and 43 in whole blocks


def test_where_a_step_cannot_be_recorded_sampling_goes_on_and_says_so() -> None:
    def fail(work: Any, device: torch.device, beside: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    model = tiny_model("llama")
    engine = native(model, pace=Pace(tokens=4, block=32, record=fail))
    with pytest.warns(UserWarning, match="without CUDA graphs, more slowly: operation not permitted") as said:
        groups = engine.generate(requests(CROWD), Sampling(8))
    assert len(said) == 1
    expected = flat(native(model).generate(requests(CROWD), Sampling(8)))
    assert_same(flat(groups), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nor is it tried again
        assert_same(flat(engine.generate(requests(CROWD), Sampling(8))), expected)


def test_recordings_are_dropped_where_a_later_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """12 slots are recorded, and their half is not."""
    left = []
    own = Slots._try_to_record

    def once(work: Any, device: torch.device, beside: Any) -> Replayed:
        if left:
            raise RuntimeError("out of something")
        return Replayed(work, device, beside)

    def spied(self: Slots, *rest: Any) -> None:
        own(self, *rest)
        left.append(len(self._graphs))

    monkeypatch.setattr(Slots, "_try_to_record", spied)
    model = tiny_model("llama")
    engine = native(model, max_sequences=12, eos_ids=(), pace=Pace(tokens=4, block=256, record=once))
    with pytest.warns(UserWarning, match="out of something"):
        found = flat(engine.generate(requests([(5, 17)]), Sampling(20)))
    assert left == [1, 0]
    assert_same(found, flat(native(model, eos_ids=()).generate(requests([(5, 17)]), Sampling(20))))


def test_a_free_slot_is_filled_before_another_token_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two slots and four completions of 6 tokens, computed but for the last: 2 x 5 steps, not one more."""
    engine = native(tiny_model("llama"), max_sequences=2, eos_ids=())
    sizes = []
    decode = engine.decoder.decode

    def counted(tokens_S: torch.Tensor, *rest: Any) -> Any:
        sizes.append(len(tokens_S))
        return decode(tokens_S, *rest)

    monkeypatch.setattr(engine.decoder, "decode", counted)
    engine.generate([Request([5, 6], (0, 1, 2, 3))], Sampling(max_new_tokens=6))
    assert sizes == [2] * 10


@pytest.mark.gpu
@pytest.mark.parametrize("eos_ids", [(), (EOS, 7, 11, 19)])
@pytest.mark.parametrize("name", ["llama", "mistral window", "gemma3_text"])
def test_cuda_graphs_draw_what_plain_steps_draw(name: str, eos_ids: tuple[int, ...]) -> None:
    model = tiny_model(name).to("cuda")
    crowd, sampling = requests(CROWD), Sampling(100)
    # Small blocks, so that the cache moves while there are graphs.
    pace = replace(pace_of(torch.device("cuda")), block=32)
    graphs = native(model, eos_ids=eos_ids, max_sequences=5, pace=pace)
    plain = native(model, eos_ids=eos_ids, max_sequences=5, pace=Pace(tokens=1, block=32))
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # that a step cannot be recorded
            found = flat(graphs.generate(crowd, sampling))
        assert_same(flat(plain.generate(crowd, sampling)), found)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        graphs.refresh()
        plain.refresh()


def test_between_two_looks_nothing_is_asked_of_the_device() -> None:
    """On the meta device there are no values, and so nothing that could be read: to ask for one fails."""
    model = tiny_model("llama").to("meta")
    engine = native(model, pace=Pace(tokens=8, block=32))
    slots = Slots(
        engine.decoder,
        capacity=4,
        longest=19,
        sampling=Sampling(16, temperature=0.7, top_p=0.9, top_k=20, min_p=0.01),
        eos_ids=[EOS, 7],
        device=torch.device("meta"),
        pace=Pace(tokens=8, block=32),
    )
    slots.reserve(32)
    (prompt,) = engine.decoder.prefill([[5, 6, 7]])
    slots.enter(prompt, torch.rand(3, 16))
    with OnOneDevice():
        slots.advance(8)
    with pytest.raises((RuntimeError, NotImplementedError)):
        slots.done()
