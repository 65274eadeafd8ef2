"""check: golds, attacks, the total and the exit code, on the configs that are shipped and on bad ones."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rewards.attacks import FAILS
from rewards.hacks import ANOTHER, FIRST, INSIDE, LAST, NEGATED, OUTSIDE, REASONING, WRONG
from rlreason import cli
from rlreason.check import CheckReport, check, show
from rlreason.config import RunConfig, load
from rlreason.errors import UserError
from rlreason.report.page import printed

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
HOLES = ROOT / "tests" / "support" / "holes.py"
ROWS = [
    ("What is 4 + 3 + 10?", "17"), ("What is 5 - 17?", "-12"), ("How much is seven halves?", "3.5"),
    ("How many metres are 1.5 kilometres?", "1500"), ("What is 10 * 2.25?", "22.5"), ("What is 9 * 9?", "81"),
    ("What is 6 * 7?", "42"), ("What is 100 / 8?", "12.5"),
]  # fmt: skip


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # the configs name their files from there


def own(tmp_path: Path, rewards: Any, rows: list[Any] = ROWS, **sections: Any) -> RunConfig:
    """A config with questions of its own; a row is (prompt, answer) or a dict."""
    path = tmp_path / "questions.jsonl"
    records = [row if isinstance(row, dict) else {"prompt": row[0], "answer": row[1]} for row in rows]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    task = {"source": "file", "name": str(path), **sections.pop("task", {})}
    evaluation = {"questions": 2, **sections.pop("eval", {})}
    config = {
        "name": "own",
        "stage": "grpo",
        "task": task,
        "rewards": rewards,
        "eval": evaluation,
        **sections,
    }
    return RunConfig.model_validate(config)


def text_of(report: CheckReport) -> str:
    """What is printed, as one line."""
    return " ".join(printed(lambda console: show(report, console)).split())


def open_holes(report: CheckReport, name: str) -> set[str]:
    (reward,) = [reward for reward in report.rewards if reward.verdict.name == name]
    return {hole.hole for hole in reward.open}


# ---------------------------------------------------------------------- configs that pass


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_config_passes(path: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["check", "--rewards-only", str(path)]) == 0
    out = capsys.readouterr().out
    assert "ok  the gold answers earn 1, and no attack is paid like an answer" in out
    assert re.search(r"total .* no hole", out)


@pytest.mark.parametrize("form", ["think_text", "think_boxed", "think_hash"])
def test_every_form_passes(tmp_path: Path, form: str) -> None:
    report = check(
        own(tmp_path, {"accuracy": {"gate": "think_format"}, "think_format": 0.1}, prompt={"format": form})
    )
    assert report.sound, text_of(report)


@pytest.mark.parametrize("name", ["sound", "sound_batch", "form_and_answer"])
def test_a_sound_reward_of_a_user_passes(tmp_path: Path, name: str) -> None:
    report = check(own(tmp_path, {f"{HOLES}:{name}": 1.0}))
    assert report.sound, text_of(report)
    assert report.rewards[0].verdict.judges


def test_countdown_passes_with_its_own_golds() -> None:
    config = {
        "name": "c",
        "stage": "grpo",
        "rewards": "countdown",
        "task": {"name": "countdown", "train_size": 20},
    }
    report = check(
        RunConfig.model_validate({**config, "eval": {"reward": "countdown", "questions": 5}}), questions=6
    )
    assert report.sound, text_of(report)
    assert len(report.golds.good) == 25


def test_golds_that_are_values_and_not_answers_are_not_tried(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"Make {n} of 1, {n - 1}.", "answer": str(n), "numbers": [1, n - 1], "target": n}
        for n in range(5, 13)
    ]
    report = check(own(tmp_path, "countdown", rows, eval={"reward": "countdown"}))
    assert report.sound, text_of(report)
    assert len(report.golds.untried) == 8
    assert "8 not tried" in text_of(report)


# ---------------------------------------------------------------------- holes


NAMED = [
    (
        "substring",
        {REASONING, OUTSIDE, FIRST, LAST, NEGATED, INSIDE},
        "searches the whole text for the right value",
    ),
    ("searched", {REASONING, FIRST, LAST, NEGATED}, "uses the gold answer as a regular expression"),
    ("last_number", {LAST, OUTSIDE, NEGATED}, "takes the last value of the whole text"),
    ("first_tags", {FIRST, OUTSIDE, REASONING}, "takes the first pair of answer tags"),
    ("any_answer", {WRONG, FIRST, LAST}, "total 1.00 1.00"),
]


@pytest.mark.parametrize(("name", "expected", "cause"), NAMED, ids=[name for name, _, _ in NAMED])
def test_a_hole_is_named_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, expected: set[str], cause: str
) -> None:
    config = own(tmp_path, "accuracy")
    path = tmp_path / "config.yaml"
    path.write_text(
        json.dumps({"name": "own", "stage": "grpo", "task": {"source": "file", "name": config.task.name}})
    )
    assert (
        cli.main(["check", "--rewards-only", str(path), f"rewards={HOLES}:{name}", "eval.questions=2"]) == 1
    )
    out = " ".join(capsys.readouterr().out.split())
    assert cause in out
    for hole in expected:
        assert hole in out
    assert "<answer>" in out
    assert "not ok" in out


def test_a_reward_that_fails_on_what_a_policy_writes_does_not_pass(tmp_path: Path) -> None:
    report = check(own(tmp_path, f"{HOLES}:raises"))
    assert not report.sound
    text = text_of(report)
    assert "1 reward cannot take everything that a policy writes: return 0.0" in text
    assert "TypeError: float() argument must be" in text


def test_a_reward_that_runs_away_is_stopped_and_named(tmp_path: Path) -> None:
    reward = tmp_path / "own.py"
    reward.write_text(
        "def power(response, example):\n"
        "    answer = (response.answer or '0')[:200]\n"
        "    if not set(answer) <= set('0123456789.*-'):\n"
        "        return 0.0\n"
        "    try:\n"
        "        return float(eval(answer) == float(example['answer']))\n"
        "    except (SyntaxError, ValueError, OverflowError):\n"
        "        return 0.0\n"
    )
    report = check(own(tmp_path, {f"{reward}:power": {"seconds": 0.5}}), questions=3)
    (hole,) = report.rewards[0].open
    assert hole.attacks == ["a tower of powers in Python"]
    assert hole.hits[0].score.reason == "no value within 0.5 s"


def test_a_hole_that_a_gate_shuts_out_is_told_and_passes(tmp_path: Path) -> None:
    rewards = {f"{HOLES}:first_tags": {"gate": "think_format"}, "think_format": 0.1}
    report = check(own(tmp_path, rewards))
    assert report.sound
    assert {FIRST, OUTSIDE} <= {hole.hole for hole in report.rewards[0].closed}
    assert "that pay nothing think_format shuts them out" in text_of(report)
    # As the measure of evaluation no gate helps it.
    measured = check(own(tmp_path, rewards, eval={"reward": f"{HOLES}:first_tags"}))
    assert not measured.sound
    assert {FIRST, OUTSIDE} <= open_holes(measured, f"{HOLES}:first_tags")


def test_a_hole_of_a_reward_that_is_only_recorded_passes(tmp_path: Path) -> None:
    report = check(own(tmp_path, {f"{HOLES}:substring": 0.0, "accuracy": 1.0}))
    assert report.sound
    assert "that pay nothing its weight is 0" in text_of(report)


def test_rewards_beside_the_answer_may_pay_but_not_outweigh_it(tmp_path: Path) -> None:
    small = check(own(tmp_path, {"accuracy": 1.0, f"{HOLES}:verbose": 0.1, f"{HOLES}:brief": 0.3}))
    assert small.sound, text_of(small)
    assert not open_holes(small, f"{HOLES}:verbose")
    large = check(own(tmp_path, {"accuracy": 1.0, f"{HOLES}:verbose": 2.0}))
    assert not large.sound
    paid = {name for hole in large.beside for name in hole.attacks}
    assert "a number of 20,000 digits" in paid
    assert "Attacks that earn as much in total as the right answer" in text_of(large)


@pytest.mark.parametrize("rewards", [{"accuracy": -1.0}, {"accuracy": -1.0, "think_format": 0.1}])
def test_a_right_answer_that_is_paid_less_than_none_does_not_pass(
    tmp_path: Path, rewards: dict[str, float]
) -> None:
    report = check(own(tmp_path, rewards), questions=3)
    assert not report.sound
    paid = {name for hole in report.beside for name in hole.attacks}
    assert {"an empty completion", ANOTHER} <= paid
    assert "Attacks that earn as much in total as the right answer" in text_of(report)


def test_a_penalty_may_judge_answers_and_must_not_fail(tmp_path: Path) -> None:
    reward = tmp_path / "own.py"
    reward.write_text(
        "def mistaken(response, example):\n    return float(response.answer != example['answer'])\n"
        "def escaped(response, example):\n"
        "    return float(float(response.answer or 1e9) == float(example['answer']))\n"
    )
    # A wrong answer costs 1; what is no answer costs it as well.
    report = check(own(tmp_path, {"accuracy": 1.0, f"{reward}:mistaken": -1.0}), questions=3)
    assert report.sound, text_of(report)
    report = check(own(tmp_path, {"accuracy": 2.0, f"{reward}:escaped": -1.0}), questions=3)
    assert open_holes(report, f"{reward}:escaped") == {FAILS}


def test_totals_that_are_drawn_by_lot_are_not_judged(tmp_path: Path) -> None:
    report = check(own(tmp_path, {"accuracy": 1.0, "random": 1.0}))
    assert report.total is None
    assert report.sound


def test_a_config_that_pays_for_the_form_alone_passes(tmp_path: Path) -> None:
    report = check(own(tmp_path, "think_format"))
    assert report.total is None
    assert report.sound
    assert "does not judge answers" in text_of(report)


def test_a_measure_that_does_not_judge_answers_does_not_pass(tmp_path: Path) -> None:
    report = check(own(tmp_path, "accuracy", eval={"reward": "think_format"}))
    assert WRONG in open_holes(report, "think_format")
    assert not report.sound


# ---------------------------------------------------------------------- gold answers


def test_gold_answers_that_cannot_be_read_are_named_with_their_row(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [*ROWS[:3], ("How many?", "a few or so"), *ROWS[3:], ("Which?", "none of (")]
    config = own(tmp_path, "accuracy", rows, task={"answer_type": "number"}, eval={"questions": 1})
    report = check(config)
    assert report.golds_fail
    assert not report.sound
    wheres = {problem.where for problem in report.golds.unreadable}
    assert wheres == {f"{config.task.name}, row 4", f"{config.task.name}, row 10"}
    text = text_of(report)
    assert "8 of 10 earn 1 from accuracy" in text
    assert (
        "questions.jsonl, row 4: 'a few or so' abstained: the gold answer 'a few or so' cannot be read"
        in text
    )
    assert "2 gold answers failed: correct the data" in text
    # The good rows are attacked all the same.
    assert len(report.trial.targets) == 8


def test_a_share_of_bad_golds_may_be_allowed(tmp_path: Path) -> None:
    rows = [*ROWS, ("How many?", "a few or so")]
    config = own(
        tmp_path,
        "accuracy",
        rows,
        task={"answer_type": "number", "max_unreadable": 0.2},
        eval={"questions": 1},
    )
    report = check(config)
    assert len(report.golds.unreadable) == 1
    assert report.sound


def test_a_right_answer_that_does_not_earn_1_is_named(tmp_path: Path) -> None:
    reward = tmp_path / "own.py"
    reward.write_text(
        "def half(response, example):\n"
        "    if example['answer'] == '42':\n"
        "        return 0.0\n"
        "    return 1.0 if response.answer == example['answer'] else 0.0\n"
    )
    report = check(own(tmp_path, f"{reward}:half", eval={"reward": f"{reward}:half"}))
    (problem,) = report.golds.unpaid
    assert (problem.example.answer, problem.score.value, problem.where[-5:]) == ("42", 0.0, "row 7")
    assert not report.sound
    assert report.holes == 0
    assert "1 earn less than 1" in text_of(report)


def test_a_gold_that_the_form_cannot_hold_is_named_with_the_reason(tmp_path: Path) -> None:
    rows = [*ROWS, ("Which tag?", "<answer>")]
    report = check(own(tmp_path, "accuracy", rows, task={"answer_type": "exact"}, eval={"questions": 1}))
    (problem,) = report.golds.unpaid
    assert "contains one of the tags" in problem.score.reason


def test_generated_questions_are_counted_by_their_place(tmp_path: Path) -> None:
    task = {"name": "chain_sum", "train_size": 10, "answer_type": "choice"}
    config = {"name": "c", "stage": "grpo", "task": task, "eval": {"questions": 3}}
    report = check(RunConfig.model_validate(config), questions=2)
    assert {problem.where for problem in report.golds.unreadable} >= {
        "training question 10",
        "held-out question 3",
    }
    assert not report.sound


# ---------------------------------------------------------------------- what the user has to change


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no_such.yaml"], "there is no such file"),
        (["configs/own_data.yaml", "rewards=acuracy"], "did you mean 'accuracy'"),
        (["configs/own_data.yaml", "rewards=no_such.py:reward"], "there is no reward file no_such.py"),
        (["configs/own_data.yaml", "task.name=gone.jsonl"], "there is no file gone.jsonl"),
        (["configs/own_data.yaml", "rewards=tests/support/holes.py:levelled"], "needs the column 'level'"),
    ],
)
def test_what_cannot_be_used_has_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    assert cli.main(["check", "--rewards-only", *arguments]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert "Traceback" not in captured.err


def test_a_reward_that_is_broken_is_a_user_error_with_its_traceback(tmp_path: Path) -> None:
    reward = tmp_path / "own.py"
    reward.write_text("def broken(response, example):\n    return len(example['answer']) / 0\n")
    with pytest.raises(UserError, match=r"broken(.|\n)*ZeroDivisionError(.|\n)*own\.py"):
        check(own(tmp_path, f"{reward}:broken"))


def test_a_reward_that_never_answers_is_a_user_error(tmp_path: Path) -> None:
    reward = tmp_path / "own.py"
    reward.write_text("import time\ndef hangs(completions, **columns):\n    time.sleep(3600)\n")
    name = f"{reward}:hangs"
    with pytest.raises(UserError, match=r"hangs: scoring failed on 2 of 2 .*no value within 1 s"):
        check(own(tmp_path, {name: {"seconds": 0.5}}, eval={"reward": name}))


@pytest.mark.parametrize(
    "arguments", [[], ["configs/own_data.yaml", "--questions", "0"], ["a", "--questions", "x"]]
)
def test_a_malformed_command_has_exit_code_2(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["check", "--rewards-only", *arguments]) == 2
    assert "usage: python -m rlreason check" in capsys.readouterr().err


# ---------------------------------------------------------------------- the page


def test_the_number_of_questions_is_the_one_asked_for() -> None:
    report = check(load("configs/own_data.yaml"), questions=3)
    assert len(report.trial.targets) == 3
    assert len({target.gold for target in report.trial.targets}) == 3


@pytest.mark.parametrize("width", [60, 80, 110])
def test_no_line_is_wider_than_the_screen_and_nothing_of_a_completion_acts_on_it(
    tmp_path: Path, width: int
) -> None:
    hostile = "\x1b[31m[red]\u202e17"
    config = own(
        tmp_path, f"{HOLES}:substring", [*ROWS, (f"What is {hostile}?", hostile)], eval={"questions": 1}
    )
    console = Console(width=width, record=True, file=open("/dev/null", "w"), force_terminal=True)  # noqa: SIM115
    show(check(config), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert not set("\x1b\u202e") & set(text)
    assert "[red]" in text


def test_piped_output_is_plain_and_no_torch_is_loaded() -> None:
    code = (
        "import sys; from rlreason.cli import main; "
        "code = main(['check', 'configs/own_data.yaml', '--questions', '2', '--rewards-only']); "
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.decode().splitlines()
    assert b"\x1b" not in ran.stdout
    assert all(line == line.rstrip() and len(line) <= 110 for line in lines)
    assert lines[0].split() == ["config", "own_data"]
