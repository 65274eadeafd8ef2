"""Other architectures than Llama from nothing through the stages, and what is refused before any of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from micro import lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlreason.errors import UserError

Train = Callable[..., Path]

SHORT: dict[str, Any] = {
    "task": {"train_size": 8},
    "pretrain": {"text": "derivations", "sequence_tokens": 160, "batch_size": 1},
    "sft": {"size": 4, "batch_size": 4},
    "grpo": {"steps": 1, "prompts_per_step": 2},
    "ppo": {"steps": 1, "prompts_per_step": 2, "group_size": 2},
    "eval": {"questions": 2},
    "log": {"checkpoint_every": 0},
}


@pytest.mark.parametrize(
    ("architecture", "overrides", "name", "engine"),
    [
        ("qwen3", {}, "Qwen3ForCausalLM", "native, float32"),
        ("gemma3_text", {"sliding_window": 16}, "Gemma3ForCausalLM", "native, float32"),
        (
            "mixtral",
            {"num_local_experts": 4},
            "MixtralForCausalLM",
            "transformers generate, float32 (MixtralForCausalLM has no native path)",
        ),
    ],
    ids=["qwen3", "gemma3_text", "mixtral"],
)
def test_pretraining_to_grpo(
    train: Train,
    architecture: str,
    overrides: dict[str, Any],
    name: str,
    engine: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scratch = {"architecture": architecture, "overrides": overrides}
    run = train(**SHORT, stage=["pretrain", "sft", "grpo"], model={"scratch": scratch})
    shown = capsys.readouterr().out
    assert f"a new {architecture} of 0." in shown
    assert engine in shown
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert type(model).__name__ == name
    assert model.config.num_hidden_layers == 2
    assert {key: getattr(model.config, key) for key in overrides} == overrides
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(run / "model"))
    (step,) = (line for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo")
    assert step["sampler_gap"] < 1e-4
    assert step["ratio_first_pass"] == 0.0
    if architecture == "mixtral":  # its load is balanced in training, where that has a loss to go into
        assert not model.config.output_router_logits


@pytest.mark.parametrize(
    ("kind", "architecture"), [("separate", "qwen3"), ("shared", "qwen3"), ("shared", "cohere")]
)
def test_pretraining_to_a_reward_model_to_ppo(train: Train, kind: str, architecture: str) -> None:
    stages = ["pretrain", "reward_model", "ppo"] if kind == "separate" else ["pretrain", "ppo"]
    run = train(
        **{**SHORT, "ppo": {**SHORT["ppo"], "critic": {"kind": kind}}},
        stage=stages,
        model={"scratch": {"architecture": architecture}},
        reward_model={"questions": 4, "samples": 4, "batch_size": 4},
    )
    (step,) = (line for line in lines(run / "metrics.jsonl") if line["stage"] == "ppo")
    assert step["value_loss"] > 0
    assert step["grad_norm"] > 0


def test_the_embedded_tokenizer_comes_with_its_template_and_special_tokens(train: Train) -> None:
    run = train(
        stage="sft", sft={"size": 2}, task={"train_size": 4}, model={"scratch": {"tokenizer": "embedded"}}
    )
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert tokenizer.eos_token == "<|im_end|>"
    assert "<|im_start|>" in tokenizer.chat_template
    assert model.config.vocab_size == len(tokenizer) == 49152  # SmolLM2's
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert model.config.hidden_size == 32


@pytest.mark.parametrize(
    ("scratch", "changes", "message"),
    [
        ({"architecture": "qwen33"}, {}, r"model\.scratch\.architecture: 'qwen33' .* did you mean qwen3\?"),
        (
            {"architecture": "cohere"},
            {"stage": ["pretrain", "reward_model"]},
            r"stage: reward_model: needs a model with one number as its output",
        ),
        (
            {"architecture": "cohere"},
            {"stage": ["pretrain", "ppo"]},
            r"ppo\.critic\.kind: separate: needs a model with one number",
        ),
        (
            {"architecture": "cohere"},
            {"rollout": {"engine": "native"}},
            r"rollout\.engine: native cannot run what model\.scratch makes \(CohereForCausalLM",
        ),
        (
            # Its recurrent layers carry little over while they are untrained: 5e-4 in logits of up to 0.4.
            {"architecture": "jamba"},
            {"stage": "pretrain"},
            r"stage: this model lets the documents of a packed sequence see each other",
        ),
        ({"tokenizer": "no/such"}, {}, r"model\.scratch\.tokenizer: 'no/such' is no local directory"),
    ],
    ids=str,
)
def test_what_a_later_stage_could_not_use_is_refused_before_anything_is_trained(
    train: Train, tmp_path: Path, scratch: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(**{**SHORT, "stage": ["pretrain", "grpo"], **changes, "model": {"scratch": scratch}})
    metrics = tmp_path / "runs" / "micro" / "metrics.jsonl"
    assert not metrics.exists() or lines(metrics) == []


def test_a_shared_critic_is_refused_before_a_model_is_trained_whose_hidden_states_are_not_all(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlreason.policy.forward._logit_scale", lambda config: 1.0)  # as if it were not known
    with pytest.raises(UserError, match=r"ppo\.critic\.kind: shared needs the hidden states"):
        train(
            **{**SHORT, "ppo": {**SHORT["ppo"], "critic": {"kind": "shared"}}},
            stage=["pretrain", "ppo"],
            model={"scratch": {"architecture": "cohere"}},
        )
