"""The whole preflight on the micro model, and on models and configs with something wrong."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from micro import MICRO, lines, merged
from tiny import tiny_model, tiny_tokenizer

from rlreason import cli
from rlreason.config import RunConfig, load
from rlreason.errors import UserError
from rlreason.preflight import examine, show
from rlreason.preflight.forecast import Lengths
from rlreason.report.page import printed
from rlreason.stages.update import Updater

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(**changes: Any) -> Path:
        path = tmp_path / "micro.yaml"
        made = merged(MICRO, {"output_dir": str(tmp_path / "runs"), **changes})
        path.write_text(yaml.safe_dump(made))
        return path

    return write


def saved_model(folder: Path, *, ends: int = 2, template: str = TEMPLATE) -> str:
    """A model folder whose config and generation config name `ends` as the end of a sequence."""
    model, tokenizer = (
        tiny_model("llama", vocab_size=104, max_position_embeddings=256),
        tiny_tokenizer(template),
    )
    model.config.eos_token_id = model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def text_of(config: RunConfig) -> str:
    found = examine(config)
    return " ".join(printed(lambda console: show(found, console)).split())


def test_the_whole_page_and_nothing_is_written(
    written: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["check", str(written()), "log.price_per_hour=3600"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for heading in (
        "Gold answers",
        "Attacks",
        "Resolved config",
        "Plan",
        "Tokens",
        "Lengths",
        "Memory",
        "Time",
    ):
        assert heading in out
    assert "a turn ends with any of: '<|im_end|>'" in out
    assert "prompt (" in out
    assert "carry loss" in out
    assert "cut off at 12 tokens" in out
    assert "about 0." in out
    assert "at 3600 an hour" in out
    assert not (tmp_path / "runs").exists()


def test_an_update_is_foretold_by_the_tokens_that_it_computes(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Lengths] = []

    def forecast(config: RunConfig, rates: Any, lengths: Lengths) -> list[Any]:
        told.append(lengths)
        return []

    # `rlreason.preflight.examine` is the function: the package has it in the module's place.
    monkeypatch.setattr(import_module("rlreason.preflight.examine"), "forecast", forecast)
    for grpo in ({}, {"down_sample": 2}, {"share_prompt": False, "micro_batch_tokens": 1}):
        examine(load(written(stage="grpo", grpo=grpo, task={"params": {"min_terms": 2, "max_terms": 2}})))
    shared, fewer, alone = (lengths.update for lengths in told)
    # 4 prompts, and 16 completions, as many as were tried; rows of like length are padded a little. A prompt
    # is a token or less from the mean.
    least = 4 * (told[0].prompt - 1) + 16 * told[0].completion
    assert least <= shared <= 1.25 * least
    assert fewer < shared
    # Each alone in its pass, there is no padding.
    assert alone == pytest.approx(16 * (told[2].prompt + told[2].completion), abs=16)


def test_the_trial_learns_from_those_that_a_step_would(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    updated: list[int] = []
    update = Updater.update

    def counted(self: Updater, samples: Any, step: int) -> Any:
        updated.append(len(samples))
        return update(self, samples, step)

    monkeypatch.setattr(Updater, "update", counted)
    examine(load(written(stage="grpo", grpo={"group_size": 8, "down_sample": 2})))
    # 16 completions are tried, of two questions: the first alone, twice, and both.
    assert updated == [2, 2, 4]


@pytest.mark.parametrize("stage", [["sft", "ppo"], ["ppo"], ["sft"]])
def test_every_last_stage_can_be_looked_at(written: Callable[..., Path], stage: list[str]) -> None:
    found = examine(load(written(stage=stage)))
    assert found.sound
    assert (found.trial is None) == (stage == ["sft"])
    assert [one.name for one in found.forecast] == ([] if stage == ["sft"] else stage)
    assert any(title.startswith("sft") for title in found.shown) == ("sft" in stage)


def test_forecast_and_step_of_a_real_run_are_of_one_size(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    """The micro run takes milliseconds a step, so that only the order of magnitude can hold."""
    from rlreason.stages import run

    config = load(written(stage="grpo", grpo={"steps": 6}))
    (stage,) = examine(config).forecast
    run(config)
    steps = [line["time"]["total"] for line in lines(tmp_path / "runs" / "micro" / "metrics.jsonl")]
    assert stage.seconds is not None
    assert 0.2 < stage.seconds / sum(steps) < 10


def test_a_model_that_never_ends_is_an_error_where_it_is_the_one_that_samples(
    written: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved_model(tmp_path / "model", ends=103)  # the tokenizer still ends turns with 2
    tokenizer_alone = {"scratch": ..., "path": path, "precision": "float32"}
    config = written(stage="grpo", model=tokenizer_alone, rollout={"max_new_tokens": 1})
    assert cli.main(["check", str(config)]) == 1
    assert "error: rollout.max_new_tokens=1: 100% of 16 completions were cut off" in " ".join(
        capsys.readouterr().out.split()
    )


def test_all_ids_that_end_a_turn_are_named(written: Callable[..., Path], tmp_path: Path) -> None:
    path = saved_model(tmp_path / "model", ends=50)
    found = examine(load(written(stage="grpo", model={"scratch": ..., "path": path, "precision": "float32"})))
    assert [token for token, _ in found.eos] == [2, 50]  # of the tokenizer, and of the generation config


def test_a_sampler_whose_speed_could_not_be_told_is_said_to_be(written: Callable[..., Path]) -> None:
    config = load(written(stage="grpo", rollout={"max_new_tokens": 1}))  # no two lengths to compare
    found = examine(config)
    assert found.trial is not None
    assert not found.trial.rates.token_exact
    page = " ".join(printed(lambda console: show(found, console)).split())
    assert "the time of a token could not be told more exactly" in page


def test_a_time_without_every_stage_is_not_called_all(written: Callable[..., Path]) -> None:
    assert " in all " in text_of(load(written(stage=["sft", "grpo"]))).split("Time", 1)[1]
    config = load(written(stage=["pretrain", "sft", "grpo"], pretrain={"sequence_tokens": 64}))
    page = text_of(config).split("Time", 1)[1]
    assert " at least " in page
    assert "; pretrain comes on top" in page
    assert " in all " not in page


@pytest.mark.parametrize("combine", ["sum", "gdpo"])
def test_a_reward_that_the_run_has_yet_to_learn_is_shown_and_not_scored(
    written: Callable[..., Path], combine: str
) -> None:
    paid = {"accuracy": 1, "think_format": 0.1, "learned": {"weight": 0.5}}
    config = load(written(stage=["sft", "reward_model", "grpo"], rewards=paid, grpo={"combine": combine}))
    found = examine(config)
    page = " ".join(printed(lambda console: show(found, console)).split())
    assert found.config is config
    assert "1 accuracy + 0.5 learned + 0.1 think_format" in page
    assert (
        "rewards.learned: its model is made in the run, so that the completions tried here are scored" in page
    )
    assert found.trial is not None
    assert all("learned" not in sample.score.parts for sample in found.trial.samples)


def test_prompts_that_are_left_out_are_a_warning(written: Callable[..., Path]) -> None:
    found = examine(load(written(prompt={"system": None, "max_tokens": 26})))
    (warning,) = [one.text for one in found.findings if "prompt.max_tokens=26" in one.text]
    assert warning.endswith("raise it")
    assert found.sound


def test_memory_that_is_not_there_is_a_warning(
    written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib

    from rlreason.memory import Machine

    examined = importlib.import_module("rlreason.preflight.examine")
    monkeypatch.setattr(examined, "machine", lambda device: Machine(10**9, 10**8, "memory"))
    found = examine(load(written()))
    assert found.sound
    assert any("will not fit into the 0.10 GB of memory" in one.text for one in found.findings)


def test_a_model_that_cannot_be_had_comes_after_the_rewards_and_exits_with_2(
    written: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = str(written(stage="grpo", model={"scratch": ..., "path": "no/such/model"}))
    assert cli.main(["check", config]) == 2
    said = capsys.readouterr()
    assert "Gold answers" in said.out
    assert "model.path: " in said.err
    assert cli.main(["check", "--rewards-only", config]) == 0


def test_a_tracker_that_cannot_be_had_is_refused(written: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"log\.trackers: 'tensorbord'"):
        examine(load(written(), ["log.trackers=tensorbord"]))
