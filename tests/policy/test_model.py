"""What is saved loads elsewhere with the same logits; what cannot be loaded says why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import EOS, random_ids, tiny_model, tiny_policy, tiny_tokenizer, with_lora
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlreason.config.model import LoraConfig, ModelConfig, ScratchConfig
from rlreason.errors import UserError
from rlreason.policy.model import load_policy

IDS = torch.tensor([random_ids(12)])
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


def saved(folder: Path, name: str = "llama", **options: Any) -> Path:
    tiny_model(name, **options).save_pretrained(folder)
    tiny_tokenizer(TEMPLATE).save_pretrained(folder)
    return folder


def load(path: Path | str, **options: Any) -> Any:
    return load_policy(
        ModelConfig(path=str(path), precision="float32", **options), device=torch.device("cpu")
    )


# --- loading -------------------------------------------------------------------------------------------


def test_a_model_directory_loads_with_its_logits(tmp_path: Path) -> None:
    policy = load(saved(tmp_path / "m"))
    torch.testing.assert_close(logits(policy.model), logits(tiny_model("llama")), rtol=0, atol=1e-6)
    assert policy.dtype == torch.float32
    assert policy.eos_ids == (EOS,)
    assert policy.pad_id == 0
    assert not policy.has_adapter


def test_where_a_model_is_loaded_attention_of_cudnn_is_left_out(tmp_path: Path) -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    load(saved(tmp_path))
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_weights_are_float32_whatever_the_file_holds(tmp_path: Path) -> None:
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path)
    tiny_tokenizer(TEMPLATE).save_pretrained(tmp_path)
    policy = load(tmp_path)
    assert {parameter.dtype for parameter in policy.model.parameters()} == {torch.float32}


def test_a_directory_without_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "tokenizer" in str(error.value)


def test_an_empty_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "model.path" in str(error.value)


def test_a_directory_with_a_tokenizer_alone_is_no_model(tmp_path: Path) -> None:
    tiny_tokenizer(TEMPLATE).save_pretrained(tmp_path)
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_a_file_is_no_model_directory(tmp_path: Path) -> None:
    file = tmp_path / "model.txt"
    file.write_text("no model")
    with pytest.raises(UserError, match=r"model\.path.*model\.txt"):
        load(file)


@pytest.mark.parametrize("path", ["nobody/no-such-model", "./no/such/folder"])
def test_an_unreachable_hub_names_the_embedded_model(path: str) -> None:
    with pytest.raises(UserError) as error:
        load(path)
    assert path in str(error.value)
    assert "model.path=embedded" in str(error.value)


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    """Unpickling runs code: a model directory without safetensors is not read."""
    saved(tmp_path)
    weights = tiny_model("llama").state_dict()
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load(tmp_path)


def test_a_torn_weight_file_is_refused_by_name(tmp_path: Path) -> None:
    saved(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("llama", {"attention_dropout": 0.5}),
        ("gpt2", {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5}),
    ],
)
def test_dropout_is_off_unless_asked_for(tmp_path: Path, name: str, options: dict[str, float]) -> None:
    """With dropout the ratio of the first pass would not be 1."""
    saved(tmp_path, name, **options)
    config = ModelConfig(path=str(tmp_path), precision="float32")
    with torch.no_grad():
        model = load_policy(config).model.train()
        torch.testing.assert_close(model(IDS).logits, model(IDS).logits, rtol=0, atol=0)
        model = load_policy(config, dropout=True).model.train()
        assert not torch.equal(model(IDS).logits, model(IDS).logits)


def test_a_tokenizer_without_pad_token_pads_with_any_id(tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "a")
    tiny_tokenizer(TEMPLATE, pad_token=None).save_pretrained(tmp_path / "a")
    assert load(tmp_path / "a").pad_id == EOS
    tiny_model("llama").save_pretrained(tmp_path / "b")
    tiny_tokenizer(TEMPLATE, pad_token=None, eos_token=None).save_pretrained(tmp_path / "b")
    policy = load(tmp_path / "b")
    assert policy.eos_ids == (EOS,)  # the model's own
    assert isinstance(policy.pad_id, int)


def test_a_model_from_nothing_has_the_asked_shape() -> None:
    scratch = ScratchConfig(
        hidden_size=32, layers=3, heads=4, kv_heads=2, intermediate_size=48, max_positions=64
    )
    config = ModelConfig(scratch=scratch, precision="float32")
    policy = load_policy(config, scratch_texts=lambda: ["what is 1 + 2?"], tags=("<think>",))
    shape = policy.model.config
    assert (shape.hidden_size, shape.num_hidden_layers, shape.num_attention_heads) == (32, 3, 4)
    assert (shape.num_key_value_heads, shape.intermediate_size, shape.max_position_embeddings) == (2, 48, 64)
    assert policy.tokenizer.vocab_size <= shape.vocab_size == len(policy.tokenizer)
    assert policy.eos_ids == (policy.tokenizer.eos_token_id,)
    torch.manual_seed(0)
    first = load_policy(config, scratch_texts=lambda: ["a"])
    torch.manual_seed(0)
    second = load_policy(config, scratch_texts=lambda: ["a"])
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


# --- adapters ------------------------------------------------------------------------------------------


def test_a_fresh_adapter_is_the_identity_and_alone_trains(tmp_path: Path) -> None:
    policy = load(saved(tmp_path), lora=LoraConfig(rank=4))
    assert policy.has_adapter
    torch.testing.assert_close(logits(policy.model), logits(tiny_model("llama")), rtol=0, atol=1e-6)
    assert all("lora_" in name for name in policy.trainable())
    assert {parameter.requires_grad for parameter in policy.trainable().values()} == {True}


def test_adapter_off_is_the_model_below() -> None:
    base = logits(tiny_model("llama"))
    policy = tiny_policy(with_lora(tiny_model("llama")))
    adapted = logits(policy.model)
    assert not torch.allclose(adapted, base, atol=1e-2)
    with policy.adapter_off():
        torch.testing.assert_close(logits(policy.model), base, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits(policy.model), adapted, rtol=0, atol=0)


def test_targets_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.lora\.targets.*no_such_layer"):
        load(saved(tmp_path), lora=LoraConfig(targets=("no_such_layer",)))


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_an_adapter_on_tied_weights_is_refused(tmp_path: Path, target: str) -> None:
    """Head and embedding are one matrix there: an adapter on one of them cannot be merged into it."""
    with pytest.raises(UserError, match=r"model\.lora\.targets.*share"):
        load(saved(tmp_path, "llama tied"), lora=LoraConfig(targets=("q_proj", target)))


def test_a_model_in_which_nothing_trains_is_refused() -> None:
    policy = tiny_policy(tiny_model("llama").requires_grad_(False))
    with pytest.raises(UserError, match="no parameter is trainable"):
        policy.trainable()


# --- saving --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "llama tied", "qwen2", "gpt2"])
def test_what_is_saved_loads_elsewhere_with_the_same_logits(tmp_path: Path, name: str) -> None:
    model = tiny_model(name)
    tiny_policy(model, tiny_tokenizer(TEMPLATE)).save(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == TEMPLATE


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("llama", "all-linear"),
        ("llama tied", "all-linear"),
        ("qwen2", ("q_proj", "v_proj")),
        ("llama", ("q_proj", "lm_head", "embed_tokens")),
        ("gpt2", ("c_attn", "c_proj")),  # Conv1D layers, which keep their weight transposed
    ],
)
def test_an_adapter_is_saved_merged_and_the_live_weights_stay(
    tmp_path: Path, name: str, targets: Any
) -> None:
    model = with_lora(tiny_model(name), targets=targets)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    expected = logits(model)
    tiny_policy(model, tiny_tokenizer(TEMPLATE)).save(tmp_path / "out")
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=1e-5)
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"]


def test_a_saved_policy_is_one_that_can_be_loaded(tmp_path: Path) -> None:
    first = load(saved(tmp_path / "a"), lora=LoraConfig(rank=2))
    first.save(tmp_path / "b")
    second = load(tmp_path / "b")
    torch.testing.assert_close(logits(second.model), logits(first.model), rtol=0, atol=1e-6)
    assert (second.eos_ids, second.pad_id) == (first.eos_ids, first.pad_id)
