"""Stages on a Trainer go on bit for bit: in the middle of an epoch, with dropout, and at an epoch's end."""

import json
import math
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import lines, without_clocks
from safetensors.torch import load_file

from rlreason.errors import UserError
from rlreason.runs.manifest import write_manifest
from rlreason.stages.exact import ExactTrainer

Train = Callable[..., Path]


def same(one: Path, other: Path, model: str) -> bool:
    a, b = (load_file(run / "checkpoints" / model / "model.safetensors") for run in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def dying(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The process ends after `step`, before that is saved."""
    whole = ExactTrainer.finish_step

    def finish(self: ExactTrainer, control: Any) -> None:
        if self.state.global_step == step:
            raise SystemExit("killed")
        whole(self, control)

    monkeypatch.setattr(ExactTrainer, "finish_step", finish)


def killed(train: Train, monkeypatch: pytest.MonkeyPatch, step: int, settings: dict[str, Any]) -> None:
    with monkeypatch.context() as patch:
        dying(patch, step)
        with pytest.raises(SystemExit):
            train(name="cut", **settings)


def interrupted(
    train: Train, monkeypatch: pytest.MonkeyPatch, step: int, signal_number: int, settings: dict[str, Any]
) -> None:
    """The process is sent a signal in the middle of `step`."""
    whole = ExactTrainer.training_step

    def training_step(self: ExactTrainer, *rest: Any) -> Any:
        if self.state.global_step == step - 1:
            os.kill(os.getpid(), signal_number)
        return whole(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(ExactTrainer, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            train(name="cut", **settings)


def pairs_file(path: Path, count: int = 20) -> str:
    draw = random.Random(0)
    rows = [
        {
            "prompt": f"{draw.randint(1, 99)} + {number} =",
            "chosen": "<think>7 + 0 = 7</think><answer>7</answer>",
            "rejected": "<think>3 + 0 = 3</think><answer>3</answer>",
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def changes(stage: str, folder: Path) -> dict[str, Any]:
    """Three epochs of 4 steps (pretrain: of as many as the packing gives), a checkpoint every 2 steps."""
    sections: dict[str, dict[str, Any]] = {
        "pretrain": {"epochs": 3, "sequence_tokens": 192, "batch_size": 3},
        "sft": {"size": 16, "epochs": 3, "batch_size": 4, "optim": {"schedule": "cosine", "warmup_steps": 2}},
        "reward_model": {
            "pairs": pairs_file(folder / "pairs.jsonl"),
            "held_out": 0.2,
            "epochs": 3,
            "batch_size": 4,
            "optim": {"lr": 1e-3},
        },
    }
    stages = ["sft", "reward_model"] if stage == "reward_model" else [stage]
    return {"stage": stages, stage: sections[stage], "log": {"stage_checkpoint_every": 2}}


@pytest.mark.parametrize("step", [3, 6, 8])  # step 4 ends the first epoch: going on after 2, 4 and 6
@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward_model"])
def test_steps_straight_equal_steps_with_a_resume_between(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, step: int
) -> None:
    settings = changes(stage, tmp_path)
    straight = train(name="straight", **settings)
    killed(train, monkeypatch, step, settings)
    saved = sorted(p.name for p in (tmp_path / "runs/cut/checkpoints").glob(f"{stage}-step-*"))
    assert saved[-1] == f"{stage}-step-{(step - 1) // 2 * 2:06d}"
    resumed = train(name="cut", **settings)
    assert without_clocks(straight / "metrics.jsonl") == without_clocks(resumed / "metrics.jsonl")
    assert same(straight, resumed, stage)
    assert not list((resumed / "checkpoints").glob(f"{stage}-step-*"))  # nothing goes on from them any more


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(
    ("stage", "field", "edit"),
    [
        ("pretrain", "text", ("40 + 1 = 41", "40 + 1 = 14")),
        ("sft", "traces", ("3 + 1 = 4", "3 + 1 = 04")),
        ("reward_model", "pairs", ("3 + 0 = 3", "3 + 0 = 4")),
    ],
)
def test_a_file_that_has_changed_in_the_middle_of_a_stage_is_refused(
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    field: str,
    edit: tuple[str, str],
) -> None:
    settings, path = changes(stage, tmp_path), tmp_path / f"{field}.jsonl"
    sums = [(f"{n} + 1 =", f"{n} + 1 = {n + 1}", f"{n + 1}") for n in range(60)]
    if stage == "pretrain":
        text = jsonl(path, [{"text": line} for _, line, _ in sums])
        settings[stage] |= {"text": [text], "held_out": 0.3, "sequence_tokens": 64, "batch_size": 2}
    elif stage == "sft":
        columns = ("question", "reasoning", "answer")
        settings[stage]["traces"] = jsonl(path, [dict(zip(columns, one, strict=True)) for one in sums[:16]])
    killed(train, monkeypatch, 3, settings)
    before = path.read_text()
    path.write_text(before.replace(*edit))
    with pytest.raises(UserError, match=rf"{stage}\.{field}: .*{field}\.jsonl.*restore the file .*name="):
        train(name="cut", **settings)
    path.write_text(before)
    train(name="cut", **settings)


def test_another_number_of_processes_in_the_middle_of_a_stage_is_refused(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changes("sft", tmp_path)
    killed(train, monkeypatch, 3, settings)
    folder = tmp_path / "runs/cut/checkpoints/sft-step-000002"
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "random": state["random"] * 2}))
    write_manifest(folder)
    metrics = (tmp_path / "runs/cut/metrics.jsonl").read_text()
    with pytest.raises(
        UserError, match=r"sft-step-000002 was written by 2 processes and this run has 1: .*2"
    ):
        train(name="cut", **settings)
    assert (tmp_path / "runs/cut/metrics.jsonl").read_text() == metrics


def with_dropout(model: Path) -> Path:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "attention_dropout": 0.3}))
    (model / "manifest.json").unlink()
    return model


def test_dropout_goes_on_with_the_draws_it_would_have_made(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = with_dropout(train(name="base", stage="sft") / "model")
    settings = changes("sft", tmp_path)
    settings["model"] = {"scratch": None, "path": str(base)}
    straight = train(name="straight", **settings)
    killed(train, monkeypatch, 7, settings)
    resumed = train(name="cut", **settings)
    assert same(straight, resumed, "sft")
    assert without_clocks(straight / "metrics.jsonl") == without_clocks(resumed / "metrics.jsonl")


def test_the_random_states_matter(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test above can fail."""
    base = with_dropout(train(name="base", stage="sft") / "model")
    settings = changes("sft", tmp_path)
    settings["model"] = {"scratch": None, "path": str(base)}
    straight = train(name="straight", **settings)
    killed(train, monkeypatch, 7, settings)
    monkeypatch.setattr("rlreason.stages.exact._restore_random", lambda *_: torch.manual_seed(1))
    assert not same(straight, train(name="cut", **settings), "sft")


def test_an_adapter_goes_on_too(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = train(name="base", stage="sft") / "model"
    settings = changes("sft", tmp_path)
    settings["model"] = {"scratch": None, "path": str(base), "lora": {"rank": 2}}
    straight = train(name="straight", **settings)
    killed(train, monkeypatch, 7, settings)
    assert same(straight, train(name="cut", **settings), "sft")


def test_nothing_in_a_checkpoint_is_pickled(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(train, monkeypatch, 3, changes("sft", tmp_path))
    folder = tmp_path / "runs/cut/checkpoints/sft-step-000002"
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json"}

    def unpickled(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was loaded")

    monkeypatch.setattr("torch.load", unpickled)
    train(name="cut", **changes("sft", tmp_path))


def test_interrupted_stage_saves_where_it_is_and_goes_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = changes("sft", tmp_path)
    straight = train(name="straight", **settings)
    interrupted(train, monkeypatch, 5, signal.SIGTERM, settings)
    assert (tmp_path / "runs/cut/checkpoints/sft-step-000005").is_dir()
    said = capsys.readouterr().err
    assert "To go on after step 5 of sft: python train.py" in said
    resumed = train(name="cut", **settings)
    assert same(straight, resumed, "sft")
    assert without_clocks(straight / "metrics.jsonl") == without_clocks(resumed / "metrics.jsonl")


def test_interrupted_at_the_last_step_goes_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = changes("sft", tmp_path)
    straight = train(name="straight", **settings)
    interrupted(train, monkeypatch, 12, signal.SIGINT, settings)
    resumed = train(name="cut", **settings)
    assert same(straight, resumed, "sft")
    assert without_clocks(straight / "metrics.jsonl") == without_clocks(resumed / "metrics.jsonl")


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward_model"])
def test_a_loss_that_is_not_finite_is_left_out_dumped_and_then_refused(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Steps 2 and 5 to 8 of the stage are broken; four in a row end it."""
    settings = changes(stage, tmp_path)
    kept: list[torch.Tensor] = []
    own = ExactTrainer.compute_loss

    def broken(self: ExactTrainer, *rest: Any, **options: Any) -> Any:
        loss = own(self, *rest, **options)
        if self._stage != stage:
            return loss
        step = self.state.global_step + 1
        if step in (2, 3):
            kept.append(next(iter(self._trainable().values())).detach().clone())
        return loss * math.nan if step == 2 or step >= 5 else loss

    monkeypatch.setattr(ExactTrainer, "compute_loss", broken)
    with pytest.raises(UserError, match="4 optimizer steps in a row") as refused:
        train(**settings)
    assert f"Lower {stage}.optim.lr or set model.precision=float32, and start a new run (name=...);" in str(
        refused.value
    )
    assert "model.path" not in str(refused.value)  # a checkpoint of the stage is no model
    assert torch.equal(*kept)  # step 2 has not touched them
    dumps = sorted(p.name for p in (tmp_path / "runs/micro/skipped").iterdir())
    assert dumps == [f"{stage}-step-{n:06d}-{k}.jsonl" for n, k in [(2, 1), (5, 1), (6, 1), (7, 1), (8, 1)]]
    head, *rows = lines(tmp_path / "runs/micro/skipped" / dumps[0])
    assert head["not_finite"] == ["loss", "gradient"]
    assert head["non_finite"] == {"loss": "nan", "gradient": "nan"}
    assert rows
    assert all(row["text"] for row in rows)


def test_the_last_step_has_a_line_of_metrics(train: Train) -> None:
    """23 steps: a line for every second, and for the last; their losses are of the steps since."""
    run = train(stage="sft", sft={"size": 23, "batch_size": 1})
    steps = [line["step"] for line in lines(run / "metrics.jsonl")]
    assert steps == [*range(2, 23, 2), 23]
