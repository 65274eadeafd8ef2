import pytest
from tiny import tiny_model, tiny_policy, with_lora

from rlreason.config.training import RolloutConfig
from rlreason.errors import UserError
from rlreason.rollout import build_engine


@pytest.mark.parametrize(
    ("model", "engine", "name", "line"),
    [
        ("llama", "auto", "native", "native, float32"),
        ("llama", "native", "native", "native, float32"),
        ("llama", "transformers", "transformers", "as configured"),
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
