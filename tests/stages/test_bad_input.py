"""What a user gets wrong: a clear message, a non-zero exit, and nothing half-written."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from micro import lines, without_clocks

from rlreason.cli import main_train

ROOT = Path(__file__).parents[2]
WriteConfig = Callable[..., Path]


@pytest.fixture
def refused(
    write_config: WriteConfig, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """Train as configured, expect exit code 2, and return what was said."""

    def run(*overrides: str, **changes: Any) -> str:
        code = main_train([str(write_config(**changes)), *overrides])
        said = capsys.readouterr().err
        assert code == 2, said
        assert said.startswith("error: ")
        assert "Traceback" not in said
        assert not (tmp_path / "runs" / "micro" / "model").exists()
        return said

    return run


def questions(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"task": {"source": "file", "name": str(questions(tmp_path, rows)), "params": ..., **more}}


def test_missing_column_is_named_with_those_present(refused: Any, tmp_path: Path) -> None:
    rows = [{"question": f"{i} + 1 =", "answer": str(i + 1)} for i in range(20)]
    said = refused(stage="grpo", **table(tmp_path, rows))
    assert "task.columns.prompt" in said
    assert "question" in said


def test_unreadable_gold_answers_are_refused_before_a_model_is_loaded(refused: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} + 1 =", "answer": "\\badlatex{"} for i in range(20)]
    said = refused(stage="grpo", model={"path": "/nowhere", "scratch": None}, **table(tmp_path, rows))
    assert "20 of 20 gold answers cannot be read" in said
    assert "task.answer_type" in said


def test_a_few_unreadable_gold_answers_may_be_left_out_on_request(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": f"{i} + 1 =", "answer": "\\badlatex{" if i == 7 else str(i + 1)} for i in range(40)]
    base = train(name="base", stage="sft")
    train(
        stage="grpo",
        model={"path": str(base / "model"), "scratch": None},
        **table(tmp_path, rows, max_unreadable=0.1),
    )
    assert "left out: 1 of 40 gold answers cannot be read" in capsys.readouterr().out


def test_prompts_over_the_limit_are_counted_and_none_left_is_refused(refused: Any) -> None:
    said = refused(stage="grpo", prompt={"max_tokens": 10})
    assert "prompt.max_tokens=10" in said
    assert "raise it" in said


def test_unknown_key_names_the_nearest(refused: Any) -> None:
    assert "group_size" in refused(grpo={"groupsize": 8})


def test_group_of_one_is_refused(refused: Any) -> None:
    said = refused(grpo={"group_size": 1})
    assert "grpo.group_size" in said


def test_model_directory_without_tokenizer_is_refused(refused: Any, train: Any, tmp_path: Path) -> None:
    model = train(name="base", stage="sft") / "model"
    for path in model.glob("tokenizer*"):
        path.unlink()
    said = refused(stage="grpo", model={"path": str(model), "scratch": None})
    assert "no tokenizer" in said
    assert str(model) in said


def test_unreachable_hub_names_the_embedded_model(refused: Any) -> None:
    said = refused(stage="grpo", model={"path": "someone/some-model", "scratch": None})
    assert "someone/some-model" in said
    assert "model.path=embedded" in said


def test_unknown_reward_names_the_nearest(refused: Any) -> None:
    assert "accuracy" in refused(rewards="acuracy")


def test_unknown_generator_names_the_nearest(refused: Any) -> None:
    assert "chain_sum" in refused(task={"name": "chain_sums"})


def test_reward_that_raises_names_itself(refused: Any, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("def batch(completions, **kwargs):\n    return [float('nan')] * len(completions)\n")
    said = refused(rewards={f"{source}:batch": 1.0})
    assert "rewards" in said
    assert "nan" in said.lower()


def test_full_disk_while_saving_leaves_nothing_half_written(
    refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlreason.policy.model import Policy

    whole = Policy.save

    def fill_up(self: Policy, directory: Path) -> None:
        whole(self, directory)
        if "step-" in directory.name or "step-" in str(directory):
            raise OSError(errno.ENOSPC, "No space left on device", str(directory))

    monkeypatch.setattr(Policy, "save", fill_up)
    said = refused()
    assert "space" in said
    left = sorted(path.name for path in (tmp_path / "runs/micro/checkpoints").iterdir())
    assert left == ["sft"]


def start(config: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", str(config)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def wait_for_steps(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Wait until `count` GRPO steps are on the disk."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        if (run / "metrics.jsonl").exists():
            found = (run / "metrics.jsonl").read_bytes().count(b'"grpo"')
            if found >= count:
                return
        time.sleep(0.02)
    raise AssertionError("the run did not get that far")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupt_saves_says_how_to_go_on_and_goes_on(
    write_config: WriteConfig, tmp_path: Path, train: Any, sent: signal.Signals
) -> None:
    settings: dict[str, Any] = {"grpo": {"steps": 60}, "log": {"checkpoint_every": 0}}
    config = write_config(**settings)
    run = tmp_path / "runs" / "micro"
    process = start(config)
    wait_for_steps(run, 3, process)
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To go on after step" in said
    assert f"python train.py {run / 'config.yaml'}" in said
    saved = [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith("step-")]
    reached = lines(run / "metrics.jsonl")[-1]["step"]
    assert saved == [f"step-{reached:06d}"]
    assert main_train([str(run / "config.yaml"), f"grpo.steps={reached + 2}"]) == 0
    steps = [line["step"] for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert steps == list(range(1, reached + 3))


def test_killed_run_goes_on_to_what_it_would_have_been(
    write_config: WriteConfig, tmp_path: Path, train: Any
) -> None:
    straight = train(name="straight", grpo={"steps": 12})
    config = write_config(grpo={"steps": 12})
    run = tmp_path / "runs" / "micro"
    process = start(config)
    wait_for_steps(run, 5, process)
    process.kill()
    process.communicate(timeout=60)
    assert main_train([str(config)]) == 0
    assert without_clocks(run / "metrics.jsonl") == without_clocks(straight / "metrics.jsonl")
    assert lines(run / "samples.jsonl") == lines(straight / "samples.jsonl")


def test_config_is_refused_before_torch_is_imported(write_config: WriteConfig) -> None:
    probe = (
        "import sys; from rlreason.cli import main_train; "
        "code = main_train(sys.argv[1:]); assert 'torch' not in sys.modules; sys.exit(code)"
    )
    config = write_config(grpo={"groupsize": 8})
    done = subprocess.run(
        [sys.executable, "-c", probe, str(config)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
