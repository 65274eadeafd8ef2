import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny import VOCABULARY, plain_logprobs, tiny_model, tiny_policy, with_lora

from rlreason.config.training import RolloutConfig
from rlreason.errors import UserError
from rlreason.rollout import build_engine, decoder
from rlreason.rollout.probe import disagreement


@pytest.mark.parametrize(
    ("model", "engine", "name", "line"),
    [
        ("llama", "auto", "native", "native, float32"),
        ("llama", "native", "native", "native, float32"),
        ("llama", "transformers", "transformers", "as configured"),
        ("qwen3", "auto", "native", "native, float32"),
        ("gemma3_text", "auto", "native", "native, float32"),
        ("mistral window", "auto", "native", "native, float32"),
        ("gpt2", "auto", "transformers", "GPT2LMHeadModel has no native path"),
    ],
)
def test_the_engine_and_the_line_that_says_why(model: str, engine: str, name: str, line: str) -> None:
    config = RolloutConfig(engine=engine, precision="float32")  # type: ignore[arg-type]
    built, said = build_engine(tiny_policy(tiny_model(model)), config)
    assert built.name == name
    assert line in said


def test_native_where_there_is_no_native_path_is_refused() -> None:
    with pytest.raises(UserError, match=r"rollout\.engine.*GPT2LMHeadModel.*use 'auto'"):
        build_engine(tiny_policy(tiny_model("gpt2")), RolloutConfig(engine="native"))


def test_an_adapter_does_not_hide_the_architecture() -> None:
    built, _ = build_engine(tiny_policy(with_lora(tiny_model("llama"))), RolloutConfig(precision="float32"))
    assert built.name == "native"


def _with_another_scale(model: Any) -> None:
    model.model.layers[1].self_attn.scaling *= 1.1


def _with_another_norm(model: Any) -> None:
    model.model.norm.variance_epsilon = 0.01


def _with_gated_attention(model: Any) -> None:
    attention = model.model.layers[0].self_attn
    attention.q_proj = torch.nn.Linear(32, 64, bias=False)
    attention.k_proj = torch.nn.Linear(32, 4, bias=False)


def _without_a_norm(model: Any) -> None:
    del model.model.layers[0].post_attention_layernorm


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_with_another_scale, "nats off this model's own log-probs"),
        (_with_another_norm, "nats off this model's own log-probs"),
        (_with_gated_attention, "the native engine fails on it"),
        (_without_a_norm, "not built like that of transformers"),
    ],
)
def test_a_model_that_is_not_what_its_name_says_is_left_to_transformers(
    change: Callable[[Any], None], reason: str
) -> None:
    model = tiny_model("llama")
    change(model)
    built, said = build_engine(tiny_policy(model), RolloutConfig(precision="float32"))
    assert built.name == "transformers"
    assert reason in said
    with pytest.raises(UserError, match=reason):
        build_engine(tiny_policy(model), RolloutConfig(engine="native"))


def test_the_probe_sees_a_difference_also_in_an_untrained_model() -> None:
    """Whose log-probs are nearly those of the uniform distribution, whatever it attends to."""
    model = tiny_model("llama", initializer_range=0.02)
    assert disagreement(tiny_policy(model)) is None
    with torch.no_grad():
        logprobs = plain_logprobs(model, [5, 6, 7], [8, 9, 10])
    assert float((logprobs + math.log(VOCABULARY)).abs().max()) < 0.5
    model.model.layers[0].self_attn.scaling = 0.0
    assert "nats off" in str(disagreement(tiny_policy(model)))


def test_the_probe_leaves_the_model_as_it_was() -> None:
    model = tiny_model("llama").train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    assert disagreement(tiny_policy(model)) is None
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("broken", ["Prefixes", "Cache"])
def test_prefixes_are_probed_as_they_are_used(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared and copied: a mistake in either kind of attention alone is found."""
    kind = getattr(decoder, broken)
    own = kind.attend
    monkeypatch.setattr(kind, "attend", lambda *rest: 1.1 * own(*rest))
    assert "nats off" in str(disagreement(tiny_policy(tiny_model("llama"))))
