"""The native engine is held against transformers: the same weights give the same tokens and log-probs."""

import weakref
from typing import Any

import pytest
import torch
from sampled import CROWD, check_logprobs, flat, greedy_by_generate, native, requests
from tiny import FAMILIES, plain_logprobs, random_ids, tiny_model, with_lora

from rlreason.rollout import Request, Sampling
from rlreason.rollout.families import unsupported
from rlreason.rollout.slots import Pace
from rlreason.seeds import derive_seed

# Prompts of different lengths in one batch, one of a single token.
PROMPTS = [random_ids(n, seed=n) for n in (5, 9, 1)]


@pytest.mark.parametrize("name", FAMILIES)
def test_greedy_tokens_equal_those_of_generate(name: str) -> None:
    model = tiny_model(name)
    sampling = Sampling(max_new_tokens=24, temperature=0.0)
    groups = native(model).generate([Request(prompt, (0,)) for prompt in PROMPTS], sampling)
    for prompt, (rollout,) in zip(PROMPTS, groups, strict=True):
        assert rollout.completion_ids == greedy_by_generate(model, prompt, 24)
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


def test_bfloat16_is_near_float32(device: torch.device) -> None:
    model = tiny_model("llama", initializer_range=0.05).to(device)
    rollouts = flat(native(model, dtype=torch.bfloat16).generate(requests([(5, 3), (9, 1)]), Sampling(40)))
    model.cpu()
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
    pace = Pace(tokens=1, block=32, prefill=10)
    engine = native(tiny_model("llama"), max_sequences=6, eos_ids=(), pace=pace)
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
