"""The general engine gives what the native one gives, and what a plain forward pass says."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from sampled import assert_same, check_logprobs, flat
from tiny import EOS, PAD, random_ids, tiny_model, with_lora

from rlreason.rollout import Request, Sampling
from rlreason.rollout.native import NativeEngine
from rlreason.rollout.transformers_engine import TransformersEngine

REQUESTS = [Request(random_ids(n, seed=n), seeds) for n, seeds in ((5, (1, 2, 3)), (9, (4,)), (1, (5, 6)))]


def general(model: Any, *, eos_ids: tuple[int, ...] = (EOS,), max_sequences: int = 16) -> TransformersEngine:
    return TransformersEngine(
        model, eos_ids=eos_ids, pad_id=PAD, max_sequences=max_sequences, autocast=nullcontext
    )


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral"])
@pytest.mark.parametrize(
    "sampling", [Sampling(12), Sampling(12, 0.0), Sampling(12, 0.7, top_p=0.8, top_k=9, min_p=0.05)]
)
def test_both_engines_sample_the_same(name: str, sampling: Sampling) -> None:
    model = tiny_model(name)
    eos_ids = (EOS, 7, 11, 19)
    native = NativeEngine(model, eos_ids=eos_ids, max_sequences=4, dtype=torch.float32)
    expected = flat(native.generate(REQUESTS, sampling))
    actual = flat(general(model, eos_ids=eos_ids).generate(REQUESTS, sampling))
    assert_same(actual, expected, within=1e-4)


def test_both_engines_sample_the_same_with_an_adapter() -> None:
    model = with_lora(tiny_model("llama")).eval()
    native = NativeEngine(model, eos_ids=(EOS,), max_sequences=4, dtype=torch.float32)
    expected, actual = (flat(engine.generate(REQUESTS, Sampling(8))) for engine in (native, general(model)))
    assert [r.completion_ids for r in actual] == [r.completion_ids for r in expected]
    check_logprobs(model, actual)


@pytest.mark.parametrize("slots", [1, 2, 4, 16])
def test_a_model_without_native_path_with_prompts_of_different_lengths(slots: int) -> None:
    model = tiny_model("gpt2")
    groups = general(model, max_sequences=slots).generate(REQUESTS, Sampling(10, 0.9))
    check_logprobs(model, flat(groups), temperature=0.9)
    alone = [
        general(model)
        .generate([Request(request.prompt_ids, (seed,))], Sampling(10, 0.9))[0][0]
        .completion_ids
        for request in REQUESTS
        for seed in request.seeds
    ]
    assert [rollout.completion_ids for rollout in flat(groups)] == alone
    assert [len(group) for group in groups] == [3, 1, 2]


def test_it_tells_how_many_are_done() -> None:
    told: list[int] = []
    general(tiny_model("gpt2"), max_sequences=2).generate(
        [Request([5, 6], (0, 1, 2))], Sampling(max_new_tokens=2), told.append
    )
    assert told == [2, 3]


def test_every_one_of_several_end_tokens_ends_a_completion() -> None:
    model = tiny_model("gpt2")
    free = flat(general(model, eos_ids=()).generate(REQUESTS, Sampling(10)))
    assert all(r.finish_reason == "length" and len(r.completion_ids) == 10 for r in free)
    eos_ids = (free[0].completion_ids[2], free[3].completion_ids[5])
    ended = flat(general(model, eos_ids=eos_ids).generate(REQUESTS, Sampling(10)))
    for whole, cut in zip(free, ended, strict=True):
        ends = [place for place, token in enumerate(whole.completion_ids) if token in eos_ids]
        length = ends[0] + 1 if ends else 10
        assert cut.completion_ids == whole.completion_ids[:length]
        assert cut.logprobs == pytest.approx(whole.logprobs[:length], abs=1e-5)
        assert cut.finish_reason == ("stop" if ends else "length")
    assert {rollout.completion_ids[-1] for rollout in ended} >= set(eos_ids)


def test_a_generation_config_of_the_model_does_not_bend_the_distribution() -> None:
    """Qwen2.5-Instruct ships `repetition_penalty: 1.05`, which the trainer's log-probs know nothing of."""
    model = tiny_model("gpt2")
    expected = flat(general(model).generate(REQUESTS, Sampling(10)))
    own = model.generation_config
    own.repetition_penalty, own.no_repeat_ngram_size, own.suppress_tokens = 5.0, 2, [5, 6, 7, 8]
    own.top_k, own.temperature, own.min_new_tokens = 3, 0.1, 9
    actual = flat(general(model).generate(REQUESTS, Sampling(10)))
    assert [r.completion_ids for r in actual] == [r.completion_ids for r in expected]
    check_logprobs(model, actual)
    assert model.generation_config is own
    assert own.repetition_penalty == 5.0


def test_it_samples_without_dropout_and_leaves_the_mode_as_it_was() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    groups = general(model).generate(REQUESTS, Sampling(6))
    assert model.training
    check_logprobs(model.eval(), flat(groups))


def test_it_samples_from_the_weights_that_train() -> None:
    model = tiny_model("gpt2")
    engine = general(model)
    engine.generate(REQUESTS, Sampling(4))
    with torch.no_grad():
        model.transformer.wte.weight.add_(0.2 * torch.randn(model.transformer.wte.weight.shape))
    engine.refresh()
    check_logprobs(model, flat(engine.generate(REQUESTS, Sampling(6))))


def test_nothing_to_sample() -> None:
    assert general(tiny_model("gpt2")).generate([], Sampling(4)) == []
