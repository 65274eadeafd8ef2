"""Files and overrides: what they come to, and what is said where they cannot be used."""

import warnings
from pathlib import Path

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreason.config import RunConfig, dump, load
from rlreason.config.data import RewardConfig
from rlreason.config.yaml_text import read_yaml, write_yaml
from rlreason.errors import UserError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_loads_and_is_named_after_its_file(path: Path) -> None:
    assert load(path).name == path.stem


def test_there_are_shipped_configs() -> None:
    assert {"quickstart", "tiny", "own_data"} <= {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_resolved_dump_round_trips(path: Path, tmp_path: Path) -> None:
    config = load(path)
    resolved = tmp_path / "config.yaml"
    resolved.write_text(dump(config), encoding="utf-8")
    assert load(resolved) == config
    assert dump(load(resolved)) == dump(config)


def test_dump_of_optional_sections_and_odd_text_round_trips(load_text) -> None:
    config = load_text(
        "name: tryout\nstage: grpo\ntask: {name: chain_sum, params: {a: '1e-5', b: 'yes', c: [null, 2.5]}}\n"
        "model: {path: hub/name, lora: {targets: [q_proj]}}\n",
        "prompt.system=line one\nline two: 'é'",
        "grpo.optim.lr=3e-7",
    )
    assert load_text(dump(config)) == config


def test_defaults_are_filled_in(load_text) -> None:
    config = load_text()
    assert config.stages == ("sft", "grpo")
    assert config.model.path == "embedded"
    assert config.model.lora is None
    assert config.rewards == {"accuracy": RewardConfig(weight=1.0, gate=None, args={})}
    assert config.grpo.loss == "dr_grpo"
    assert config.grpo.optim.lr == 1e-5


def test_config_is_frozen(load_text) -> None:
    config = load_text()
    with pytest.raises(pydantic.ValidationError):
        config.seed = 3
    with pytest.raises(pydantic.ValidationError):
        config.grpo.kl.coef = 0.1
    assert isinstance(config.eval.pass_at, tuple)


def test_single_stage_may_stand_without_brackets(load_text) -> None:
    assert load_text("name: a\nstage: grpo\ntask: {name: x}\n").stages == ("grpo",)


@pytest.mark.parametrize(
    ("written", "weights"),
    [
        ("random", {"random": 1.0}),
        ("{accuracy: 2, think_format: 0.1}", {"accuracy": 2.0, "think_format": 0.1}),
        ("{accuracy: {}, think_format: {weight: -1.5}}", {"accuracy": 1.0, "think_format": -1.5}),
    ],
)
def test_short_forms_of_rewards(load_text, written: str, weights: dict[str, float]) -> None:
    rewards = load_text(f"name: a\nstage: grpo\ntask: {{name: x}}\nrewards: {written}\n").rewards
    assert {name: reward.weight for name, reward in rewards.items()} == weights


def test_overrides_change_single_fields(load_text) -> None:
    config = load_text(
        "name: a\nstage: grpo\ntask: {name: x, params: {m: 1}}\ngrpo: {steps: 5}\n",
        "grpo.group_size=4",
        "task.params.n=2",
        "stage=[sft, grpo]",
        "eval.pass_at=[1]",
        "seed=1",
        "seed=2",
    )
    assert (config.grpo.steps, config.grpo.group_size) == (5, 4)
    assert config.task.params == {"m": 1, "n": 2}
    assert config.stages == ("sft", "grpo")
    assert config.seed == 2  # the last one wins


@pytest.mark.parametrize("model", ["", "model: {lora: null}\n", "model:\n"])
def test_override_creates_null_and_absent_sections(load_text, model: str) -> None:
    config = load_text(f"name: a\nstage: grpo\ntask: {{name: x}}\n{model}", "model.lora.rank=4")
    assert config.model.lora is not None
    assert (config.model.lora.rank, config.model.lora.alpha) == (4, 32.0)


def test_override_can_null_a_section(load_text) -> None:
    text = "name: a\nstage: grpo\ntask: {name: x}\nmodel: {lora: {rank: 4}}\n"
    assert load_text(text, "model.lora=null").model.lora is None


@pytest.mark.parametrize(
    ("override", "value"),
    [("name=007", "007"), ("name=1e5", "1e5"), ("name=true", "true"), ("name='8'", "8")],
)
def test_override_of_a_text_field_needs_no_quotes(load_text, override: str, value: str) -> None:
    assert load_text(override_base(), override).name == value


def override_base() -> str:
    return "name: a\nstage: grpo\ntask: {name: x}\n"


def test_override_of_a_text_field_takes_what_is_no_yaml(load_text) -> None:
    assert load_text(override_base(), "prompt.system=Think: [first").prompt.system == "Think: [first"
    assert load_text(override_base(), "prompt.system=null").prompt.system is None


@pytest.mark.parametrize("rewards", ["", "rewards: accuracy\n", "rewards: {accuracy: 1}\n"])
def test_override_reaches_into_short_forms_of_rewards(load_text, rewards: str) -> None:
    config = load_text(override_base() + rewards, "rewards.accuracy.weight=2", "rewards.think_format=0.5")
    assert {name: term.weight for name, term in config.rewards.items()} == {
        "accuracy": 2.0,
        "think_format": 0.5,
    }


def test_override_into_an_alias_leaves_the_other_section_alone(load_text) -> None:
    text = override_base() + "sft: {optim: &optim {lr: 1e-4}}\ngrpo: {optim: *optim}\n"
    config = load_text(text, "grpo.optim.lr=1e-6")
    assert (config.sft.optim.lr, config.grpo.optim.lr) == (1e-4, 1e-6)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("grpo.steps", ["no '='", "key=value"]),
        ("=3", ["empty key"]),
        ("grpo..steps=3", ["empty key"]),
        ("--grpo.steps=3", ["dash", "write grpo.steps=3"]),
        ("task.name.x=3", ["name is 'chain_sum' and has no keys"]),
        ("eval.pass_at=[1", ["line 1", "expected ',' or ']'"]),
        ("gropo.steps=3", ["gropo", "did you mean grpo?"]),
        ("grpo.step=3", ["grpo.step", "did you mean grpo.steps?"]),
    ],
)
def test_bad_override_is_explained(refused, override: str, words: list[str]) -> None:
    [mistake] = refused(override)
    for word in words:
        assert word in mistake


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "+1e-5", "1.0e-5", ".00001", "1_0.0e-6"])
def test_floats_of_every_spelling(load_text, text: str) -> None:
    assert load_text(override_base() + f"grpo: {{optim: {{lr: {text}}}}}\n").grpo.optim.lr == 1e-5
    assert load_text(override_base(), f"grpo.optim.lr={text}").grpo.optim.lr == 1e-5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e3", 1000.0),
        ("-2", -2),
        ("1_000", 1000),
        ("0x1F", 31),
        ("true", True),
        ("~", None),
        # What YAML 1.1 reads as false, 8, 90 and a date:
        ("no", "no"),
        ("off", "off"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2026-01-31", "2026-01-31"),
        # Near numbers, but none:
        ("1e", "1e"),
        ("e5", "e5"),
        ("1.2.3", "1.2.3"),
        (".", "."),
        ("-", ["x"]),
    ],
)
def test_scalars(text: str, value: object) -> None:
    assert read_yaml("- x" if text == "-" else text) == value
    assert type(read_yaml("- x" if text == "-" else text)) is type(value)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(value=PLAIN)
@settings(max_examples=60, deadline=None)
def test_written_yaml_reads_back(value: object) -> None:
    assert read_yaml(write_yaml(value)) == value


@given(
    text=st.sampled_from(
        [
            "1e-5",
            "yes",
            "a\x85b",
            "\u2028",
            "010",
            "1:30",
            "null",
            "~",
            "<<",
            ".5",
            "0x1",
            "2026-01-31",
            "",
            " a",
        ]
    )
)
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert read_yaml(write_yaml({text: text})) == {text: text}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\nseed: 1\nname: b\n", ["line 3", "'name' is already set in line 1"]),
        ("name: a\ngrpo:\n  steps: 1\n  steps: 2\n", ["line 4", "'steps' is already set in line 3"]),
        ("name: a: b\n", ["line 1", "quotes"]),
        ("grpo:\n\tsteps: 3\n", ["line 2", "a tab"]),
        ("name: [a\nseed: 1\n", ["line 2"]),
        ("name: a\ntask: &t {params: *t}\n", ["line 2", "*t stands inside of &t"]),
        ("name: a\n---\nname: b\n", ["line 2", "a second document"]),
        ("name: \x01\n", ["line 1", "character"]),
        ("name: !!python/name:os.system a\n", ["line 1", "tag"]),
        ("- a\n- b\n", ["a list", "key: value"]),
        ("a: " + "[" * 2000, ["nested too deeply"]),
    ],
)
def test_yaml_errors_name_the_line(error_of, text: str, words: list[str]) -> None:
    message = error_of(text)
    assert "job.yaml" in message
    for word in words:
        assert word in message


def test_merge_keys_are_no_duplicates(load_text) -> None:
    text = override_base() + "sft: {optim: &o {lr: 1e-4, eps: 1e-6}}\ngrpo: {optim: {<<: *o, lr: 1e-6}}\n"
    optim = load_text(text).grpo.optim
    assert (optim.lr, optim.eps) == (1e-6, 1e-6)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        load(tmp_path / "nowhere.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(UserError, match="not UTF-8"):
        load(tmp_path / "latin.yaml")


def test_byte_order_mark_of_windows_editors(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + override_base().encode())
    assert load(path).name == "a"


def test_configs_built_in_python_are_checked_too() -> None:
    with pytest.raises(ValueError, match=r"grpo\.minibatches: 3 does not divide the 8 groups"):
        RunConfig.model_validate(
            {"name": "a", "stage": "grpo", "task": {"name": "x"}, "grpo": {"minibatches": 3}}
        )


def test_bounds_survive_being_written_out(load_text) -> None:
    text = "name: a\nstage: grpo\ntask: {name: chain_sum}\n"
    config = load_text(text, "rewards={accuracy: {clip: [-1, 0.5]}}")
    assert config.rewards["accuracy"].clip == (-1.0, 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_text(dump(config)) == config
