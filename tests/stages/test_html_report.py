"""The report at the end of a run: it is there, and its failure is told and fails nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlreason import html_report
from rlreason.errors import UserError
from rlreason.html_report.page import MARK

Train = Callable[..., Path]


def test_a_run_ends_with_its_report(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train()
    page = (run / "report.html").read_text()
    assert MARK in page
    assert '"finished":true' in page
    assert f"report   {run / 'report.html'} (" in capsys.readouterr().out
    assert '"kept":64,"completions":64' in page  # 4 steps x 4 questions x 4


def test_a_run_without_reinforcement_learning_has_one_too(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(stage="sft")
    assert '"finished":true' in (run / "report.html").read_text()
    assert f"report: {run / 'report.html'} (" in " ".join(capsys.readouterr().out.split())


def test_a_run_that_stops_itself_has_one_too(train: Train, tmp_path: Path) -> None:
    silent: dict[str, Any] = {"stage": "grpo", "rewards": "accuracy", "rollout": {"max_new_tokens": 4}}
    with pytest.raises(UserError, match="stop_after_uninformative"):
        train(name="silent", **silent, grpo={"stop_after_uninformative": 2})
    page = (tmp_path / "runs/silent/report.html").read_text()
    assert '"finished":false' in page


@pytest.mark.parametrize("error", [UserError("--out: it is full"), RuntimeError("a bug"), MemoryError()])
def test_a_report_that_fails_is_told_and_fails_nothing(
    train: Train,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(html_report, "report_command", fail)
    run = train(stage="grpo", grpo={"steps": 1})
    assert not (run / "report.html").exists()
    assert "after" in json.loads((run / "eval.json").read_text())
    out = capsys.readouterr().out
    assert "report   could not be written: " in out
    assert f"python -m rlreason report {run}" in out
    assert out.strip().splitlines()[-1].startswith("gain: ")


def test_a_file_that_is_no_report_is_not_overwritten(train: Train, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from rlreason.stages.run import _report

    (tmp_path / "metrics.jsonl").write_text("")
    (tmp_path / "report.html").write_text("mine")
    context: Any = SimpleNamespace(
        accelerator=SimpleNamespace(is_main_process=True), run=SimpleNamespace(root=tmp_path)
    )
    assert "report.html is there already and is no report; give another name" in _report(context)
    assert (tmp_path / "report.html").read_text() == "mine"


def test_the_way_to_go_on_can_be_pasted_into_a_shell(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    from rlreason.config import load
    from rlreason.runs import RunDirectory
    from rlreason.stages.run import _how_to_go_on

    root = tmp_path / "my runs"
    with RunDirectory.open(root, "name: x\n") as run:
        said = _how_to_go_on(run, load(write_config(), []))
    assert said.endswith(f": python train.py '{root / 'config.yaml'}'")
