"""Products and attention of the decoding step, held against their definitions."""

import pytest
import torch
from sampled import attention
from torch import Tensor

from rlreason.rollout.kernels import Cache, Linear


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 24), (3, 24), (64, 24), (100, 24), (2, 5, 24)])
@pytest.mark.parametrize("biased", [False, True])
def test_linear_is_the_product(dtype: torch.dtype, shape: tuple[int, ...], biased: bool) -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(size).to(dtype) for size in (shape, (40, 24), (40,)))
    found = Linear(weight, bias if biased else None)(x)
    expected = x.double() @ weight.double().T + (bias.double() if biased else 0.0)
    assert found.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_linear_keeps_the_weight_it_was_given() -> None:
    weight = torch.eye(16)
    linear = Linear(weight, None)
    weight.zero_()
    x = torch.randn(2, 16)
    # On a processor the weight was copied; elsewhere the live weight may be used. Either is a whole weight.
    assert any(torch.equal(linear(x), expected) for expected in (x, torch.zeros_like(x)))


SLOTS, KV_HEADS, HEADS, WIDTH = 4, 2, 6, 8


def in_heads(*parts: Tensor) -> list[Tensor]:
    """(T, K, D) -> (K, T, D)."""
    return [part.transpose(0, 1) for part in parts]


def masks(lengths: list[int], positions: int) -> Tensor:
    seen = torch.arange(positions) < torch.tensor(lengths)[:, None]
    return torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)[:, None, None]


@pytest.mark.parametrize("columns", [True, False])
def test_attention_over_a_cache_that_grows_moves_and_shrinks(columns: bool) -> None:
    torch.manual_seed(0)
    cache = Cache(
        layers=2,
        slots=SLOTS,
        kv_heads=KV_HEADS,
        head_dim=WIDTH,
        like=torch.zeros(1),
        columns=columns,
        block=32,
    )
    # What should be in each slot: keys and values (T, K, D), of the second layer.
    held: list[tuple[Tensor, Tensor]] = []
    cache.reserve(6)
    for number, length in enumerate((5, 2, 6)):
        keys, values = torch.randn(2, 2, KV_HEADS, length, WIDTH)
        cache.fill(slice(number, number + 1), keys, values, end=length)
        held.append((keys[1].transpose(0, 1), values[1].transpose(0, 1)))

    def check() -> None:
        query = torch.randn(len(held), HEADS, WIDTH)
        mask = masks([len(keys) for keys, _ in held], cache.positions)
        found = cache.attend(1, query, mask, 0.3)
        for row, (keys, values) in enumerate(held):
            torch.testing.assert_close(
                found[row].double(), attention(query[row], *in_heads(keys, values), 0.3), rtol=1e-5, atol=1e-5
            )

    def write(count: int) -> None:
        for _ in range(count):
            places = [len(keys) for keys, _ in held]
            cache.reserve(max(places) + 1)
            key, value = torch.randn(2, len(held), KV_HEADS, WIDTH)
            rows = torch.arange(len(held))
            for layer in range(2):
                cache.append(layer, rows, torch.tensor(places), key, value)
            held[:] = [
                (torch.cat([keys, key[[row]]]), torch.cat([values, value[[row]]]))
                for row, (keys, values) in enumerate(held)
            ]

    check()
    assert cache.positions == 32
    write(60)  # beyond the first block
    assert cache.positions == 96
    check()
    cache.move(torch.tensor([2]), torch.tensor([0]))
    held[:] = [held[2], held[1]]
    check()
    held[:] = [(keys[:3], values[:3]) for keys, values in held]  # as if short rows had taken the slots
    cache.reserve(4)
    assert cache.positions == 32
    check()
    write(2)
    check()


@pytest.mark.parametrize("columns", [True, False])
def test_one_prompt_fills_several_slots(columns: bool) -> None:
    cache = Cache(layers=1, slots=3, kv_heads=1, head_dim=4, like=torch.zeros(1), columns=columns, block=32)
    cache.reserve(3)
    keys, values = torch.randn(2, 1, 1, 3, 4)
    cache.fill(slice(0, 3), keys[:, :, :2], values[:, :, :2], end=2)
    cache.fill(slice(0, 3), keys[:, :, 2:], values[:, :, 2:], end=3)
    query = torch.randn(1, 2, 4).expand(3, -1, -1).contiguous()
    found = cache.attend(0, query, masks([3, 3, 3], cache.positions), 0.5)
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])


@pytest.mark.parametrize("columns", [True, False])
def test_more_slots_keep_what_is_held(columns: bool) -> None:
    torch.manual_seed(0)
    cache = Cache(layers=2, slots=0, kv_heads=1, head_dim=4, like=torch.zeros(1), columns=columns, block=8)
    held = []

    def fill(length: int) -> None:
        number = len(held)
        keys, values = torch.randn(2, 2, 1, length, 4)
        cache.reserve(max(length, *(part.shape[2] for part, _ in held), 0), number + 1)
        cache.fill(slice(number, number + 1), keys, values, end=length)
        held.append((keys, values))

    for length in (3, 7, 2, 20, 5):
        fill(length)
    query = torch.randn(5, 2, 4)
    found = cache.attend(1, query, masks([part.shape[2] for part, _ in held], cache.positions), 0.5)
    for slot, (keys, values) in enumerate(held):
        wanted = attention(query[slot], keys[1], values[1], 0.5)
        torch.testing.assert_close(found[slot].double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [True, False])
def test_a_slot_is_put_together_from_other_caches(columns: bool) -> None:
    torch.manual_seed(0)
    shape = {
        "layers": 2,
        "kv_heads": 1,
        "head_dim": 4,
        "like": torch.zeros(1),
        "columns": columns,
        "block": 8,
    }
    # Keys and values (2, L, K, N, D) of each slot: two of the other cache, and three of its own.
    others, owns = (
        [torch.randn(2, 2, 1, length, 4) for length in lengths] for lengths in ((3, 4), (5, 2, 6))
    )
    other, own = Cache(slots=2, **shape), Cache(slots=3, **shape)
    for cache, held in ((other, others), (own, owns)):
        cache.reserve(6)
        for slot, (keys, values) in enumerate(held):
            cache.fill(slice(slot, slot + 1), keys, values, end=keys.shape[2])
    own.put_behind(other, [1, 0], [4, 3], [5, 2])
    wanted = Cache(slots=2, **shape)
    wanted.reserve(9)
    for slot, parts in enumerate(((others[1], owns[0]), (others[0], owns[1]))):
        keys, values = torch.cat(parts, 3)
        wanted.fill(slice(slot, slot + 1), keys, values, end=keys.shape[2])
    assert own.positions == wanted.positions == 16
    query, mask = torch.randn(2, 2, 4), masks([9, 5], 16)
    for layer in range(2):
        assert torch.equal(own.attend(layer, query, mask, 0.5), wanted.attend(layer, query, mask, 0.5))
