"""What all prompts begin with is computed once, and changes nothing."""

from collections.abc import Sequence
from typing import Any

import pytest
from sampled import check_logprobs, flat, greedy_by_generate, native
from tiny import FAMILIES, random_ids, tiny_model

from rlreason.rollout import Request, Sampling
from rlreason.rollout.native import NativeEngine
from rlreason.rollout.slots import Pace
from rlreason.seeds import derive_seed

SYSTEM = random_ids(20, seed=1)
# The first is all that is common and one token more; the last goes on longest.
PROMPTS = [[*SYSTEM, *random_ids(length, seed=length)] for length in (1, 4, 2, 9)]


def prefilled(engine: NativeEngine, monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The tokens of each pass over prompts, from now on."""
    seen: list[list[list[int]]] = []
    own = engine.decoder.prefill

    def noted(prompts: Sequence[Sequence[int]], *after: Any) -> Any:
        seen.append([list(prompt) for prompt in prompts])
        return own(prompts, *after)

    monkeypatch.setattr(engine.decoder, "prefill", noted)
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_and_logprobs_are_those_of_whole_prompts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(name)
    engine = native(model)
    seen = prefilled(engine, monkeypatch)
    groups = engine.generate(
        [Request(prompt, (0,)) for prompt in PROMPTS], Sampling(max_new_tokens=12, temperature=0.0)
    )
    assert seen[0] == [SYSTEM]
    assert sorted(map(len, seen[1])) == [1, 2, 4, 9]
    for prompt, (rollout,) in zip(PROMPTS, groups, strict=True):
        assert rollout.completion_ids == greedy_by_generate(model, prompt, 12)
        assert rollout.prompt_ids == prompt
    check_logprobs(model, flat(groups))


def test_more_completions_than_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that are kept between two admissions, and passes of a few of them."""
    model = tiny_model("llama")
    requests = [
        Request(prompt, tuple(derive_seed("test", number, k) for k in range(3)))
        for number, prompt in enumerate(PROMPTS)
    ]
    engine = native(model, max_sequences=4, pace=Pace(tokens=1, block=32, prefill=10))
    seen = prefilled(engine, monkeypatch)
    groups = engine.generate(requests, Sampling(max_new_tokens=8, temperature=0.8))
    assert sum(map(len, seen)) == 1 + len(PROMPTS)  # each once, though they enter four at a time
    for group in groups:
        assert len({tuple(rollout.completion_ids) for rollout in group}) == 3
    check_logprobs(model, flat(groups), temperature=0.8)


@pytest.mark.parametrize(
    "prompts",
    [
        [PROMPTS[0]],  # nothing to share with
        [[*SYSTEM[:15], 5, 6], [*SYSTEM[:15], 7, 8]],  # too short to be worth a pass
        [SYSTEM[:16], PROMPTS[0]],  # the last token of the shorter one is needed for its logits
    ],
)
def test_what_is_not_shared(prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = native(tiny_model("llama"))
    seen = prefilled(engine, monkeypatch)
    engine.generate([Request(prompt, (0, 1)) for prompt in prompts], Sampling(max_new_tokens=2))
    assert sorted(prompt for several in seen for prompt in several) == sorted(prompts)


def test_a_prompt_without_completions_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = native(tiny_model("llama"))
    seen = prefilled(engine, monkeypatch)
    engine.generate([Request(PROMPTS[0], (0,)), Request([5, 6], ()), Request(PROMPTS[1], (0,))], Sampling(2))
    assert seen[0] == [SYSTEM]


def test_one_that_is_the_beginning_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = native(tiny_model("llama"))
    seen = prefilled(engine, monkeypatch)
    engine.generate([Request(SYSTEM, (0,)), Request(PROMPTS[0], (0,))], Sampling(2))
    assert seen == [[SYSTEM[:-1]], [[SYSTEM[-1], PROMPTS[0][-1]], [SYSTEM[-1]]]]
