"""Models made from nothing: what their configs say, and what is refused in which words."""

import re
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rlreason.config.model import ModelConfig
from rlreason.errors import UserError
from rlreason.policy import architecture as architecture_module
from rlreason.policy.architecture import check_scratch, scratch_config, scratch_model
from rlreason.policy.scratch import scratch_tokenizer

TOKENIZER = scratch_tokenizer(["a b 1 2"])


def of(architecture: str, *, attention: Any = "sdpa", **changes: Any) -> ModelConfig:
    sizes = {"hidden_size": 32, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate_size": 48}
    shape = {"architecture": architecture, **sizes, "max_positions": 64, **changes}
    return ModelConfig.model_validate({"attention": attention, "scratch": shape})


def config(architecture: str, **changes: Any) -> Any:
    return scratch_config(of(architecture, **changes).scratch, TOKENIZER)


def test_the_sizes_go_where_each_architecture_keeps_them() -> None:
    llama, gpt2 = config("llama"), config("gpt2", kv_heads=4)
    assert (llama.hidden_size, llama.num_hidden_layers, llama.num_attention_heads) == (32, 2, 4)
    assert (llama.num_key_value_heads, llama.intermediate_size, llama.max_position_embeddings) == (2, 48, 64)
    assert (gpt2.n_embd, gpt2.n_layer, gpt2.n_head, gpt2.n_inner, gpt2.n_positions) == (32, 2, 4, 48, 64)
    opt = config("opt", kv_heads=4)
    assert (opt.ffn_dim, opt.vocab_size, opt.eos_token_id) == (48, len(TOKENIZER), TOKENIZER.eos_token_id)


def test_the_width_of_a_head_is_not_that_of_the_published_model() -> None:
    plain, wide = config("gemma3_text"), config("gemma3_text", overrides={"head_dim": 16})
    assert (plain.head_dim, plain.query_pre_attn_scalar) == (32 / 4, 32 / 4)
    assert (wide.head_dim, wide.query_pre_attn_scalar) == (16, 16)


def test_overrides_reach_the_config_and_ties_can_be_cut() -> None:
    found = config("mixtral", overrides={"num_local_experts": 4, "tie_word_embeddings": False})
    assert (found.num_local_experts, found.tie_word_embeddings) == (4, False)
    assert config("mixtral").tie_word_embeddings


def test_the_default_is_the_llama_of_transformers() -> None:
    torch.manual_seed(3)
    made = scratch_model(of("llama"), TOKENIZER)
    torch.manual_seed(3)
    expected = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            tie_word_embeddings=True,
            pad_token_id=TOKENIZER.pad_token_id,  # its embedding is 0
        )
    ).state_dict()
    assert made.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in made.state_dict().items())


def test_a_tokenizer_with_ids_beyond_its_length_gets_an_embedding_for_each() -> None:
    class Holes:
        bos_token_id, eos_token_id, pad_token_id = None, 9, None

        def __len__(self) -> int:
            return 3

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 4, "</s>": 9}

    assert scratch_config(of("llama").scratch, Holes()).vocab_size == 10


@pytest.mark.parametrize(
    ("architecture", "changes", "message"),
    [
        ("mistrall", {}, "model.scratch.architecture: 'mistrall' is no language model of transformers "),
        (
            "gemma3",
            {},
            "model.scratch.architecture: 'gemma3' is more than a language model; give gemma3_text",
        ),
        ("bart", {}, "model.scratch.architecture: 'bart' has an encoder; take one without"),
        ("mamba", {}, "model.scratch.architecture: mamba has no num_attention_heads"),
        ("gpt2", {}, "model.scratch.kv_heads: 2 heads for keys and values are not for gpt2"),
        (
            "mixtral",
            {"overrides": {"num_local_expert": 4}},
            "model.scratch.overrides.num_local_expert: mixtral has no such field; did you mean "
            "num_local_experts?",
        ),
        (
            "llama",
            {"overrides": {"qqq": 4}},
            "model.scratch.overrides.qqq: llama has no such field; give one of attention_bias, ",
        ),
        (
            "gpt2",
            {"kv_heads": 4, "overrides": {"n_embd": 64}},
            "model.scratch.overrides.n_embd: is what model.scratch.hidden_size says; set that",
        ),
        (
            "llama",
            {"overrides": {"vocab_size": 64}},
            "model.scratch.overrides.vocab_size: is what the tokenizer says; remove it",
        ),
        (
            "llama",
            {"overrides": {"rms_norm_eps": "small"}},
            "model.scratch: llama refuses this config (TypeError: Field 'rms_norm_eps' expected float",
        ),
        (
            "bloom",
            {"kv_heads": 4, "intermediate_size": 384},
            "model.scratch: no bloom of this shape can be made with model.attention = sdpa",
        ),
        ("bloom", {"kv_heads": 4}, "model.scratch.intermediate_size: bloom derives its own; remove it"),
    ],
)
def test_what_cannot_be_made_is_refused_without_weights(
    architecture: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_scratch(of(architecture, **changes), scalar=None)


def test_what_transformers_cannot_do_one_way_it_may_do_another() -> None:
    model = scratch_model(of("bloom", kv_heads=4, intermediate_size=384, attention="eager"), TOKENIZER)
    assert type(model).__name__ == "BloomForCausalLM"


def test_flash_attention_is_not_asked_to_run_where_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    flash, plain = "flash_attention_2", of("llama")
    model = architecture_module._causal_lm(plain, scratch_config(plain.scratch, TOKENIZER))
    kinds, forward = [flash], model.forward

    def run(**inputs: Any) -> Any:
        if kinds[-1] == flash:
            raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", run)
    monkeypatch.setattr(model, "set_attn_implementation", kinds.append)
    monkeypatch.setattr(architecture_module, "_causal_lm", lambda *_: model)
    assert scratch_model(of("llama", attention=flash), TOKENIZER) is model
    assert kinds == [flash, "sdpa", flash]


def test_a_model_that_looks_ahead_is_refused() -> None:
    with pytest.raises(UserError, match="bert lets a token see those behind it"):
        scratch_model(of("bert", kv_heads=4), TOKENIZER)
    scratch_model(of("bert", kv_heads=4, overrides={"is_decoder": True}), TOKENIZER)


@pytest.mark.parametrize(
    ("architecture", "has"), [("qwen3", True), ("mixtral", True), ("cohere", False), ("olmoe", False)]
)
def test_which_have_a_form_with_one_number_as_output(architecture: str, has: bool) -> None:
    if has:
        check_scratch(of(architecture), scalar="stage: reward_model")
        return
    with pytest.raises(UserError, match=f"stage: reward_model: needs .* none for {architecture}"):
        check_scratch(of(architecture), scalar="stage: reward_model")
