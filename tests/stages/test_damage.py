"""What a disk has done to a run: named, set aside, and gone on from what was before."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import lines, without_clocks
from safetensors.torch import load_file

from rlreason.cli import main_eval
from rlreason.errors import UserError

Train = Callable[..., Path]
STEPS = {"grpo": {"steps": 6}}


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path) -> None:
    """One bit, in the middle of the file."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


DAMAGES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "truncated weights": ("model.safetensors", truncate, "model.safetensors has [0-9,]+ bytes, not the"),
    "flipped bit": ("model.safetensors", flip, "model.safetensors has been changed"),
    "flipped bit of the optimizer": ("trainer/optimizer.safetensors", flip, "optimizer.safetensors has been"),
    "missing file": ("trainer/state.json", Path.unlink, "trainer/state.json is missing"),
    "flipped bit of the manifest": ("manifest.json", flip, "manifest.json cannot be read"),
    "empty manifest": ("manifest.json", lambda file: file.write_text(""), "manifest.json cannot be read"),
}


@pytest.fixture
def cut(train: Train, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A run that died after step 5, with checkpoints of steps 2 and 4."""

    def run(**changes: Any) -> Path:
        from rlreason.stages import loop

        whole = loop.record

        def die(context: Any, setup: Any, *rest: Any) -> None:
            whole(context, setup, *rest)
            if setup.step == 5:
                raise SystemExit(str(context.run.root))

        with monkeypatch.context() as patch:
            patch.setattr(loop, "record", die)
            with pytest.raises(SystemExit) as stop:
                train(name="cut", **{**STEPS, **changes})
        return Path(str(stop.value))

    return run


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_is_used(
    train: Train, cut: Any, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    straight = train(name="straight", **STEPS)
    run = cut()
    name, break_it, said = DAMAGES[what]
    break_it(run / "checkpoints/step-000004" / name)
    before = {p.name: p.read_bytes() for p in (run / "checkpoints/step-000004").iterdir() if p.is_file()}
    capsys.readouterr()
    resumed = train(name="cut", **STEPS)
    shown = " ".join(capsys.readouterr().out.split())
    assert "step-000004 is damaged:" in shown
    assert re.search(said, shown), shown
    assert "It was set aside as damaged-step-000004" in shown
    assert "going on after step 2 of 6" in shown
    aside = run / "checkpoints/damaged-step-000004"
    assert {p.name: p.read_bytes() for p in aside.iterdir() if p.is_file()} == before  # nothing is lost
    assert same(straight, resumed)
    assert without_clocks(straight / "metrics.jsonl") == without_clocks(resumed / "metrics.jsonl")


def test_where_no_checkpoint_is_left_that_is_said_and_the_stage_can_begin_again(
    train: Train, cut: Any
) -> None:
    straight = train(name="straight", **STEPS)
    run = cut()
    for step in (2, 4):
        flip(run / f"checkpoints/step-00000{step}/model.safetensors")
    with pytest.raises(UserError, match=r"(?s)no checkpoint .* left.*step-000004.*step-000002.*Restore one"):
        train(name="cut", **STEPS)
    (run / "checkpoints/best.json").write_text('{"step": 4, "accuracy": 0.5}')
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        *("best.json", "damaged-step-000002", "damaged-step-000004", "sft")
    ]
    assert same(straight, train(name="cut", **STEPS))
    assert not (run / "checkpoints/best.json").exists()  # it was that of the life before


def test_a_damaged_model_of_an_earlier_stage_is_made_again(
    train: Train, cut: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    straight = train(name="straight", **STEPS)
    run = cut()
    truncate(run / "checkpoints/sft/model.safetensors")
    resumed = train(name="cut", **STEPS)
    assert "checkpoints/sft is damaged" in " ".join(capsys.readouterr().out.split())
    assert (run / "checkpoints/damaged-sft").is_dir()
    assert same(straight, resumed)
    for model in ("checkpoints/sft", "model"):
        a, b = (load_file(one / model / "model.safetensors") for one in (straight, resumed))
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_damaged_first_evaluation_is_made_again(train: Train, cut: Any) -> None:
    straight = train(name="straight", **STEPS)
    run = cut()
    flip(run / "evaluations/before/completions.json")
    resumed = train(name="cut", **STEPS)
    one, two = (json.loads((r / "eval.json").read_text()) for r in (straight, resumed))
    assert one == two
    assert (run / "evaluations/damaged-before").is_dir()


def test_a_damaged_model_is_not_measured_or_trained_on(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(**STEPS)
    flip(run / "model/model.safetensors")
    capsys.readouterr()
    assert main_eval([str(run)]) == 2
    said = capsys.readouterr().err
    assert "model is damaged: model.safetensors has been changed" in said
    assert "Restore it from a copy" in said
    with pytest.raises(UserError, match=r"model\.path: .*model is damaged"):
        train(name="next", stage="grpo", model={"scratch": None, "path": str(run / "model")})


def test_a_checkpoint_without_a_manifest_is_used(train: Train, cut: Any) -> None:
    """Those of earlier versions have none."""
    straight = train(name="straight", **STEPS)
    run = cut()
    (run / "checkpoints/step-000004/manifest.json").unlink()
    assert same(straight, train(name="cut", **STEPS))
    assert not (run / "checkpoints/damaged-step-000004").exists()


def test_the_manifest_says_what_it_was_made_with(train: Train) -> None:
    import hashlib
    import platform

    import transformers

    folder = train(**STEPS) / "checkpoints/step-000006"
    manifest = json.loads((folder / "manifest.json").read_text())
    versions = manifest["made_with"]
    assert versions["python"] == platform.python_version()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert versions["transformers"] == transformers.__version__
    assert versions["rlreason"]
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} - {"manifest.json"}
    assert manifest["files"].keys() == there
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def accuracy_of_step(monkeypatch: pytest.MonkeyPatch, values: dict[int, float]) -> None:
    """Held-out accuracy is what is said here: a micro model is never right."""
    from rlreason.stages import loop

    whole = loop.evaluate

    def evaluate(context: Any, setup: Any, label: str) -> Any:
        found = whole(context, setup, label)
        found.summary["accuracy"] = values.get(setup.step, 0.0) if label.startswith("step") else 0.25
        return found

    monkeypatch.setattr(loop, "evaluate", evaluate)


def test_the_best_checkpoint_stays_and_is_named(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Best after step 3, which no checkpoint_every asks for; step 6 is equal, and later."""
    accuracy_of_step(monkeypatch, {1: 0.2, 2: 0.1, 3: 0.5, 4: 0.4, 6: 0.5})
    run = train(grpo={"steps": 9}, eval={"questions": 6, "every": 1})
    kept = sorted(p.name for p in (run / "checkpoints").glob("step-*"))
    assert kept == ["step-000003", "step-000008", "step-000009"]
    best = json.loads((run / "checkpoints/best.json").read_text())
    assert (best["step"], best["accuracy"]) == (3, 0.5)
    assert best["checkpoint"] == "checkpoints/step-000003"
    said = " ".join(capsys.readouterr().out.split())
    assert "best held-out accuracy while training: 50.0% after step 3" in said
    assert "after the last step: 25.0%" in said


def test_the_best_so_far_is_remembered_over_a_resume(
    train: Train, cut: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    accuracy_of_step(monkeypatch, {1: 0.5, 2: 0.1, 3: 0.2, 4: 0.3, 5: 0.4})
    changes = {"eval": {"questions": 6, "every": 1}}
    run = cut(**changes)
    train(name="cut", **{**STEPS, **changes})
    assert json.loads((run / "checkpoints/best.json").read_text())["step"] == 1
    assert sorted(p.name for p in (run / "checkpoints").glob("step-*")) == [
        *("step-000001", "step-000004", "step-000006")
    ]


def test_the_best_is_named_again_where_a_kill_came_before_its_name(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlreason.runs import RunDirectory

    accuracy_of_step(monkeypatch, {1: 0.3, 3: 0.5})
    changes = {"grpo": {"steps": 4}, "eval": {"questions": 6, "every": 1}}
    whole = RunDirectory.write_best

    def die(self: RunDirectory, best: Any) -> None:
        if best is not None and best["step"] == 3:
            raise SystemExit
        whole(self, best)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_best", die)
        with pytest.raises(SystemExit):
            train(name="cut", **changes)
    path = tmp_path / "runs/cut/checkpoints/best.json"
    assert json.loads(path.read_text())["step"] == 1
    train(name="cut", **changes)
    best = json.loads(path.read_text())
    assert (best["step"], best["checkpoint"]) == (3, "checkpoints/step-000003")


def test_a_best_that_the_checkpoint_does_not_know_is_not_named_any_more(train: Train, cut: Any) -> None:
    path = cut() / "checkpoints/best.json"
    path.write_text('{"step": 5}')
    train(name="cut", **STEPS)
    assert not path.exists()


def test_a_stage_goes_on_from_the_checkpoint_before_a_damaged_one(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlreason.stages.exact import ExactTrainer

    settings = {"stage": "sft", "sft": {"size": 16, "epochs": 3}, "log": {"stage_checkpoint_every": 2}}
    straight = train(name="straight", **settings)
    whole = ExactTrainer.finish_step

    def die(self: ExactTrainer, control: Any) -> None:
        whole(self, control)
        if self.state.global_step == 7:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(ExactTrainer, "finish_step", die)
        with pytest.raises(SystemExit):
            train(name="cut", **settings)
    run = tmp_path / "runs/cut"
    flip(run / "checkpoints/sft-step-000006/beside.safetensors")
    resumed = train(name="cut", **settings)
    assert (run / "checkpoints/damaged-sft-step-000006").is_dir()
    assert same(straight, resumed)
    assert lines(run / "metrics.jsonl")[-1]["step"] == 12


def test_a_run_moved_to_another_place_is_found_whole(train: Train, cut: Any, tmp_path: Path) -> None:
    straight = train(name="straight", **STEPS)
    run = cut()
    shutil.move(run, tmp_path / "elsewhere" / "cut")
    assert same(straight, train(name="cut", output_dir=str(tmp_path / "elsewhere"), **STEPS))


def test_other_questions_to_train_on_are_refused(train: Train, cut: Any, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.jsonl" for name in ("train", "held_out")}
    texts = {
        name: "".join(json.dumps({"prompt": f"{n} + {k} =", "answer": f"{n + k}"}) + "\n" for n in range(9))
        for k, name in enumerate(files)
    }
    for name, path in files.items():
        path.write_text(texts[name])
    changes = {
        "stage": "grpo",
        "model": {"scratch": None, "path": str(train(name="base", stage="sft") / "model")},
        "task": {
            **{"source": "file", "name": str(files["train"]), "eval_name": str(files["held_out"])},
            "params": ...,
        },
    }
    run = cut(**changes)
    metrics = (run / "metrics.jsonl").read_text()
    files["train"].write_text(texts["train"].replace("7 + 0", "8 - 1"))
    with pytest.raises(UserError, match=r"task\.name: .*train\.jsonl' no longer gives the rows"):
        train(name="cut", **changes, **STEPS)
    assert (run / "metrics.jsonl").read_text() == metrics
    files["train"].write_text(texts["train"])
    train(name="cut", **changes, **STEPS)


def test_a_process_killed_before_it_removed_an_old_checkpoint_leaves_none_too_many(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed behind the last checkpoint: nothing is saved after it that would remove the one too many."""
    from rlreason.runs import checkpoints

    whole = checkpoints.discard

    def die(path: Path) -> None:
        if path.name == "step-000002":
            raise SystemExit
        whole(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "discard", die)
        with pytest.raises(SystemExit):
            train(**STEPS)
    run = train(**STEPS)
    assert sorted(p.name for p in (run / "checkpoints").glob("step-*")) == ["step-000004", "step-000006"]
