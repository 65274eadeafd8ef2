"""The native engine is held against transformers: the same weights give the same tokens and log-probs."""

import warnings
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import EOS, FAMILIES, PAD, plain_logprobs, random_ids, tiny_model, with_lora
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlreason.rollout import Request, Sampling
from rlreason.rollout import native as native_module
from rlreason.rollout.families import unsupported
from rlreason.rollout.native import NativeEngine
from rlreason.rollout.slots import Pace, Slots, pace_of
from rlreason.seeds import derive_seed
from rlreason.types import Rollout

# Prompts of different lengths in one batch, one of a single token.
PROMPTS = [random_ids(n, seed=n) for n in (5, 9, 1)]
# More requests than slots, rows that end at different times: (prompt length, completions) of each request.
CROWD = [(5, 3), (9, 1), (2, 2), (7, 1), (1, 2)]


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


# What a processor does; several tokens between two looks at what is done; and that with recorded steps.
PACES = {
    "each token": Pace(tokens=1, block=32),
    "bursts": Pace(tokens=5, block=1),
    "recorded": Pace(tokens=7, block=8, record=Replayed),
}


def native(model: Any, *, eos_ids: tuple[int, ...] = (EOS,), **options: Any) -> NativeEngine:
    settings: dict[str, Any] = {"max_sequences": 16, "dtype": torch.float32, **options}
    return NativeEngine(model, eos_ids=eos_ids, **settings)


def requests(shape: list[tuple[int, int]]) -> list[Request]:
    return [
        Request(
            random_ids(length, seed=100 + number), tuple(derive_seed("test", number, k) for k in range(count))
        )
        for number, (length, count) in enumerate(shape)
    ]


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def assert_same(one: list[Rollout], other: list[Rollout]) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.prompt_ids, a.completion_ids, a.finish_reason) == (
            b.prompt_ids,
            b.completion_ids,
            b.finish_reason,
        )
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def check_logprobs(model: Any, rollouts: list[Rollout], temperature: float = 1.0) -> None:
    for rollout in rollouts:
        with torch.no_grad():
            expected = plain_logprobs(model, rollout.prompt_ids, rollout.completion_ids, temperature)
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_equal_those_of_generate(name: str) -> None:
    model = tiny_model(name)
    sampling = Sampling(max_new_tokens=24, temperature=0.0)
    groups = native(model).generate([Request(prompt, (0,)) for prompt in PROMPTS], sampling)
    for prompt, (rollout,) in zip(PROMPTS, groups, strict=True):
        expected = model.generate(
            torch.tensor([prompt]), max_new_tokens=24, do_sample=False, eos_token_id=EOS, pad_token_id=PAD
        )
        assert rollout.completion_ids == expected[0, len(prompt) :].tolist()
        assert rollout.prompt_ids == prompt
    check_logprobs(model, flat(groups))


@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_logprobs_equal_a_plain_forward_pass(name: str) -> None:
    model = tiny_model(name)
    sampling = Sampling(max_new_tokens=12, temperature=0.7, top_p=0.9)
    rollouts = flat(native(model, eos_ids=()).generate(requests([(5, 3), (11, 2)]), sampling))
    assert len({tuple(r.completion_ids) for r in rollouts}) == 5  # seeds of their own
    check_logprobs(model, rollouts, temperature=0.7)


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "down_proj"], ["v_proj", "lm_head"], ["embed_tokens"]]
)
def test_an_adapter_is_part_of_the_sampler(targets: Any) -> None:
    base = tiny_model("llama")
    before = native(base).generate(requests([(5, 2)]), Sampling(10))
    model = with_lora(base, targets=targets).eval()
    groups = native(model).generate(requests([(5, 2)]), Sampling(10))
    check_logprobs(model, flat(groups))
    assert [r.logprobs for r in flat(groups)] != [r.logprobs for r in flat(before)]


@pytest.mark.parametrize("name", ["qwen2", "qwen3 window bias tied", "gemma3_text", "granite", "phi3"])
def test_an_adapter_on_other_families(name: str) -> None:
    model = with_lora(tiny_model(name)).eval()
    check_logprobs(model, flat(native(model).generate(requests([(5, 2)]), Sampling(10))))


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


def test_the_order_of_the_requests_is_that_of_the_answer() -> None:
    crowd = requests(CROWD)
    groups = native(tiny_model("llama"), max_sequences=3).generate(crowd, Sampling(6))
    assert [len(group) for group in groups] == [count for _, count in CROWD]
    for request, group in zip(crowd, groups, strict=True):
        assert all(rollout.prompt_ids == request.prompt_ids for rollout in group)


def test_an_end_at_the_very_last_token_counts_as_stop() -> None:
    model = tiny_model("llama")
    (free,) = native(model, eos_ids=()).generate(requests([(5, 1)]), Sampling(6))
    last = free[0].completion_ids[-1]
    assert last not in free[0].completion_ids[:-1]
    (ended,) = native(model, eos_ids=(last,)).generate(requests([(5, 1)]), Sampling(6))
    assert (free[0].finish_reason, ended[0].finish_reason) == ("length", "stop")
    assert ended[0].completion_ids == free[0].completion_ids


def test_the_same_seeds_give_the_same_completions_and_other_seeds_others() -> None:
    engine = native(tiny_model("llama"))
    first, second = (engine.generate(requests(CROWD), Sampling(8)) for _ in range(2))
    assert flat(first) == flat(second)
    (pair,) = engine.generate([Request(PROMPTS[0], (1, 1, 2))], Sampling(8))
    assert pair[0] == pair[1] != pair[2]


def test_sampled_tokens_follow_the_model() -> None:
    model = tiny_model("llama", initializer_range=0.08)
    count = 3000
    seeds = tuple(derive_seed("chi", n) for n in range(count))
    (group,) = native(model, max_sequences=500).generate(
        [Request(PROMPTS[0], seeds)], Sampling(1, temperature=0.8)
    )
    with torch.no_grad():
        probs = (model(torch.tensor([PROMPTS[0]])).logits[0, -1].double() / 0.8).softmax(-1)
    bins = torch.arange(len(probs)) % 8
    expected = torch.zeros(8, dtype=torch.float64).index_add(0, bins, probs) * count
    drawn = torch.tensor([rollout.completion_ids[0] for rollout in group])
    observed = torch.bincount(bins[drawn], minlength=8).double()
    assert float(expected.min()) > 50
    # chi-square table: 7 degrees of freedom, p = 0.001
    assert float(((observed - expected) ** 2 / expected).sum()) < 24.322


@pytest.mark.parametrize(("name", "lora"), [*((name, False) for name in FAMILIES), ("llama", True)])
def test_refresh_takes_over_new_weights(name: str, lora: bool) -> None:
    model = tiny_model(name)
    model = with_lora(model).eval() if lora else model
    engine = native(model)
    before = engine.generate(requests([(5, 2)]), Sampling(10))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    engine.refresh()
    after = engine.generate(requests([(5, 2)]), Sampling(10))
    check_logprobs(model, flat(after))
    assert flat(after) != flat(before)


def test_a_released_engine_holds_no_weights_and_samples_as_before_once_it_is_refreshed() -> None:
    model = tiny_model("llama")
    engine = native(model, dtype=torch.bfloat16)
    before = engine.generate(requests([(5, 2)]), Sampling(10))
    held = [weakref.ref(value) for value in vars(engine.decoder).values() if torch.is_tensor(value)]
    assert held
    engine.release()
    assert not any(reference() is not None for reference in held)
    assert not engine.decoder._layers
    with pytest.raises(AttributeError):
        engine.generate(requests([(5, 2)]), Sampling(10))
    engine.refresh()
    assert engine.generate(requests([(5, 2)]), Sampling(10)) == before


def test_a_prompt_is_computed_once_however_many_completions_it_gets(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = native(tiny_model("llama"), max_sequences=2)
    computed = []
    prefill = engine.decoder.prefill

    def counted(prompts: list[list[int]], after: Any) -> Any:
        computed.extend(prompts)
        return prefill(prompts, after)

    monkeypatch.setattr(engine.decoder, "prefill", counted)
    crowd = requests([(5, 6), (9, 3)])
    engine.generate(crowd, Sampling(4))
    assert computed == [request.prompt_ids for request in crowd]


def test_bfloat16_is_near_float32() -> None:
    model = tiny_model("llama", initializer_range=0.05)
    rollouts = flat(native(model, dtype=torch.bfloat16).generate(requests([(5, 3), (9, 1)]), Sampling(8)))
    for rollout in rollouts:
        with torch.no_grad():
            expected = plain_logprobs(model, rollout.prompt_ids, rollout.completion_ids)
        assert rollout.logprobs == pytest.approx(expected.tolist(), abs=0.1)


def test_gradients_of_the_policy_survive_sampling() -> None:
    model = tiny_model("llama").train()
    native(model).generate(requests([(5, 1)]), Sampling(3))
    plain_logprobs(model, PROMPTS[0], PROMPTS[1]).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_prompts_that_have_entered_are_not_held_beside_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six prompts of 5 tokens, two are computed at a time, and gone before the next two are."""
    monkeypatch.setattr(native_module, "_PREFILL_TOKENS", 10)
    engine = native(tiny_model("llama"), max_sequences=6, eos_ids=())
    stacks: list[int] = []
    alive = []
    prefill = engine.decoder.prefill

    def counted(prompts: Any, after: Any) -> Any:
        alive.append([not torch.UntypedStorage._expired(one) for one in stacks])
        found = prefill(prompts, after)
        storage = found[0].keys_LKND.untyped_storage()  # of the keys of all that were computed
        assert storage.data_ptr() == found[1].keys_LKND.untyped_storage().data_ptr()
        stacks.append(storage._weak_ref())
        return found

    monkeypatch.setattr(engine.decoder, "prefill", counted)
    several = [Request([n, 6, 7, 8, 9], (n,)) for n in range(6)]
    groups = engine.generate(several, Sampling(3))
    assert [group[0].prompt_ids[0] for group in groups] == list(range(6))
    assert alive == [[], [False], [False, False]]


def test_it_tells_how_many_are_done() -> None:
    told: list[int] = []
    native(tiny_model("llama"), max_sequences=2, eos_ids=()).generate(
        [Request([5, 6], (0, 1, 2))], Sampling(max_new_tokens=2), told.append
    )
    # Two slots and three completions of two tokens.
    assert told == [0, 2, 3]


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


def test_nothing_to_sample_and_empty_prompts() -> None:
    engine = native(tiny_model("llama"))
    assert engine.generate([], Sampling(4)) == []
    assert engine.generate([Request([5], ())], Sampling(4)) == [[]]
    with pytest.raises(ValueError, match="without tokens"):
        engine.generate([Request([5], (0,)), Request([], (0,))], Sampling(4))


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("gpt2", {}, "no native path"),
        ("gemma2", {}, "no native path"),
        ("llama", {"hidden_act": "relu"}, "activation 'relu'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "dynamic"),
        ("phi3", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "part of each head"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "later tokens"),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
    ],
)
def test_what_it_cannot_run_is_refused_with_the_reason(
    name: str, options: dict[str, Any], reason: str
) -> None:
    model = tiny_model(name, **options)
    assert reason in str(unsupported(model))
    with pytest.raises(ValueError, match=reason):
        native(model)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_it_can_run_is_not_refused(name: str) -> None:
    assert unsupported(tiny_model(name)) is None
