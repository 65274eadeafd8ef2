"""Attention in blocks gives what attention under the mask over the rows gives, with the same gradients."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlreason.policy import packing
from rlreason.policy.blocks import affordable, block_attention, pays
from rlreason.policy.packing import Completion, Packed, PassSize, Sharing, pack

SCALE = 0.3


def rows_of(shape: list[tuple[int, list[int]]], budget: int = 10_000, common: int = 0) -> list[Packed]:
    """Prompts, so many tokens of each behind `common` ones, and lengths of their completions."""
    sequences = [
        Completion(group, [*range(common), *range(100 + group, 100 + group + prompt)], range(length))
        for group, (prompt, lengths) in enumerate(shape)
        for length in lengths
    ]
    return pack(sequences, share=Sharing.BEGINNING, size=PassSize(budget, budget), pad_id=0)


def tensors(packed: Packed, *, heads: int, kv_heads: int, value_size: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    rows, width = packed.ids_NW.shape
    sizes = [(heads, 4), (kv_heads, 4), (kv_heads, value_size)]
    return [
        torch.randn(rows, width, count, size, generator=generator).transpose(1, 2).requires_grad_()
        for count, size in sizes
    ]


def by_definition(packed: Packed, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax over what each token sees, (N, W, H, D), in float64."""
    assert packed.attention_N1WW is not None
    repeated = query.shape[1] // key.shape[1]
    key, value = (part.double().repeat_interleave(repeated, 1) for part in (key, value))
    scores = query.double() @ key.transpose(-1, -2) * SCALE
    weights = scores.masked_fill(~packed.attention_N1WW, -torch.inf).softmax(-1)
    return (weights @ value).transpose(1, 2)


def in_blocks(packed: Packed, query: Tensor, key: Tensor, value: Tensor, **more: Any) -> Tensor:
    module = SimpleNamespace(num_key_value_groups=query.shape[1] // key.shape[1])
    assert packed.blocks is not None
    seen = packed.blocks.unread_mask
    options: dict[str, Any] = {"blocks": packed.blocks, "scaling": SCALE, **more}
    return block_attention(module, query, key, value, seen, **options)[0]


@settings(max_examples=40, deadline=None)
@given(
    prompts=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    heads=st.sampled_from([(1, 1), (4, 4), (6, 2), (3, 1)]),
    common=st.sampled_from([0, 16, 19]),
)
def test_results_and_gradients_are_those_under_the_mask(
    prompts: list[int], lengths: list[int], heads: tuple[int, int], common: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pays", "affordable"):  # also for few and uneven tokens
            patch.setattr(packing, name, lambda *lengths, **rows: True)
        shape = [(prompt, lengths[number:]) for number, prompt in enumerate(prompts)]
        batches = rows_of(shape, common=common)
    for packed in batches:
        if packed.blocks is None:
            assert packed.part_NW is None
            continue
        inputs = tensors(packed, heads=heads[0], kv_heads=heads[1])
        assert packed.part_NW is not None
        real = packed.part_NW >= 0
        found, expected = in_blocks(packed, *inputs)[real], by_definition(packed, *inputs)[real]
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
        one = torch.autograd.grad((found * weight).sum(), inputs)
        other = torch.autograd.grad((expected * weight).sum(), inputs)
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_under_autocast_it_is_near_float32_and_makes_one_mask() -> None:
    (packed,) = rows_of([(5, [9, 9, 7]), (6, [8, 8])])
    inputs = tensors(packed, heads=6, kv_heads=2, value_size=4)
    expected = in_blocks(packed, *inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = in_blocks(packed, *inputs)
        assert torch.equal(in_blocks(packed, *inputs), found)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)
    assert packed.blocks is not None
    assert {key: mask.dtype for key, mask in packed.blocks._masks.items()} == {
        (3, torch.float32): torch.float32,
        (3, torch.bfloat16): torch.bfloat16,
    }


def test_rows_of_the_mask_begin_where_kernels_want_them() -> None:
    (packed,) = rows_of([(5, [9, 9, 7])])
    assert packed.blocks is not None
    mask = packed.blocks.mask(3, torch.float32)
    assert mask.shape == (3, 1, 3 * 9, 5 + 9)
    assert mask.stride()[-2:] == (16, 1)
    assert torch.equal(mask == 0, packed.blocks.seen_C1TL.repeat(1, 1, 3, 1))


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"softcap": 30.0}, "softcap"),
        ({"sliding_window": 4}, "sliding_window"),
        ({"position_bias": torch.zeros(1)}, "position_bias"),
        ({"something_new": torch.zeros(1)}, "something_new"),
        ({"is_causal": False}, "not causal"),
    ],
)
def test_a_layer_that_asks_for_more_is_refused(more: dict[str, Any], named: str) -> None:
    (packed,) = rows_of([(5, [9, 9, 7])])
    with pytest.raises(NotImplementedError, match=named):
        in_blocks(packed, *tensors(packed, heads=2, kv_heads=2), **more)


def test_a_layer_with_a_mask_or_keys_of_its_own_is_refused() -> None:
    (packed,) = rows_of([(5, [9, 9, 7])])
    query, key, value = tensors(packed, heads=2, kv_heads=2)
    assert packed.blocks is not None
    seen = packed.blocks.unread_mask
    for mask in (None, torch.zeros(seen.shape), packed.attention_N1WW):
        with pytest.raises(NotImplementedError, match="mask of its own"):
            block_attention(None, query, key, value, mask, blocks=packed.blocks)
    with pytest.raises(NotImplementedError, match="keys of other tokens"):
        block_attention(None, query, key[:, :, 1:], value, seen, blocks=packed.blocks)


def test_blocks_pay_where_they_save_more_than_they_copy() -> None:
    # 8 x 111 = 888 keys of a row of 503, and 55^2 + 56 x 888 = 52,753 pairs of 253,009.
    assert pays([55], [56] * 8, rows=1, width=503)
    # 8 x 202 = 1,616 keys of a row of 216.
    assert not pays([200], [2] * 8, rows=1, width=216)
    # One long completion and eight short ones, all padded to it: 9 x 220 = 1,980 keys of a row of 500.
    assert not pays([20], [200, *[35] * 8], rows=1, width=500)
    # 4 x 1,000 = 4,000 keys of a row of 1,950, and 100^2 + 900 x 4,000 pairs of 3.8 million.
    assert not pays([100], [900, 500, 300, 150], rows=1, width=1950)
    # Four groups of four behind 53 tokens that all begin with: 16 x 104 keys of a row of 701.
    assert affordable(16, 67, 37, 53 + 4 * (14 + 4 * 37))
    # 16 x 370 keys of a row of 720.
    assert not affordable(16, 350, 20, 300 + 2 * (50 + 8 * 20))
    # As lengths of a short task vary: 8 x 119 = 952 keys of a row of 351.
    assert pays([55], [64, 50, 40, 40, 30, 28, 24, 20], rows=1, width=351)
