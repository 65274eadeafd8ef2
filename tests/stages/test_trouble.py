"""What goes wrong around a run: the disk, the rewards, the numbers, a second process."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import lines, without_clocks
from safetensors.torch import load_file

from rlreason.cli import main_train
from rlreason.errors import UserError

ROOT = Path(__file__).parents[2]
Train = Callable[..., Path]
WriteConfig = Callable[..., Path]


def mounted(place: Path, *options: str) -> None:
    """A file system of its own, where this process may make one."""
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", place], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Room for the cold start and two checkpoints of a micro run, and not for the third."""
    place = tmp_path / "disk"
    mounted(place, "-o", "size=800k")
    yield place
    subprocess.run(["umount", "-l", place], check=True)  # weights may still be mapped


def test_a_disk_that_fills_up_loses_nothing_and_the_run_goes_on_where_there_is_room(
    write_config: WriteConfig, train: Train, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"grpo": {"steps": 6}, "log": {"checkpoint_every": 1, "keep_checkpoints": 2}}
    straight = train(name="straight", **settings)
    config = write_config(**settings, output_dir=str(small_disk))
    capsys.readouterr()
    assert main_train([str(config)]) == 2
    said = capsys.readouterr().err
    assert "could not be saved: the disk is full" in said
    assert "Free some space" in said
    run = small_disk / "micro"
    assert not [p for p in run.rglob("*") if p.name.endswith((".partial", ".previous"))]
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert main_train([str(config)]) == 0
    assert without_clocks(run / "metrics.jsonl") == without_clocks(straight / "metrics.jsonl")
    a, b = (load_file(one / "model" / "model.safetensors") for one in (straight, run))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_read_only_run_directory_is_refused_and_left_as_it_is(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Permission bits do not bind root, so the whole file system is read-only."""
    place = tmp_path / "disk"
    mounted(place)
    try:
        config = write_config(output_dir=str(place))
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        assert main_train([str(config)]) == 2
    finally:
        subprocess.run(["umount", "-l", place], check=True)  # weights may still be mapped
    said = capsys.readouterr().err
    assert f"{place / 'micro'} could not be written" in said
    assert "Make the folder writable, or choose another one with `output_dir=`" in said


REWARD = """
import time

calls = 0

def broken(completions, **columns):
    global calls
    calls += 1
    if calls > {after}:
        {trouble}
    return [float(len(text) % 2) for text in completions]
"""
TROUBLES = {
    "raises": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "hangs": ("time.sleep(600)", "no value within 8 s"),  # 16 times 0.5
    "nan": ("return [float('nan')] * len(completions)", "nan|finite"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_a_reward_that_breaks_in_the_middle_is_named_and_nothing_is_lost(
    train: Train, tmp_path: Path, trouble: str
) -> None:
    """It is called once for the trial, once for the evaluation before, and once a step; step 3 breaks."""
    code, named = TROUBLES[trouble]
    source = tmp_path / "mine.py"
    source.write_text(REWARD.format(after=4, trouble=code))
    reward = {f"{source}:broken": {"weight": 1.0, "seconds": 0.5}}
    began = time.monotonic()
    with pytest.raises(UserError, match=rf"(?s)broken: scoring failed on .*The first failure: .*({named})"):
        train(rewards=reward, grpo={"steps": 6}, log={"checkpoint_every": 1})
    assert time.monotonic() - began < 120  # a call that hangs for 600 s does not hold the run up
    run = tmp_path / "runs" / "micro"
    steps = [line["step"] for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert (run / f"checkpoints/step-{steps[-1]:06d}").is_dir()
    source.write_text(REWARD.format(after=10**6, trouble="pass"))
    train(rewards=reward, grpo={"steps": 6}, log={"checkpoint_every": 1})
    steps = [line["step"] for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert steps == [1, 2, 3, 4, 5, 6]


def poisoned(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> list[bool]:
    """The gradient of one weight is no number in these optimizer steps. Returns which moved the weights."""
    from rlreason.stages.update import Updater

    whole = Updater._step_or_skip
    moved: list[bool] = []

    def broken(self: Updater, *rest: Any) -> Any:
        weights = list(self._policy.trainable().values())
        if self.updates in steps:
            weights[0].grad.view(-1)[0] = float("nan")
        before = [weight.detach().clone() for weight in weights]
        result = whole(self, *rest)
        moved.append(not all(map(torch.equal, before, weights)))
        return result

    monkeypatch.setattr(Updater, "_step_or_skip", broken)
    return moved


def test_a_gradient_that_is_not_a_number_is_left_out_and_its_batch_kept(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = poisoned(monkeypatch, {2})
    run = train(log={"checkpoint_every": 1, "keep_checkpoints": 9})
    assert moved == [True, False, True, True]
    saved = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert saved == ["step-000001", "step-000003", "step-000004"]  # that of 2 is put off
    head, *rows = lines(run / "skipped/grpo-step-000002-1.jsonl")
    assert (head["not_finite"], head["non_finite"]) == (["gradient"], {"gradient": "nan"})
    written = [sample for sample in lines(run / "samples.jsonl") if sample["step"] == 2]
    assert {row["text"] for row in rows} <= {sample["text"] for sample in written}
    assert len(rows) == head["rows"] > 0
    said = " ".join(capsys.readouterr().out.split())
    assert "step 2: an optimizer step was left out, as its gradient is not finite; its batch is in" in said
    skipped = [line["skipped_updates"] for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert skipped == [0, 1, 0, 0]


def test_gradients_that_stay_broken_end_the_run_and_the_last_good_checkpoint_is_named(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Updates 5 to 8 are left out: what would be saved after 6 are the weights that broke."""
    poisoned(monkeypatch, set(range(5, 30)))
    with pytest.raises(
        UserError, match=r"last good checkpoint is .*step-000004.*stage=grpo model\.path=.*004"
    ):
        train(grpo={"steps": 20})


def test_dumps_are_bounded(tmp_path: Path) -> None:
    from rlreason.runs import RunDirectory

    with RunDirectory.open(tmp_path / "run", "name: x\n") as run:
        paths = [run.dump_batch(f"grpo-step-{n:06d}-1", [{"row": 0}]) for n in range(20)]
        assert sum(path is not None for path in paths) == 10
        assert run.dump_batch("grpo-step-000003-1", [{"row": 1}]) is not None  # the same once more


def test_a_sampler_that_does_not_take_the_weights_over_is_noticed_after_one_step(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlreason.rollout.native import NativeEngine

    for name in ("release", "refresh"):  # it keeps those that it has
        monkeypatch.setattr(NativeEngine, name, lambda self: None)
    with pytest.raises(UserError, match="step 1: after the update the sampler has not the weights"):
        train()


def test_a_sampler_in_half_precision_is_not_accused(train: Train) -> None:
    run = train(rollout={"precision": "bfloat16"})
    assert lines(run / "metrics.jsonl")[-1]["step"] == 4


def test_a_ratio_that_is_not_one_at_first_is_told(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlreason.stages.update import Updater

    whole = Updater._old_logprobs

    def off(self: Updater, samples: Any) -> Any:
        return {key: row + 0.1 for key, row in whole(self, samples).items()}

    monkeypatch.setattr(Updater, "_old_logprobs", off)
    train(grpo={"epochs": 2, "steps": 2})
    said = " ".join(capsys.readouterr().out.split())
    # exp(-0.1) = 0.904837, so 0.0952 away from 1.
    assert said.count("the ratio of the first pass is up to 0.095 away from 1") == 1


def test_of_two_processes_started_at_once_one_trains_and_one_is_refused(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    command = [sys.executable, "train.py", str(write_config(grpo={"steps": 2}))]
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=280)[1] for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 2], said
    refused = said[codes.index(2)]
    # The other is training, or was so quick that it is done.
    assert f"is in use by process {both[codes.index(0)].pid}" in refused or "is finished" in refused
    run = tmp_path / "runs" / "micro"
    assert [line["step"] for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"] == [1, 2]
    assert not [p for p in run.rglob("*") if p.name.startswith(".")]


def test_sigterm_in_an_evaluation_stops_at_once_and_the_command_to_go_on_is_printed(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    config = write_config(stage="grpo", eval={"questions": 40, "samples": 200}, task={"train_size": 60})
    process = subprocess.Popen(
        [sys.executable, "train.py", str(config)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if "evaluating on held-out" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"python train.py {tmp_path / 'runs/micro/config.yaml'}" in said
    assert "Traceback" not in said
    assert not [p for p in (tmp_path / "runs/micro").rglob("*") if p.name.startswith(".")]
