"""The memory of a run: shapes, parts worked out by hand, what torch itself keeps, and what is said."""

from pathlib import Path
from typing import Any

import pytest
import torch
from estimated import CPU, SHAPE, config
from tiny import tiny_model, with_lora

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
from rlreason.stages.preflight import memory_warning


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
    assert shape.native == (name not in ("gpt2", "gemma2"))


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
    # Behind a common beginning: keys and values of 100 x 24 tokens, which are under 8 x 1,024, for 4 heads.
    behind = estimate_online(made, shape, Prompts(24, 1024, 16), CPU)
    assert sizes(behind)["cache of 100 sequences"] == cache + entering + 2 * 100 * 24 * 4 * 50 * 4


def test_the_cache_holds_a_prompt_once_for_its_completions() -> None:
    """100 positions of a prompt in blocks of 32 and a sixteenth more are 128, 40 of a completion 64."""
    number = 2 * 4 * 2 * 50 * 4  # keys and values, 4 layers, 2 heads of 50, float32
    logits = 128 * 20_000 * 16

    def cache(engine: str = "auto", native: bool = True, **grpo: Any) -> float:
        made = config(
            rollout={"max_new_tokens": 40, "precision": "float32", "engine": engine},
            grpo={"micro_batch_tokens": 64, "share_prompt": False, **grpo},
            model={"scratch": {"max_positions": 4096}},
            prompt={"max_tokens": 100},
            eval={"questions": 1, "samples": 1},
        )
        shape = ModelShape(**{**vars(SHAPE), "trainable": 1000, "vocabulary": 20_000, "native": native})
        estimate = estimate_online(made, shape, Prompts(100, 140), CPU)
        assert estimate.moment == "sampling"
        return (sizes(estimate)["cache of 128 sequences"] - logits) / number

    groups = {"prompts_per_step": 16, "group_size": 8}
    assert cache(**groups) == 128 * 64 + 16 * 128
    assert cache(prompts_per_step=400, group_size=2) == 128 * 64 + 128 * 128
    assert cache(engine="transformers", **groups) == cache(native=False, **groups) == 128 * 160
    assert cache(prompts_per_step=128, group_size=1, baseline="greedy") == 128 * 160


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
