"""The memory of a run: shapes, parts worked out by hand, what torch itself keeps, and what is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MICRO, merged
from tiny import tiny_model, tiny_policy, with_lora

from rlreason.config import RunConfig
from rlreason.memory import (
    Estimate,
    Machine,
    ModelShape,
    Part,
    Prompts,
    estimate_online,
    estimate_run,
    new_shape,
    shape_of,
    warning_text,
)  # fmt: skip
from rlreason.memory.stages import Pass, activation_bytes, largest_passes, shared_bytes
from rlreason.policy.blocks import switch
from rlreason.policy.forward import CompletionLogprobs
from rlreason.policy.packing import Completion, PassSize, Sharing, pack
from rlreason.stages.preflight import memory_warning

CPU = torch.device("cpu")
# 10 million parameters, of which 2 million are the embedding, tied to the head.
SHAPE = ModelShape(
    parameters=10_000_000, trainable=10_000_000, embedding=2_000_000, tied=True, layers=4, hidden=200,
    heads=4, kv_heads=2, head_dim=50, intermediate=600, vocabulary=10_000,
)  # fmt: skip


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(merged(MICRO, {"stage": "grpo", **changes}))


def sizes(estimate: Estimate) -> dict[str, int]:
    return {part.name: part.size for part in estimate.parts}


def test_the_shape_is_what_the_config_of_the_model_says() -> None:
    model = tiny_model("llama")
    shape = shape_of(model)
    # 32 wide, 40 tokens, two tables. A layer: q and o 32 x 32, k and v 16 x 32, three of 32 x 48, two norms.
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32
    assert shape.parameters == shape.trainable == 2 * 40 * 32 + 2 * layer + 32
    assert shape.body == 2 * layer + 32
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (2, 32, 4, 2, 8)
    assert not shape.tied
    assert shape_of(tiny_model("llama tied")).tied
    # An adapter of rank 4 on q: 4 x (32 + 32) numbers in each of two layers.
    adapted = shape_of(with_lora(tiny_model("llama"), targets=["q_proj"]))
    assert adapted.trainable == 2 * 4 * (32 + 32)
    assert adapted.parameters == shape.parameters + adapted.trainable


def test_the_shape_of_a_model_that_is_not_loaded_is_that_of_the_loaded_one() -> None:
    made = config(model={"scratch": {"tokens": "bpe", "vocabulary": 500}})
    shape = new_shape(made.model)
    # 32 wide, tied. A layer: q and o 32 x 32, k and v 16 x 32, three of 32 x 64, two norms.
    assert shape.parameters == 500 * 32 + 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 2 * 32) + 32
    assert shape.tied


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi3", "granite"])
def test_every_model_has_a_shape(name: str) -> None:
    shape = shape_of(tiny_model(name))
    assert shape.parameters == sum(p.numel() for p in tiny_model(name).parameters())
    assert (shape.layers, shape.hidden, shape.heads) == (2, 32, 4)


def test_full_fine_tuning_holds_five_numbers_a_weight_and_a_sixth_in_the_update_or_to_sample() -> None:
    made = config(rollout={"max_new_tokens": 20, "precision": "float32"})
    found = sizes(estimate_online(made, SHAPE, Prompts(20, 40), CPU))
    assert found["weights"] == found["reference"] == 40_000_000
    assert found["AdamW moments"] == 80_000_000
    assert found["gradients"] == 40_000_000
    assert "sampler's copy" not in found  # it is given back before the update

    def copy(**rollout: Any) -> int:
        many = {"max_new_tokens": 1000, "max_sequences": 1000, **rollout}
        grpo = {"prompts_per_step": 128, "group_size": 8, "micro_batch_tokens": 64, "share_prompt": False}
        made = config(rollout=many, grpo=grpo, model={"scratch": {"max_positions": 4096}})
        estimate = estimate_online(made, SHAPE, Prompts(24, 1024), CPU)
        assert estimate.moment == "sampling"
        assert "gradients" not in sizes(estimate)
        return sizes(estimate).get("sampler's copy", 0)

    assert copy(precision="float32") == 40_000_000  # 8 million of the layers, 2 of the head, 4 bytes each
    assert copy(precision="bfloat16") == 24_000_000  # 2 bytes; the embedding is copied beside the head
    assert copy(engine="transformers") == 0


def test_an_adapter_needs_no_reference_and_few_moments() -> None:
    shape = ModelShape(**{**vars(SHAPE), "trainable": 100_000})
    made = config(model={"scratch": ..., "path": "embedded", "precision": "float32", "lora": {}})
    found = sizes(estimate_online(made, shape, Prompts(20, 32), CPU))
    assert "reference" not in found
    assert found["AdamW moments"] == 800_000
    other = config(
        model={"scratch": ..., "path": "embedded", "precision": "float32", "lora": {}},
        grpo={"kl": {"reference": "embedded"}},
    )
    assert sizes(estimate_online(other, shape, Prompts(20, 32), CPU))["reference"] == 40_000_000


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_without_a_reference_there_is_none(stage: str) -> None:
    shown = estimate_online(config(stage=stage, **{stage: {"kl": {"coef": 0}}}), SHAPE, Prompts(20, 32), CPU)
    assert [part.setting for part in shown.parts if part.name == "reference"] == [
        f"{stage}.kl.reference=none"
    ]
    none = config(stage=stage, **{stage: {"kl": {"coef": 0, "reference": "none"}}})
    assert "reference" not in sizes(estimate_online(none, SHAPE, Prompts(20, 32), CPU))


def test_what_lowers_a_reference_that_is_needed() -> None:
    def setting(lora: dict[str, Any] | None, **kl: Any) -> str:
        model = {"scratch": ..., "path": "embedded", "lora": lora}
        made = config(model=model, grpo={"kl": {"coef": 0.1, **kl}})
        parts = estimate_online(made, SHAPE, Prompts(20, 32), CPU).parts
        return "".join(part.setting for part in parts if part.name == "reference")

    assert setting({}) == ""  # the model without its adapter
    assert setting({}, reference="embedded") == "grpo.kl.reference=start, which needs none"
    assert setting(None) == "model.lora={}, which needs none"
    assert setting(None, reference="embedded") == (
        "grpo.kl.reference=start with model.lora={}, which needs none"
    )


def test_an_adapter_makes_saving_or_the_check_of_the_sampler_the_moment_that_counts() -> None:
    """Few activations and gradients: what is held then is the sampler's copy and another model."""
    shape = ModelShape(**{**vars(SHAPE), "trainable": 100_000})

    def most(precision: str, device: torch.device = CPU) -> tuple[str, int, int]:
        made = config(
            model={"scratch": ..., "path": "embedded", "precision": "float32", "lora": {}},
            rollout={"precision": precision, "max_new_tokens": 2, "max_sequences": 1},
            grpo={"prompts_per_step": 1, "group_size": 2, "micro_batch_tokens": 8}, eval={"questions": 1},
        )  # fmt: skip
        found = estimate_online(made, shape, Prompts(4, 6), device)
        copy, more = (part.size for part in found.parts if part.name in NAMES)
        return found.moment, copy, more

    # 8 million numbers of the layers and 2 of the head; 12 where the embedding is copied beside the head.
    assert most("float32") == ("checking the sampler", 40_000_000, 40_000_000)
    assert most("bfloat16") == ("checking the sampler", 24_000_000, 40_000_000)  # the second one in float32
    # On a GPU a copy in float32 shares what an adapter does not change; the merged model is whole.
    assert most("float32", torch.device("cuda")) == ("saving", 32_000_000, 40_000_000)


NAMES = ("sampler's copy", "merged weights", "second copy to check it by")


def test_a_critic_of_its_own_is_a_model_and_its_moments_more() -> None:
    separate = sizes(estimate_online(config(stage="ppo"), SHAPE, Prompts(20, 32), CPU))
    assert separate["critic"] == 40_000_000 + 80_000_000
    assert separate["gradients"] == 80_000_000
    shared = config(stage="ppo", ppo={"critic": {"kind": "shared"}})
    assert "critic" not in sizes(estimate_online(shared, SHAPE, Prompts(20, 32), CPU))


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_the_reward_model_of_the_run_is_a_model_more(stage: str) -> None:
    made = config(stage=["sft", "reward_model", stage], rewards={"accuracy": 1, "learned": 0.5})
    assert sizes(estimate_online(made, SHAPE, Prompts(20, 32), CPU))["reward model"] == 4 * 10_000_000
    assert "reward model" not in sizes(estimate_online(config(stage=stage), SHAPE, Prompts(20, 32), CPU))
    half = {"weight": 0.5, "args": {"dtype": "bfloat16"}}
    made = config(stage=["sft", "reward_model", stage], rewards={"accuracy": 1, "learned": half})
    assert sizes(estimate_online(made, SHAPE, Prompts(20, 32), CPU))["reward model"] == 2 * 10_000_000
    # Where it is put on a processor, it takes nothing of a GPU.
    placed = {"weight": 0.5, "args": {"device": "cpu"}}
    made = config(stage=["sft", "reward_model", stage], rewards={"accuracy": 1, "learned": placed})
    assert "reward model" not in sizes(estimate_online(made, SHAPE, Prompts(20, 32), torch.device("cuda")))


def test_a_reward_model_that_is_named_has_its_own_size_and_is_there_in_all_stages(tmp_path: Path) -> None:
    model = tiny_model("llama")
    model.config.num_labels = 1
    model.config.save_pretrained(tmp_path)
    learned = {"weight": 0.5, "args": {"model": str(tmp_path)}}
    made = config(stage=["sft", "grpo"], rewards={"accuracy": 1, "learned": learned})
    # 32 wide, 40 tokens, a table and a head of one output. A layer: q and o 32 x 32, k and v 16 x 32, three
    # of 32 x 48, two norms.
    layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 48 + 2 * 32
    size = 4 * (40 * 32 + 2 * layer + 32 + 32)
    assert sizes(estimate_online(made, SHAPE, Prompts(20, 32), CPU))["reward model"] == size
    # One row of `sft` of a million tokens: its stage takes most.
    most = estimate_run(made, SHAPE, Prompts(20, 1_000_000), CPU)
    assert most.stage == "sft"
    assert sizes(most)["reward model"] == size


def test_many_long_sequences_make_sampling_the_moment_that_counts() -> None:
    made = config(
        rollout={"max_new_tokens": 1000, "max_sequences": 100, "precision": "float32"},
        grpo={"prompts_per_step": 32, "group_size": 8, "micro_batch_tokens": 64, "share_prompt": False},
        model={"scratch": {"max_positions": 4096}},
        prompt={"max_tokens": 160},
    )
    shape = ModelShape(**{**vars(SHAPE), "trainable": 1000, "kv_heads": 4})
    estimate = estimate_online(made, shape, Prompts(24, 1024), CPU)
    assert estimate.moment == "sampling"
    # 1024 positions and a sixteenth, in blocks: 1088. Keys and values, 4 layers, 4 heads of 50, float32.
    cache = 2 * 4 * 4 * 50 * 4 * 100 * 1088
    logits = 100 * 10_000 * 16
    # Of 1,024 tokens of prompts keys and values twice, and three times the feed-forward width of 600.
    entering = 1024 * (4 * 4 * 4 * 50 + 3 * 600) * 4
    assert entering > logits
    assert sizes(estimate)["cache of 100 sequences"] == cache + entering
    # Behind a common beginning: 8 times as many keys and values, for 4 heads of 50.
    behind = estimate_online(made, shape, Prompts(24, 1024, 16), CPU)
    assert sizes(behind)["cache of 100 sequences"] == cache + entering + 2 * 8 * 1024 * 4 * 50 * 4


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


def test_the_stage_that_takes_most_is_the_run_s() -> None:
    made = config(
        stage=["sft", "grpo"],
        sft={"batch_size": 1000},
        grpo={"micro_batch_tokens": 64},
        model={"precision": "float32"},
    )
    estimate = estimate_run(made, SHAPE, Prompts(20, 32), CPU)
    assert estimate.stage == "sft"
    assert sizes(estimate)["activations of 32,000 tokens"] >= 32_000 * 4 * 4 * 4_400


def test_a_run_that_does_not_fit_is_told_which_setting_lowers_what() -> None:
    estimate = Estimate(
        "grpo",
        "updating",
        (
            Part("weights", 4 * 10**9),
            Part("activations of 8,192 tokens", 5 * 10**9, "grpo.micro_batch_tokens"),
        ),
    )
    assert warning_text(estimate, Machine(20 * 10**9, 12 * 10**9, "memory")) is None
    close = warning_text(estimate, Machine(20 * 10**9, 95 * 10**8, "memory"))
    assert close is not None
    assert "9.00 GB while updating, which may not fit into the 9.50 GB" in close
    over = warning_text(estimate, Machine(20 * 10**9, 8 * 10**9, "GPU"))
    assert over is not None
    assert "will not fit into the 8.00 GB of the GPU" in over
    assert over.endswith("activations of 8,192 tokens 5.00 GB: grpo.micro_batch_tokens")


def test_a_run_is_warned_before_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlreason.stages import preflight

    assert memory_warning(config(), CPU) is None
    monkeypatch.setattr(preflight, "machine", lambda device: Machine(10**9, 10**8, "memory"))
    said = memory_warning(config(), CPU)
    assert said is not None
    assert said.startswith("memory: grpo takes about 0.")
    # A model that cannot be had is told of elsewhere.
    assert memory_warning(config(model={"scratch": ..., "path": "no/such/model"}), CPU) is None
