"""Sharing a prompt, and cutting into micro-batches, changes neither log-probs nor gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import NATIVE, PAD, plain_logprobs, random_ids, tiny_model, tiny_policy, with_lora
from torch import Tensor

from rlreason.policy import packing
from rlreason.policy.adapter import causal_lm_of
from rlreason.policy.blocks import switch
from rlreason.policy.forward import CompletionLogprobs
from rlreason.policy.packing import (
    Completion,
    PassSize,
    Sharing,
    common_beginning,
    computed_tokens,
    pack,
    plan_rows,
)


def completions(shape: list[tuple[int, list[int]]]) -> list[Completion]:
    """One group for each (prompt length, lengths of its completions)."""
    return [
        Completion(group, random_ids(length, seed=group), random_ids(tokens, seed=50 + 10 * group + number))
        for group, (length, lengths) in enumerate(shape)
        for number, tokens in enumerate(lengths)
    ]


GROUPS = completions([(6, [4, 1, 7, 3]), (11, [2, 5]), (3, [6])])
BEGINNING = random_ids(17, seed=9)


def begun(sequences: list[Completion]) -> list[Completion]:
    """The same, all prompts behind the same tokens."""
    return [replace(one, prompt_ids=[*BEGINNING, *one.prompt_ids]) for one in sequences]


def weights(sequence: Completion, index: int) -> Tensor:
    """A weight for each token, some negative, so that no error cancels."""
    return torch.sin(torch.arange(len(sequence.completion_ids)) * 1.7 + index + 1)


def gradients(model: Any) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
            parameter.grad = None
    return found


def plain(
    model: Any, sequences: list[Completion], temperature: float
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Every completion on its own, through the model's full logits."""
    rows = []
    for index, sequence in enumerate(sequences):
        row = plain_logprobs(model, sequence.prompt_ids, sequence.completion_ids, temperature)
        (row * weights(sequence, index)).sum().backward()
        rows.append(row.detach())
    return rows, gradients(model)


def packed(
    model: Any,
    sequences: list[Completion],
    temperature: float,
    *,
    share: Sharing,
    budget: int,
    chunked: bool = True,
    blocks: bool = False,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    switch(causal_lm_of(model), on=blocks)
    forward = CompletionLogprobs(tiny_policy(model))
    forward.chunked = chunked
    rows: list[Tensor | None] = [None] * len(sequences)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pays", "affordable"):  # also for few and uneven tokens
            patch.setattr(packing, name, lambda *lengths, **rows: True)
        batches = pack(sequences, share=share, size=PassSize(budget, min(budget, 64)), pad_id=PAD)
    for batch in batches:
        logprobs, _ = forward(batch, temperature)
        assert bool((logprobs[batch.mask_CT == 0] == 0).all())
        loss = torch.zeros(())
        for row, index in zip(logprobs, batch.order, strict=True):
            assert rows[index] is None
            rows[index] = row[: len(sequences[index].completion_ids)].detach()
            loss = loss + (row[: len(rows[index])] * weights(sequences[index], index)).sum()  # type: ignore[arg-type]
        loss.backward()
    return [row for row in rows if row is not None], gradients(model)


def assert_equal_training(
    one: tuple[list[Tensor], dict[str, Tensor]], other: tuple[list[Tensor], dict[str, Tensor]]
) -> None:
    assert len(one[0]) == len(other[0])
    for a, b in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        a, b = one[1][name].double().flatten(), other[1][name].double().flatten()
        assert float(a.norm()) > 0, name
        assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.99999, name
        assert float((a - b).norm() / b.norm()) < 1e-4, name


LAYOUTS: dict[str, Any] = {
    "alone": {"share": Sharing.NOTHING},
    "mask": {"share": Sharing.PROMPT},
    "blocks": {"share": Sharing.PROMPT, "blocks": True},
    "beginning": {"share": Sharing.BEGINNING, "blocks": True},
    "beginning under a mask": {"share": Sharing.BEGINNING},
}
SHARED = [layout for layout in LAYOUTS if layout != "alone"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [*NATIVE, "gpt2"])
def test_logprobs_and_gradients_equal_the_plain_ones(name: str, layout: str) -> None:
    model = tiny_model(name).train()
    if name == "gpt2":  # its dropout is on by default
        model.eval()
    sequences = begun(GROUPS)
    found = packed(model, sequences, 0.8, budget=60, **LAYOUTS[layout])
    assert_equal_training(found, plain(model, sequences, 0.8))


@pytest.mark.parametrize("layout", SHARED)
@pytest.mark.parametrize("budget", [1, 13, 40, 60, 10_000])
def test_the_budget_changes_nothing(budget: int, layout: str) -> None:
    model, sequences = tiny_model("llama"), begun(GROUPS)
    found = packed(model, sequences, 1.0, budget=budget, **LAYOUTS[layout])
    assert_equal_training(found, plain(model, sequences, 1.0))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_adapter_gets_the_same_gradients(layout: str, targets: Any) -> None:
    model = with_lora(tiny_model("llama"), targets=targets)
    sequences = begun(GROUPS)
    expected = plain(model, sequences, 1.0)
    assert all("lora_" in name for name in expected[1])
    assert_equal_training(packed(model, sequences, 1.0, budget=60, **LAYOUTS[layout]), expected)


def test_full_logits_give_the_same_as_chunks() -> None:
    model = tiny_model("llama")
    expected = plain(model, GROUPS, 0.8)
    assert_equal_training(
        packed(model, GROUPS, 0.8, share=Sharing.PROMPT, budget=48, chunked=False), expected
    )


@pytest.mark.parametrize("layout", SHARED)
def test_gradient_checkpointing_gives_the_same(layout: str) -> None:
    model, sequences = tiny_model("llama"), begun(GROUPS)
    expected = plain(model, sequences, 1.0)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert_equal_training(packed(model, sequences, 1.0, budget=60, **LAYOUTS[layout]), expected)


def test_entropy_equals_that_of_the_plain_distribution() -> None:
    model = tiny_model("llama")
    (batch,) = pack(GROUPS, share=Sharing.PROMPT, size=PassSize(500, 64), pad_id=PAD)
    _, entropy = CompletionLogprobs(tiny_policy(model))(batch, 0.8)
    assert not entropy.requires_grad
    for row, index in zip(entropy, batch.order, strict=True):
        sequence = GROUPS[index]
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
        logits = model(ids).logits[0, len(sequence.prompt_ids) - 1 : -1] / 0.8
        expected = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-5)
        assert not row[len(expected) :].any()


MODELS = {"mask": tiny_model("llama"), "blocks": tiny_model("llama")}
switch(MODELS["blocks"], on=True)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(
        st.tuples(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=1, max_size=4)),
        min_size=1,
        max_size=3,
    ),
    budget=st.integers(1, 80),
    layout=st.sampled_from(sorted(LAYOUTS)),
    alike=st.booleans(),
)
def test_any_groups_and_any_budget(
    shape: list[tuple[int, list[int]]], budget: int, layout: str, alike: bool
) -> None:
    sequences = begun(completions(shape)) if alike else completions(shape)
    model = MODELS["blocks" if "blocks" in LAYOUTS[layout] else "mask"]
    share, size = LAYOUTS[layout]["share"], PassSize(budget, min(budget, 40))
    batches = pack(sequences, share=share, size=size, pad_id=PAD)
    assert sorted(index for batch in batches for index in batch.order) == list(range(len(sequences)))
    computed = computed_tokens(
        sequences, share=LAYOUTS[layout]["share"], size=PassSize(budget, min(budget, 40))
    )
    assert computed == sum(batch.ids_NW.numel() for batch in batches)
    forward = CompletionLogprobs(tiny_policy(model))
    for batch in batches:
        rows, width = batch.ids_NW.shape
        of = {sequences[index].group for index in batch.order}
        assert rows * width <= budget or (rows == 1 and len(of) == 1)
        with torch.no_grad():
            logprobs, _ = forward(batch, 1.0)
            for row, index in zip(logprobs, batch.order, strict=True):
                sequence = sequences[index]
                expected = plain_logprobs(model, sequence.prompt_ids, sequence.completion_ids)
                torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-5)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_what_all_rows_begin_with(rows: list[list[int]]) -> None:
    length = common_beginning(rows)
    assert all(row[:length] == rows[0][:length] for row in rows)
    assert min(map(len, rows)) == length or len({row[length] for row in rows}) > 1


# --- the layout, by hand -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "device", "expected"),
    [
        (None, "cpu", (768, 2048)),
        (None, "cuda", (8192, 2048)),
        (300, "cpu", (300, 300)),
        (300, "cuda", (300, 300)),
        (4096, "cpu", (4096, 2048)),
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
    assert batch.valid_NW.tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
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
    assert batch.valid_NW.tolist() == [[1] * 21]
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


def test_what_prompts_begin_with_is_computed_once_a_pass() -> None:
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
    # One that is much longer than the others keeps to its row: beside it all would be padded to its length.
    long = begun(completions([(6, [9, 9]), (7, [9, 8]), (5, [60, 2])]))
    assert widths(long, 1000) == [(2, 17 + 67)]
    assert widths(long, 100) == [(1, 17 + 67), (1, 17 + 24 + 24)]
    # And those for which a mask over a row is better: 4 completions of 2 behind prompts of 217 tokens.
    prompts = [[*random_ids(200, seed=1), *random_ids(17, seed=number)] for number in (2, 3)]
    long = [Completion(number, prompts[number], [1, 2]) for number in (0, 1) for _ in range(4)]
    assert widths(long, 1000) == [(2, 225)]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(
        st.tuples(st.integers(0, 12), st.lists(st.integers(1, 40), min_size=1, max_size=6)),
        min_size=1,
        max_size=12,
    ),
    common=st.integers(1, 120),
    budget=st.integers(1, 600),
)
def test_joining_takes_no_more_than_rows_of_one_group(
    shape: list[tuple[int, list[int]]], common: int, budget: int
) -> None:
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
