"""What several completions go on from is held once, and changes nothing."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled import assert_same, check_logprobs, flat, greedy_by_generate, native
from tiny import EOS, FAMILIES, random_ids, tiny_model
from torch import Tensor

from rlreason.rollout import Request, Sampling
from rlreason.rollout.kernels import Cache
from rlreason.rollout.native import Held, what_to_hold
from rlreason.rollout.shared import Shared
from rlreason.rollout.slots import Pace, Slots

ALWAYS = Pace(tokens=1, block=32, spared=1)
SYSTEM = random_ids(20, seed=1)
QUESTIONS = [[*SYSTEM, *random_ids(length, seed=length)] for length in (1, 4, 9)]

LAYERS, KV_HEADS, HEADS, WIDTH = 2, 2, 6, 8


def cache(slots: int) -> Cache:
    shape = {"layers": LAYERS, "slots": slots, "kv_heads": KV_HEADS, "head_dim": WIDTH}
    return Cache(**shape, like=torch.zeros(1), columns=True, block=4)


def drawn(length: int) -> tuple[Tensor, Tensor]:
    """Keys and values (L, K, N, D)."""
    keys, values = torch.randn(2, LAYERS, KV_HEADS, length, WIDTH)
    return keys, values


def attention(query_HD: Tensor, keys_KND: Tensor, values_KND: Tensor, scale: float) -> Tensor:
    out = []
    for head, query in enumerate(query_HD.double()):
        kv = head // (HEADS // KV_HEADS)
        weights = torch.softmax(keys_KND[kv].double() @ query * scale, 0)
        out.append(weights @ values_KND[kv].double())
    return torch.stack(out)


def test_attention_over_prompts_that_come_and_go() -> None:
    torch.manual_seed(0)
    own, shared = cache(8), Shared(cache(0))
    # Of each slot: its prompt, and what it has written itself.
    held: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
    prompts = {number: [drawn(2), drawn(length)] for number, length in ((7, 3), (1, 9), (4, 1), (2, 5))}

    def enter(number: int, lengths: list[int]) -> None:
        shared.enter(len(lengths), number, prompts[number])
        own.reserve(max(lengths))
        keys, values = (torch.cat(part, 2) for part in zip(*prompts[number], strict=True))
        for length in lengths:
            written = drawn(length)
            own.fill(slice(len(held), len(held) + 1), *written, end=length)
            held.append(((keys, values), written))

    def check() -> None:
        assert shared.length_S.tolist() == [keys.shape[2] for (keys, _), _ in held]
        lengths = torch.tensor([front[0].shape[2] + written[0].shape[2] for front, written in held])
        place_SW = shared.place_SW(own)
        hidden_SW = place_SW >= lengths.unsqueeze(1)
        mask = torch.zeros(hidden_SW.shape).masked_fill(hidden_SW, -torch.inf)[:, None, None]
        for layer in range(LAYERS):
            query = torch.randn(len(held), HEADS, WIDTH)
            found = shared.attend(layer, own, query, mask, 0.3)
            for slot, parts in enumerate(held):
                keys, values = (torch.cat(part, 2)[layer] for part in zip(*parts, strict=True))
                wanted = attention(query[slot], keys, values, 0.3)
                torch.testing.assert_close(found[slot].double(), wanted, rtol=1e-5, atol=1e-5)
                # And each key has its place, once.
                seen = place_SW[slot][~hidden_SW[slot]].tolist()
                assert seen == list(range(keys.shape[1]))

    def drop(order: list[int]) -> None:
        shared.drop(order)
        sources = torch.tensor(order, dtype=torch.long)
        own.move(sources, torch.arange(len(order)))
        held[:] = [held[slot] for slot in order]

    enter(7, [1, 3])
    check()
    enter(1, [2])
    enter(4, [4, 1, 2])
    check()
    drop([0, 5, 2, 3])  # one of each group
    check()
    drop([2, 3])  # the first prompt goes: the last takes its place
    check()
    assert shared.prompts == 2
    enter(1, [3])  # goes on from what is there
    assert shared.prompts == 2
    enter(2, [1, 1])
    check()
    drop([3])
    check()
    assert shared.prompts == 1
    drop([])
    assert shared.prompts == 0
    enter(7, [2, 1])
    check()


def test_what_is_held_is_not_in_the_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 positions are room for 16 tokens, and not for a prompt of 29 as well."""
    sizes = set()
    own = Slots.advance

    def seen(self: Slots, tokens: int) -> None:
        own(self, tokens)
        sizes.add(self._cache.positions)

    monkeypatch.setattr(Slots, "advance", seen)
    requests = [Request(question, (0, 1, 2, 3)) for question in QUESTIONS]
    model = tiny_model("llama")
    native(model, pace=ALWAYS).generate(requests, Sampling(16))
    assert sizes == {32}
    native(model, pace=Pace(tokens=1, block=32)).generate(requests, Sampling(16))
    assert max(sizes) == 64


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [1, 3])
def test_tokens_and_logprobs_are_those_of_the_model(name: str, size: int) -> None:
    """One completion of each prompt goes on from what all begin with, several from the whole."""
    model = tiny_model(name)
    requests = [Request(question, tuple(range(size))) for question in QUESTIONS]
    engine = native(model, pace=ALWAYS)
    for question, group in zip(
        QUESTIONS, engine.generate(requests, Sampling(12, temperature=0.0)), strict=True
    ):
        wanted = greedy_by_generate(model, question, 12)
        assert [rollout.completion_ids for rollout in group] == [wanted] * size
    rollouts = flat(engine.generate(requests, Sampling(12, temperature=0.8)))
    check_logprobs(model, rollouts, temperature=0.8)


@given(
    shape=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=6),
    begin_alike=st.booleans(),
    slots=st.integers(1, 9),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_requests_get_what_they_get_with_copies(
    shape: list[tuple[int, int]], begin_alike: bool, slots: int, data: Any
) -> None:
    """Groups that are cut by the number of slots, that end at any time, and prompts that are equal."""
    model = tiny_model("llama")
    requests, seed = [], data.draw(st.integers(0, 1000))
    for number, (length, count) in enumerate(shape):
        own = random_ids(length, seed=seed + number % 4)
        prompt = [*SYSTEM, *own] if begin_alike else own
        requests.append(Request(prompt, tuple(seed + 10 * number + k for k in range(count))))
    options = {"max_sequences": slots, "eos_ids": (EOS, 7, 11, 19, 23)}
    found = native(model, pace=ALWAYS, **options).generate(requests, Sampling(9))
    wanted = native(model, pace=Pace(tokens=1, block=32), **options).generate(requests, Sampling(9))
    assert_same(flat(found), flat(wanted))


@pytest.mark.parametrize(
    ("sizes", "lengths", "common", "capacity", "spared"),
    [
        # Of a prompt of 70 a slot keeps an eighth, of a beginning of 53 a 64th.
        ([8] * 8, [70] * 8, 53, 64, {Held.PROMPTS: 70 * 7 / 8 * 64, Held.BEGINNING: 53 * 63 / 64 * 64}),
        ([1] * 64, [70] * 64, 53, 64, {Held.BEGINNING: 53 * 63}),
        ([1] * 64, [70] * 64, 0, 64, {}),
        # A group of 8 in 2 slots: half of its prompt.
        ([8], [500], 0, 2, {Held.PROMPTS: 250 * 2}),
        # Three slots of four have a long prompt of which a third is theirs.
        ([3, 1], [90, 10], 0, 4, {Held.PROMPTS: 3 / 4 * 90 * 2 / 3 * 4}),
        ([2, 2], [50, 50], 40, 4, {Held.PROMPTS: 25 * 4, Held.BEGINNING: 40 * 3}),
    ],
)
def test_what_spares_most_is_held(
    sizes: list[int], lengths: list[int], common: int, capacity: int, spared: dict[Held, float]
) -> None:
    groups = list(zip(lengths, sizes, strict=True))
    best = max(spared, key=lambda held: spared[held], default=Held.NOTHING)
    most = int(spared.get(best, 0))
    assert what_to_hold(groups, common, capacity, max(1, most)) is best
    assert what_to_hold(groups, common, capacity, most + 1) is Held.NOTHING
    assert what_to_hold(groups, common, capacity, None) is Held.NOTHING
