"""The passes of an update: which are the largest, as they are packed, and what autograd keeps of them."""

from typing import Any

import pytest
import torch
from estimated import CPU, SHAPE, config
from tiny import tiny_model, tiny_policy

from rlreason.memory import Prompts, shape_of
from rlreason.memory.passes import Pass, activation_bytes, largest_passes, shared_bytes
from rlreason.policy.blocks import switch
from rlreason.policy.forward import CompletionLogprobs
from rlreason.policy.packing import Completion, PassSize, Sharing, pack


@pytest.mark.parametrize(
    ("budget", "share", "expected"),
    [
        # A group is 20 + 4 x 12 = 68 tokens in one row; 4 groups. 1024 hold all of them.
        (1024, True, [Pass(True, 4, 68, 272)]),
        # 150 hold two rows of 68; rows of other lengths come as far as 150.
        (150, True, [Pass(True, 3, 68, 150)]),
        # 16 rows of 32 alone.
        (100, False, [Pass(False, 4, 32, 100)]),
        # A row that does not fit stands alone.
        (16, False, [Pass(False, 1, 32, 32)]),
        (16, True, [Pass(False, 1, 32, 32)]),
        # Two completions of 12 do not fit into 40 beside 20 tokens, but two shorter ones do.
        (40, True, [Pass(False, 2, 32, 40), Pass(True, 1, 40, 40)]),
        # On a processor a pass takes 768 tokens: eleven rows of 68, of which there are 4.
        (None, True, [Pass(True, 4, 68, 272)]),
    ],
)
def test_the_largest_passes(budget: int | None, share: bool, expected: list[Pass]) -> None:
    made = config(grpo={"micro_batch_tokens": budget, "share_prompt": share})
    assert largest_passes(made, Prompts(20, 32), torch.device("cpu")) == expected


def test_the_largest_pass_of_a_wide_group() -> None:
    """8 x 100 + 20 tokens are one row of 820, alone on a processor; ten such fill the 8,192 of a GPU."""
    made = config(
        grpo={"prompts_per_step": 16, "group_size": 8},
        rollout={"max_new_tokens": 100},
        model={"scratch": {"max_positions": 512}},
    )
    prompts = Prompts(20, 120)
    assert largest_passes(made, prompts, torch.device("cpu")) == [Pass(True, 1, 820, 820)]
    assert largest_passes(made, prompts, torch.device("cuda")) == [Pass(True, 10, 820, 8192)]


def test_passes_in_which_groups_are_joined() -> None:
    """53 tokens of 67 are common: 2 groups of 4 x 64 in 53 + 2 x 270 tokens of 768; 5 of 4 x 32; ..."""
    changes = {"prompts_per_step": 16, "group_size": 4}
    prompts = Prompts(67, 131, 53)

    def joined(**grpo: Any) -> list[tuple[int, int, int]]:
        made = config(
            grpo={**changes, **grpo},
            rollout={"max_new_tokens": 64},
            model={"scratch": {"max_positions": 512}},
        )
        return [
            (one.groups, one.completions, one.width)
            for one in largest_passes(made, prompts, CPU)
            if one.groups
        ]

    found = joined()
    assert found[:2] == [(2, 8, 53 + 2 * (14 + 4 * 64)), (5, 20, 53 + 5 * (14 + 4 * 32))]
    assert joined(group_size=16, down_sample=4) == found
    # With 16 mini-batches a pass has one group; with 8 it has two.
    assert joined(minibatches=16) == []
    assert {groups for groups, _, _ in joined(minibatches=8)} == {2}
    assert joined(share_prompt=False) == []
    # 1 completion a prompt: 53 + 9 x 78 tokens.
    assert joined(group_size=1, baseline="batch")[0] == (9, 9, 53 + 9 * 78)


def test_joined_passes_are_those_that_are_packed() -> None:
    """Prompts of 700 tokens, 400 of them common; 16 groups, whose 32 x 764 keys are 3 x 8,192 at most."""
    made = config(
        grpo={"prompts_per_step": 32, "group_size": 2},
        rollout={"max_new_tokens": 64},
        model={"scratch": {"max_positions": 1024}},
    )
    gpu = torch.device("cuda")
    found = next(one for one in largest_passes(made, Prompts(700, 764, 400), gpu) if one.groups)
    assert found == Pass(True, 1, 400 + 16 * 428, 400 + 16 * 428, 16, 32)
    sequences = [
        Completion(group, [*range(400), *[400 + group] * 300], [1] * 64)
        for group in range(32)
        for _ in range(2)
    ]
    packed = pack(sequences, share=Sharing.BEGINNING, size=PassSize.suited(None, gpu), pad_id=0)
    assert max(batch.ids_NW.numel() for batch in packed) == found.tokens
    assert {batch.ids_NW.shape[0] for batch in packed} == {1}


def test_an_update_holds_those_it_learns_from() -> None:
    few, many = (
        config(grpo={"group_size": size, "down_sample": keep}, rollout={"max_new_tokens": 20})
        for size, keep in ((2, None), (16, 2))
    )
    assert largest_passes(many, Prompts(20, 40), CPU) == largest_passes(few, Prompts(20, 40), CPU)


def test_no_row_is_shared_beyond_what_a_row_takes() -> None:
    """A completion of 8,000 tokens is a row of its own; those that share one have 4,096 with their prompt."""
    made = config(rollout={"max_new_tokens": 8000}, model={"scratch": {"max_positions": 16384}})
    assert largest_passes(made, Prompts(100, 8100), torch.device("cuda")) == [
        Pass(False, 2, 8100, 8192),
        Pass(True, 2, 4096, 8192),
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("name", "grouped"), [("llama", 2), ("llama without grouped heads", 4), ("qwen2", 2)]
)
@pytest.mark.parametrize("layout", ["mask", "blocks", "joined", "joined, one each"])
def test_activations_are_what_autograd_keeps(
    name: str, grouped: int, dtype: torch.dtype, layout: str
) -> None:
    """Held against the storages that a forward pass of the real model saves, its own parameters aside.

    Wide enough that what is small in a real model (positions, masks, one number a token) is small here.
    """
    changes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8}
    model = tiny_model(name, num_key_value_heads=8 if grouped == 4 else 4, **changes)
    policy = tiny_policy(model, dtype=dtype)
    policy.model.train()
    switch(model, on=layout != "mask")
    groups, each = {"joined": (3, 4), "joined, one each": (9, 1)}.get(layout, (1, 4))
    prompts = [[*range(3, 19), *[19 + group] * 4] for group in range(groups)]
    completions = [
        Completion(group, prompts[group], range(3, 23)) for group in range(groups) for _ in range(each)
    ]
    (packed,) = pack(completions, share=Sharing.BEGINNING, size=PassSize(280, 280), pad_id=0)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        CompletionLogprobs(policy)(packed, 1.0)
    measured = sum(storage.nbytes() for storage in kept.values())
    rows, width = packed.ids_NW.shape
    expected = activation_bytes(shape_of(model), rows * width, dtype, checkpointing=False)
    if layout != "mask":
        assert packed.blocks is not None
        made = config(
            rollout={"max_new_tokens": 20},
            model={"scratch": {"max_positions": 512}},
            grpo={"prompts_per_step": groups, "group_size": max(each, 2), "micro_batch_tokens": 280}
            | ({"group_size": 1, "baseline": "batch"} if each == 1 else {}),
        )
        passes = largest_passes(made, Prompts(20, 40, 16), CPU)
        one = next((one for one in passes if one.groups), passes[0])
        joined = (groups, groups * each) if groups > 1 else (0, 0)
        assert one == Pass(True, rows, width, rows * width, *joined)
        expected += shared_bytes(made, shape_of(model), one, Prompts(20, 40, 16), dtype)
    assert expected == pytest.approx(measured, rel=0.2)


def test_checkpointing_keeps_the_input_of_each_layer_and_one_layer_whole() -> None:
    # 6 x 200 + 4 x 200 + 4 x 600 = 4,400 numbers a token and layer; with checkpointing 200 in each of 4.
    assert activation_bytes(SHAPE, 10, torch.float32, checkpointing=False) == 10 * 4 * 4 * 4_400
    assert activation_bytes(SHAPE, 10, torch.float32, checkpointing=True) == 10 * 4 * (4 * 200 + 4_400)
