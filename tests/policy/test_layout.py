"""How completions are laid out in rows and passes, worked out by hand."""

from dataclasses import replace

import pytest
import torch
from groups import GROUPS, Shape, begun, completions, shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import PAD, random_ids

from rlreason.policy.packing import Completion, PassSize, Sharing, pack, plan_rows


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        (None, "cpu", (768, 2048)),
        (None, "cuda", (8192, 4096)),
        (300, "cpu", (300, 300)),
        (300, "cuda", (300, 300)),
        (4096, "cpu", (4096, 2048)),
        (8192, "cuda", (8192, 4096)),
    ],
)
def test_the_size_of_a_pass(asked: int | None, device: str, expected: tuple[int, int]) -> None:
    assert PassSize.suited(asked, torch.device(device)) == expected


def test_a_shared_row_may_be_longer_than_a_pass_is_else() -> None:
    # Groups of 6 + 15 = 21, 11 + 7 = 18 and 3 + 6 = 9 tokens: each is whole, and alone in its pass.
    batches = pack(GROUPS, share=Sharing.PROMPT, size=PassSize(10, 40), pad_id=PAD)
    assert [tuple(batch.ids_NW.shape) for batch in batches] == [(1, 21), (1, 18), (1, 9)]
    assert [batch.order for batch in batches] == [(0, 1, 2, 3), (4, 5), (6,)]


def test_rows_hold_a_prompt_once_and_what_fits_beside_it() -> None:
    # Group 0: prompt 6, completions 4, 1, 7, 3. Width 12: 6+4+1 = 11, +7 > 12, so 6+7 = 13 alone (it may
    # exceed), then +3 > 12: 6+3. Group 1: 11+2 > 12 and 11+5. Group 2: 3+6.
    assert plan_rows(GROUPS, share=Sharing.PROMPT, width=12) == [[0, 1], [2], [3], [4], [5], [6]]
    assert plan_rows(GROUPS, share=Sharing.PROMPT, width=64) == [[0, 1, 2, 3], [4, 5], [6]]
    assert plan_rows(GROUPS, share=Sharing.NOTHING, width=64) == [[n] for n in range(7)]
    assert plan_rows([], share=Sharing.PROMPT, width=64) == []


def test_a_shared_row_by_hand() -> None:
    sequences = [Completion(0, [5, 6], [7, 8]), Completion(0, [5, 6], [9]), Completion(1, [4], [3])]
    (batch,) = pack(sequences, share=Sharing.PROMPT, size=PassSize(100, 100), pad_id=PAD)
    assert batch.order == (0, 1, 2)
    assert batch.ids_NW.tolist() == [[5, 6, 7, 8, 9], [4, 3, PAD, PAD, PAD]]
    assert batch.positions_NW.tolist() == [[0, 1, 2, 3, 2], [0, 1, 0, 0, 0]]
    # Token 7 and 9 are predicted at the prompt's end (1), 8 at 7 (2); row 1 starts at 5 in the flattened row.
    assert batch.source_CT.tolist() == [[1, 2], [1, 0], [5, 0]]
    assert batch.targets_CT.tolist() == [[7, 8], [9, 0], [3, 0]]
    assert batch.mask_CT.tolist() == [[1, 1], [1, 0], [1, 0]]
    assert batch.attention_N1WW is not None
    assert batch.attention_N1WW.int().tolist() == [
        [
            [
                [1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [1, 1, 1, 0, 0],
                [1, 1, 1, 1, 0],
                [1, 1, 0, 0, 1],  # the second completion does not see the first
            ]
        ],
        [
            [
                [1, 0, 0, 0, 0],
                [1, 1, 0, 0, 0],
                [0, 0, 1, 0, 0],  # padding sees padding: a row that sees nothing would be NaN
                [0, 0, 1, 1, 0],
                [0, 0, 1, 1, 1],
            ]
        ],
    ]

    assert batch.blocks is not None
    assert batch.blocks.prompt_GP.tolist() == [[0, 1], [5, 0]]
    assert batch.blocks.own_CT.tolist() == [[2, 3], [4, 0], [6, 0]]
    assert batch.blocks.group_C.tolist() == [0, 0, 1]
    # Two rows of two prompt tokens give results 0 to 3, three completions of two tokens 4 to 9.
    assert batch.blocks.origin_NW.tolist() == [[0, 1, 4, 5, 6], [2, 8, 0, 0, 0]]
    assert batch.blocks.seen_C1TL.int().tolist() == [
        [[[1, 1, 1, 0], [1, 1, 1, 1]]],
        [[[1, 1, 1, 0], [1, 1, 1, 1]]],
        [[[1, 0, 1, 0], [1, 0, 1, 1]]],  # its prompt has one token
    ]


def test_a_row_of_several_groups_by_hand() -> None:
    """16 tokens are what both prompts begin with: 16 + (1 + 2 + 1) + (0 + 1) tokens in place of 20 + 17."""
    common = list(range(10, 26))
    sequences = [
        Completion(0, [*common, 6], [7, 8]),
        Completion(0, [*common, 6], [9]),
        Completion(1, common, [3]),  # it ends where they part
    ]
    (batch,) = pack(sequences, share=Sharing.BEGINNING, size=PassSize(100, 100), pad_id=PAD)
    assert batch.order == (0, 1, 2)
    assert batch.ids_NW.tolist() == [[*common, 6, 7, 8, 9, 3]]
    assert batch.positions_NW.tolist() == [[*range(16), 16, 17, 18, 17, 16]]
    assert batch.source_CT.tolist() == [[16, 17], [16, 0], [15, 0]]
    assert batch.targets_CT.tolist() == [[7, 8], [9, 0], [3, 0]]
    assert batch.mask_CT.tolist() == [[1, 1], [1, 0], [1, 0]]
    assert batch.attention_N1WW is not None
    seen = batch.attention_N1WW[0, 0].int().tolist()
    assert seen[:16] == [[1] * (place + 1) + [0] * (20 - place) for place in range(16)]
    assert [row[:16] for row in seen[16:]] == [[1] * 16] * 5
    assert [row[16:] for row in seen[16:]] == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [0, 0, 0, 0, 1],  # of the other group
    ]
    assert batch.blocks is not None
    assert batch.blocks.prompt_GP.tolist() == [list(range(17)), [*range(16), 0]]
    assert batch.blocks.own_CT.tolist() == [[17, 18], [19, 0], [20, 0]]
    assert batch.blocks.group_C.tolist() == [0, 0, 1]
    # Two prompts of 17 tokens give results 0 to 33, of which the first's are taken; then completions of two.
    assert batch.blocks.origin_NW.tolist() == [[*range(17), 34, 35, 36, 38]]
    assert batch.blocks.seen_C1TL[2, 0].int().tolist() == [[1] * 16 + [0, 1, 0], [1] * 16 + [0, 1, 1]]


def test_what_prompts_begin_with_is_computed_once_a_row() -> None:
    # 17 + 6 + 18 = 41, 17 + 7 + 17 = 41 and 17 + 5 + 9 = 31 tokens, of which 24, 24 and 14 are their own.
    groups = begun(completions([(6, [9, 9]), (7, [9, 8]), (5, [9])]))

    def widths(sequences: list[Completion], budget: int) -> list[tuple[int, ...]]:
        batches = pack(sequences, share=Sharing.BEGINNING, size=PassSize(budget, 300), pad_id=PAD)
        return [tuple(batch.ids_NW.shape) for batch in batches]

    assert widths(groups, 1000) == [(1, 17 + 24 + 24 + 14)]
    assert widths(groups, 65) == [(1, 17 + 24 + 24), (1, 31)]
    assert widths(groups, 64) == [(1, 17 + 24 + 14), (1, 41)]
    assert widths(groups, 50) == [(1, 41), (1, 41), (1, 31)]
    # Groups that begin with less than 16 tokens alike stay rows of their own.
    fewer = [replace(one, prompt_ids=one.prompt_ids[2:]) for one in groups]
    assert widths(fewer, 1000) == [(3, 39)]
    # Beside one that is much longer all are padded to its length, 24 + 60 tokens: 4 of those are no more
    # than 3 times the 84 + 41 tokens that the two take in rows of their own; 6 are more than 3 times 84 + 82.
    long = begun(completions([(6, [9, 9]), (7, [9, 8]), (5, [60, 2])]))
    assert widths(long, 1000) == [(2, 17 + 67 + 24)]
    assert widths(long, 100) == [(1, 17 + 67), (1, 17 + 24 + 24)]
    # And those for which a mask over a row is better: 4 completions of 2 behind prompts of 217 tokens.
    prompts = [[*random_ids(200, seed=1), *random_ids(17, seed=number)] for number in (2, 3)]
    long = [Completion(number, prompts[number], [1, 2]) for number in (0, 1) for _ in range(4)]
    assert widths(long, 1000) == [(2, 225)]


@settings(max_examples=60, deadline=None)
@given(
    shape=shapes(prompt=st.integers(0, 12), tokens=40, completions=6, groups=12),
    common=st.integers(1, 120),
    budget=st.integers(1, 600),
)
def test_joining_takes_no_more_than_rows_of_one_group(shape: Shape, common: int, budget: int) -> None:
    """In tokens, a pass of less than half of the budget counting as half: small passes are slower."""
    prompts = [[*range(common), *[1000 + group] * length] for group, (length, _) in enumerate(shape)]
    sequences = [
        Completion(group, prompts[group], range(length))
        for group, (_, lengths) in enumerate(shape)
        for length in lengths
    ]
    size, costs = PassSize(budget, 500), []
    for share in (Sharing.PROMPT, Sharing.BEGINNING):
        batches = pack(sequences, share=share, size=size, pad_id=PAD)
        assert sorted(index for batch in batches for index in batch.order) == list(range(len(sequences)))
        costs.append(sum(max(batch.ids_NW.numel(), budget // 2) for batch in batches))
    assert costs[1] <= costs[0]


def test_rows_that_share_nothing_need_neither_mask_nor_blocks() -> None:
    (batch,) = pack(GROUPS, share=Sharing.NOTHING, size=PassSize(1000, 64), pad_id=PAD)
    assert batch.attention_N1WW is None
    assert batch.blocks is None


def test_prompts_of_several_kinds_are_joined_kind_by_kind() -> None:
    """Two kinds of 16 tokens before a question of 4, and a prompt like no other; 2 completions of 3 each."""
    kinds = [random_ids(16, seed=1), random_ids(16, seed=2)]
    prompts = [[*kinds[number % 2], *random_ids(4, seed=10 + number)] for number in range(4)]
    prompts.append(random_ids(9, seed=99))
    sequences = [
        Completion(group, prompt, random_ids(3, seed=100 + group))
        for group, prompt in enumerate(prompts)
        for _ in range(2)
    ]
    (batch,) = pack(sequences, share=Sharing.BEGINNING, size=PassSize(1000, 300), pad_id=PAD)
    # A row of each kind, 16 + 2 x (4 + 6), and one of 9 + 6; in rows of one group it would be five of 26.
    assert batch.ids_NW.shape == (3, 36)
    assert [row.tolist()[:16] for row in batch.ids_NW] == [
        *kinds,
        [*prompts[4], *sequences[8].completion_ids, *sequences[8].completion_ids, PAD],
    ]
    assert batch.order == (0, 1, 4, 5, 2, 3, 6, 7, 8, 9)
