"""`python -m rlreason doctor`: what it prints, and its exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest
from healthy import healthy
from left_behind import cut, state_of, trl_log, written

from rlreason import cli

ROOT = Path(__file__).parents[2]


def doctor(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = cli.main(["doctor", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_healthy_run_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, written(tmp_path / "run", healthy(0, steps=20)))
    assert code == cli.DONE
    assert "nothing found  step 1 to 20, 20 lines of metrics" in out
    assert "held-out accuracy falls: held_out" in out  # what could not be judged


def test_a_warning_that_stands_exits_with_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, written(tmp_path / "run", cut(healthy(0, steps=20))))
    assert code == cli.FOUND
    assert "1 finding" in out
    assert "warning  completions are cut off  since step 5  docs/doctor.md#cut_off" in out
    assert "seen: 70.0% of the completions were cut off at the limit, mean of 5 steps" in out
    assert "it usually means:" in out
    assert "try `rollout.max_new_tokens`: raise it" in out


def test_notes_and_what_is_over_exit_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = healthy(0, steps=40)
    code, out, _ = doctor(capsys, written(tmp_path / "run", [*cut(lines[:20]), *lines[20:]]))
    assert code == cli.DONE
    assert "over  completions are cut off  step 5 to 2" in out
    noted = [{**line, "truncated": 0.35} for line in lines]
    code, out, _ = doctor(capsys, written(tmp_path / "noted", noted))
    assert code == cli.DONE
    assert "note  completions are cut off" in out


def test_what_cannot_be_read_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = doctor(capsys, tmp_path / "nothing")
    assert (code, out) == (cli.UNUSABLE, "")
    assert err.startswith("error: ")
    assert doctor(capsys)[0] == cli.UNUSABLE


def test_a_run_without_a_step_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = doctor(capsys, written(tmp_path / "run", []))
    assert code == cli.DONE
    assert "nothing to judge" in out


def test_a_state_of_trl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = state_of(tmp_path, trl_log(cut(healthy(0, steps=20))))
    code, out, _ = doctor(capsys, path, "--accuracy", "accuracy_reward")
    assert code == cli.FOUND
    assert "accuracy: accuracy_reward" in out
    assert "try `max_completion_length`: raise it" in out


def test_names_from_a_file_cannot_act_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = "\x1b[2J[bold]code"
    lines = [{**line, "failed": 0.5, f"reward_failed/{bad}": 9} for line in healthy(0, steps=20)]
    _, out, _ = doctor(capsys, written(tmp_path / "run", lines))
    assert "\x1b" not in out
    assert "[2J[bold]code, 45 times" in " ".join(out.split())


def test_it_needs_no_torch(tmp_path: Path) -> None:
    run = written(tmp_path / "run", healthy(0, steps=12))
    code = (
        "import sys; from rlreason import cli; "
        f"code = cli.main(['doctor', {str(run)!r}]); "
        "sys.exit(code or any(m in sys.modules for m in ('torch', 'transformers', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
