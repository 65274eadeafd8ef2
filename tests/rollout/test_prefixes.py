"""A prefix that completions share is held once, which changes nothing."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sampled import assert_same, attention, check_logprobs, flat, greedy_by_generate, native
from tiny import EOS, FAMILIES, plain_logprobs, random_ids, tiny_model
from torch import Tensor

from rlreason.rollout import Request, Sampling
from rlreason.rollout.kernels import Cache
from rlreason.rollout.native import Shared, what_to_share
from rlreason.rollout.prefixes import Prefixes
from rlreason.rollout.slots import Pace, Slots
from rlreason.types import Rollout

# Small blocks, so that both caches grow and shrink, and are not as wide as each other.
ALWAYS = Pace(tokens=1, block=4, least_spared=1)
NEVER = Pace(tokens=1, block=4)
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


def test_attention_over_prefixes_that_come_and_go() -> None:
    torch.manual_seed(0)
    own, prefixes = cache(8), Prefixes(cache(0), most=3)
    # Of each slot: its prompt, and what it has written itself.
    held: list[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
    prompts = {number: [drawn(2), drawn(length)] for number, length in ((7, 3), (1, 19), (4, 1), (2, 5))}

    def enter(number: int, lengths: list[int]) -> None:
        prefixes.enter(len(lengths), number, prompts[number])
        own.reserve(max(lengths))
        keys, values = (torch.cat(part, 2) for part in zip(*prompts[number], strict=True))
        for length in lengths:
            written = drawn(length)
            own.fill(slice(len(held), len(held) + 1), *written, end=length)
            held.append(((keys, values), written))

    def check() -> None:
        assert prefixes.length_S.tolist() == [keys.shape[2] for (keys, _), _ in held]
        lengths = torch.tensor([front[0].shape[2] + written[0].shape[2] for front, written in held])
        position_SW = prefixes.position_SW(own)
        hidden_SW = position_SW >= lengths.unsqueeze(1)
        mask = torch.zeros(hidden_SW.shape).masked_fill(hidden_SW, -torch.inf)[:, None, None]
        for layer in range(LAYERS):
            query = torch.randn(len(held), HEADS, WIDTH)
            found = prefixes.attend(layer, own, query, mask, 0.3)
            for slot, parts in enumerate(held):
                keys, values = (torch.cat(part, 2)[layer] for part in zip(*parts, strict=True))
                wanted = attention(query[slot], keys, values, 0.3)
                torch.testing.assert_close(found[slot].double(), wanted, rtol=1e-5, atol=1e-5)
                # And each key has its place, once.
                seen = position_SW[slot][~hidden_SW[slot]].tolist()
                assert seen == list(range(keys.shape[1]))

    def shapes() -> tuple[int, int]:
        return prefixes._cache._shape[0], prefixes.room

    def drop(order: list[int]) -> None:
        prefixes.drop(order)
        sources = torch.tensor(order, dtype=torch.long)
        own.move(sources, torch.arange(len(order)))
        held[:] = [held[slot] for slot in order]

    enter(7, [1, 3])
    check()
    assert shapes() == (1, 8)
    enter(1, [2])
    assert shapes() == (2, 24)
    enter(4, [4, 1, 2])
    check()
    assert shapes() == (3, 24)  # not four: three are the most that there are
    drop([0, 5, 2, 3])  # one of each group
    check()
    drop([2, 3])  # the first prompt goes: the last takes its place
    check()
    assert len(prefixes._held) == 2
    enter(1, [3])  # goes on from what is there
    assert len(prefixes._held) == 2
    enter(2, [1, 1])
    check()
    room = prefixes.room
    drop([3, 1])  # the longest goes
    enter(7, [2])
    check()
    assert prefixes.room < room
    drop([2])
    check()
    assert len(prefixes._held) == 1
    drop([])
    assert len(prefixes._held) == 0
    enter(7, [2, 1])
    check()


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """After each token: the positions of a slot's own, the prefixes and the positions of the longest."""
    seen = []
    own = Slots.advance

    def advance(self: Slots, tokens: int) -> None:
        own(self, tokens)
        prefixes = self._prefixes
        seen.append((self._cache.positions, *((len(prefixes._held), prefixes.room) if prefixes else (0, 0))))

    monkeypatch.setattr(Slots, "advance", advance)
    return seen


@pytest.mark.parametrize(
    ("size", "widest"),
    [
        (8, [(16, 3, 32)]),  # and 29 of the longest prompt, and a sixteenth, in blocks of 4
        (1, [(28, 1, 24)]),  # of which 9 are not in the beginning of 20
    ],
)
def test_a_shared_prefix_is_not_in_the_slots(
    size: int, widest: list[tuple[int, int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the last of 17 tokens are in the cache."""
    seen = spied(monkeypatch)
    requests = [Request(question, tuple(range(size))) for question in QUESTIONS]
    model = tiny_model("llama")
    native(model, eos_ids=(), max_sequences=32, pace=ALWAYS).generate(requests, Sampling(17))
    assert [max(seen)] == widest
    seen.clear()
    native(model, eos_ids=(), max_sequences=32, pace=NEVER).generate(requests, Sampling(17))
    assert max(seen) == (48, 0, 0)


# Wider than what a slot holds of its own, 12 positions for 11 tokens, and less than what it sees.
WINDOWS = {"a wide window": {"sliding_window": 24}}


@pytest.mark.parametrize("name", [*FAMILIES, *WINDOWS])
@pytest.mark.parametrize("size", [1, 8])
def test_tokens_and_logprobs_are_those_of_the_model(
    name: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One completion of each prompt shares what all begin with; several share the whole prompt."""
    model = tiny_model("mistral", **WINDOWS[name]) if name in WINDOWS else tiny_model(name)
    seen = spied(monkeypatch)
    requests = [Request(question, tuple(range(size))) for question in QUESTIONS]
    engine = native(model, max_sequences=24, pace=ALWAYS)
    groups = engine.generate(requests, Sampling(12, temperature=0.0))
    for question, group in zip(QUESTIONS, groups, strict=True):
        wanted = greedy_by_generate(model, question, 12)
        assert [rollout.completion_ids for rollout in group] == [wanted] * size
    assert max(prefixes for _, prefixes, _ in seen) == (1 if size == 1 else 3)
    rollouts = flat(engine.generate(requests, Sampling(12, temperature=0.8)))
    check_logprobs(model, rollouts, temperature=0.8)


@pytest.mark.parametrize("size", [1, 8])
def test_in_bfloat16_they_are_as_near_as_with_copies(size: int) -> None:
    model = tiny_model("llama")
    requests = [Request(question, tuple(range(size))) for question in QUESTIONS]

    def gap(pace: Pace) -> float:
        engine = native(model, eos_ids=(), max_sequences=24, pace=pace, dtype=torch.bfloat16)
        gaps = []
        for rollout in flat(engine.generate(requests, Sampling(12))):
            with torch.no_grad():
                plain = plain_logprobs(model, rollout.prompt_ids, rollout.completion_ids, 1.0)
            gaps += (torch.tensor(rollout.logprobs) - plain).abs().tolist()
        return sum(gaps) / len(gaps)

    assert gap(ALWAYS) < 1.5 * gap(NEVER) < 0.1


def test_on_a_processor_a_long_prompt_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 completions of 200 tokens are spared 3,000 positions; 8 of a short prompt are not worth it."""
    seen = spied(monkeypatch)
    model = tiny_model("llama", max_position_embeddings=512)
    prompt = random_ids(200, seed=3)
    (group,) = native(model).generate([Request(prompt, tuple(range(16)))], Sampling(4))
    assert {(prefixes, room) for _, prefixes, room in seen} == {(1, 224)}
    check_logprobs(model, group)
    seen.clear()
    native(model).generate([Request(QUESTIONS[0], tuple(range(8)))], Sampling(4))
    assert {prefixes for _, prefixes, _ in seen} == {0}


def test_the_last_few_get_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two groups of 8, prompts of 24 and 29: 14 x 29 are spared, 406; with the last of each nothing is."""
    model = tiny_model("llama")
    seen = spied(monkeypatch)
    left = []
    own = Slots.copy_prefixes

    def noted(self: Slots) -> None:
        left.append((self.used, self.spared))
        own(self)

    monkeypatch.setattr(Slots, "copy_prefixes", noted)
    requests = [Request(question, tuple(range(8))) for question in QUESTIONS[1:]]
    eos_ids = (EOS, 7, 11, 19, 23, 31)
    pace = Pace(tokens=1, block=4, least_spared=100)

    def sampled(pace: Pace, slots: int) -> list[Rollout]:
        engine = native(model, eos_ids=eos_ids, max_sequences=slots, pace=pace)
        return flat(engine.generate(requests, Sampling(30)))

    found = sampled(pace, 16)
    ((slots, spared),) = left
    assert 1 < slots < 8
    assert 0 < spared < 100
    sharing = [prefixes > 0 for _, prefixes, _ in seen]
    assert sharing == sorted(sharing, reverse=True)
    assert 3 < sum(sharing) < len(sharing) - 3
    check_logprobs(model, found)
    assert_same(found, sampled(NEVER, 16))


def test_nothing_is_copied_while_completions_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """In 6 slots two prompts spare 4 x 29 = 116 positions, less than is asked for, while more still wait."""
    events: list[str] = []
    for name in ("enter", "copy_prefixes"):
        own = getattr(Slots, name)

        def noted(self: Slots, *rest: Any, own: Any = own, name: str = name) -> None:
            events.append(name)
            own(self, *rest)

        monkeypatch.setattr(Slots, name, noted)
    requests = [Request(question, tuple(range(8))) for question in QUESTIONS[1:]]
    engine = native(
        tiny_model("llama"),
        eos_ids=(EOS, 7, 11, 19, 23, 31),
        max_sequences=6,
        pace=Pace(tokens=1, block=4, least_spared=130),
    )
    engine.generate(requests, Sampling(30))
    assert events.count("enter") > 4
    assert events.index("copy_prefixes") == len(events) - 1


@given(
    shape=st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), min_size=1, max_size=7),
    begin_alike=st.booleans(),
    slots=st.integers(1, 12),
    tokens=st.integers(1, 3),
    spared=st.sampled_from([1, 30, 100]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_any_requests_get_what_they_get_with_copies(
    shape: list[tuple[int, int]], begin_alike: bool, slots: int, tokens: int, spared: int, seed: int
) -> None:
    """Groups that are cut by the number of slots, that end at any time, and prompts that are equal."""
    model = tiny_model("llama")
    requests = []
    for number, (length, count) in enumerate(shape):
        own = random_ids(length, seed=seed + number % 4)
        prompt = [*SYSTEM, *own] if begin_alike else own
        requests.append(Request(prompt, tuple(seed + 10 * number + k for k in range(count))))
    options: dict[str, Any] = {"max_sequences": slots, "eos_ids": (EOS, 7, 11, 19, 23)}
    pace = Pace(tokens=tokens, block=4, least_spared=spared)
    found = native(model, pace=pace, **options).generate(requests, Sampling(9))
    wanted = native(model, pace=NEVER, **options).generate(requests, Sampling(9))
    assert_same(flat(found), flat(wanted))


@pytest.mark.parametrize(
    ("sizes", "lengths", "common", "capacity", "spared"),
    [
        # Of a prompt of 70 a slot keeps an eighth, of a beginning of 53 a 64th.
        ([8] * 8, [70] * 8, 53, 64, {Shared.PROMPT: 70 * 7 / 8 * 64, Shared.BEGINNING: 53 * 63}),
        ([1] * 64, [70] * 64, 53, 64, {Shared.BEGINNING: 53 * 63}),
        ([1] * 64, [70] * 64, 0, 64, {}),
        # A group of 8 in 2 slots: half of its prompt.
        ([8], [500], 0, 2, {Shared.PROMPT: 250 * 2}),
        # Slots are as wide as the longest needs; two of four hold a prompt of their own.
        ([3, 1], [90, 10], 0, 4, {Shared.PROMPT: 90 * 2}),
        ([2] * 4, [70, 70, 70, 1000], 66, 8, {Shared.PROMPT: 1000 * 4, Shared.BEGINNING: 66 * 7}),
        ([2, 2], [50, 50], 40, 4, {Shared.PROMPT: 25 * 4, Shared.BEGINNING: 40 * 3}),
    ],
)
def test_what_spares_most_is_shared(
    sizes: list[int], lengths: list[int], common: int, capacity: int, spared: dict[Shared, float]
) -> None:
    groups = list(zip(lengths, sizes, strict=True))
    best = max(spared, key=lambda shared: spared[shared], default=Shared.NOTHING)
    most = int(spared.get(best, 0))
    assert what_to_share(groups, common, capacity, max(1, most)) is best
    assert what_to_share(groups, common, capacity, most + 1) is Shared.NOTHING
    assert what_to_share(groups, common, capacity, None) is Shared.NOTHING


def test_recorded_steps_share_nothing() -> None:
    with pytest.raises(ValueError, match="None for recorded steps; got 1"):
        Pace(tokens=1, block=32, least_spared=1, record=lambda *_: pytest.fail("never called"))
    with pytest.raises(ValueError, match="at least 1"):
        Pace(tokens=1, block=32, least_spared=0)
