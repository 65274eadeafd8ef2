"""rescore: a run's completions under other rewards, what changed, and that nothing is overwritten."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewards import SPECS
from rlreason import cli
from rlreason.config import load
from rlreason.errors import UserError
from rlreason.rescore import rescore

RENDER = SPECS["think_answer"].render
QUESTIONS = [
    ("What is 4 + 3?", "7"),
    ("What is 9 - 4?", "5"),
    ("What is 2 * 4?", "8"),
    ("What is 6 / 2?", "3"),
]


def score(value: float | None, reason: str = "said") -> dict[str, Any]:
    return {"value": value, "reason": reason, "failed": False}


def sample(
    row: int, text: str, *, right: float, form: float, step: int = 1, **changes: Any
) -> dict[str, Any]:
    question, answer = QUESTIONS[row]
    record = {
        "stage": "grpo", "step": step, "group": row, "question": question, "answer": answer, "prefill": "",
        "text": text, "finish_reason": "stop", "tokens": 9, "reward": 0.0, "advantage": 0.0,
        "scores": {"accuracy": score(right), "think_format": score(form)},
    }  # fmt: skip
    return {**record, **changes}


SAMPLES = [
    sample(0, RENDER("so", "7"), right=1.0, form=1.0),
    sample(1, RENDER("so", "4"), right=0.0, form=1.0),
    sample(2, "8", right=0.0, form=0.0, step=2),
    sample(3, RENDER("so", "not 3"), right=1.0, form=1.0, step=2),  # an older accuracy that was fooled
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with its questions, its config and SAMPLES; rewards: accuracy 1, think_format 0.1."""
    questions = tmp_path / "questions.jsonl"
    rows = [{"prompt": q, "answer": a, "level": n} for n, (q, a) in enumerate(QUESTIONS)]
    questions.write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "?", "answer": "0", "level": 9}])
    )
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "What is 1 + 1?", "answer": "2", "level": 0}\n')
    folder = tmp_path / "run"
    folder.mkdir()
    config = {
        "name": "run",
        "stage": "grpo",
        "task": {"source": "file", "name": str(questions), "eval_name": str(tmp_path / "held_out.jsonl")},
        "rewards": {"accuracy": 1.0, "think_format": 0.1},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write(folder, SAMPLES)
    return folder


def write(run: Path, records: list[Any]) -> None:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (run / "samples.jsonl").write_text("".join(f"{line}\n" for line in lines))


def command(run: Path, *arguments: str) -> int:
    return cli.main(["rescore", str(run), "--config", str(run / "config.yaml"), *arguments])


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def table(printed: str) -> dict[str, list[str]]:
    """The cells of each row above the examples, by the reward's name."""
    lines = printed.partition("Changes")[0].splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines if line.strip()}


def test_only_what_the_rewards_now_say_otherwise_has_changed(run: Path) -> None:
    rescored, notes = rescore(run, load(run / "config.yaml"))
    assert notes == []
    assert [one.changed for one in rescored] == [[], [], [], ["accuracy"]]
    # Before: 1 + 0.1, 0.1, 0, 1.1. Now the last one has the form alone.
    assert [one.old_total for one in rescored] == pytest.approx([1.1, 0.1, 0.0, 1.1])
    assert [one.new_total for one in rescored] == pytest.approx([1.1, 0.1, 0.0, 0.1])
    assert [one.total_changed for one in rescored] == [False, False, False, True]


def test_old_totals_follow_the_weights_gates_and_clips_of_the_run(run: Path) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["rewards"] = {
        "accuracy": {"weight": 2.0, "gate": "think_format"},
        "think_format": {"weight": 1.0, "clip": [-1.0, 0.5]},
    }
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    open_gate = sample(0, "x", right=1.0, form=1.0)
    shut_gate = sample(0, "x", right=1.0, form=0.0)
    abstained = {**open_gate, "scores": {**open_gate["scores"], "accuracy": score(None)}}
    write(run, [open_gate, shut_gate, abstained])
    rescored, _ = rescore(run, load(run / "config.yaml"))
    assert [one.old_total for one in rescored] == [2.5, 0.0, None]


def test_the_command_counts_shows_and_writes(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(run, "rewards.think_format.weight=0.5") == 0
    printed = capsys.readouterr().out
    # accuracy: mean of 1, 0, 0, 1 and of 1, 0, 0, 0. Totals: 1.1, 0.1, 0, 1.1, then 1.5, 0.5, 0, 0.5.
    assert table(printed)["accuracy"] == ["0.500", "0.250", "1", "0", "1"]
    assert table(printed)["think_format"] == ["0.750", "0.750", "0", "0", "0"]
    assert table(printed)["total"] == ["0.575", "0.625", "3", "2", "1"]
    assert "4 completions, 3 of them changed" in printed
    assert "line 4, step 2: What is 6 / 2? (gold 3)" in printed
    assert "accuracy 1 -> 0: said -> " in printed
    assert "not 3" in printed
    lines = written(run / "rescored.jsonl")
    assert [line["changed"] for line in lines] == [["total"], ["total"], [], ["accuracy", "total"]]
    assert lines[3]["scores"]["accuracy"]["old"] == {"value": 1.0, "reason": "said"}
    assert lines[3]["scores"]["accuracy"]["new"]["value"] == 0.0
    assert (lines[3]["line"], lines[3]["text"]) == (4, RENDER("so", "not 3"))
    assert lines[3]["total"] == {"old": pytest.approx(1.1), "new": pytest.approx(0.5)}


def test_rewards_that_come_and_go_are_called_so(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(run, "rewards=random") == 0
    printed = capsys.readouterr().out
    rows = table(printed)
    # accuracy and think_format stay observed; random is new, and only the totals can have changed by it.
    assert rows["random"][0] == "-"
    assert rows["random"][-1] == "new"
    assert rows["think_format"] == ["0.750", "0.750", "0", "0", "0"]
    assert "random not asked -> " in printed
    line = written(run / "rescored.jsonl")[0]
    assert line["scores"]["random"]["old"] is None


def test_rewards_see_the_columns_of_the_questions_again(run: Path, tmp_path: Path) -> None:
    reward = tmp_path / "own.py"
    reward.write_text(
        "def level(completions, level, answer, prompts, completion_ids, **columns):\n"
        "    assert [len(ids) for ids in completion_ids] == [9] * len(completions)\n"
        "    assert prompts[0][0]['role'] == 'user'\n"
        "    return [float(n) for n in level]\n"
    )
    rescored, _ = rescore(run, load(run / "config.yaml", [f"rewards={reward}:level"]))
    assert [one.new_total for one in rescored] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("gone", ["file", "question"])
def test_questions_that_cannot_be_had_again_are_noted(run: Path, tmp_path: Path, gone: str) -> None:
    if gone == "file":
        (tmp_path / "questions.jsonl").unlink()
    else:
        write(run, [sample(0, RENDER("so", "7"), right=1.0, form=1.0, question="What was it?")])
    rescored, notes = rescore(run, load(run / "config.yaml"))
    assert rescored[0].new_total == pytest.approx(1.1)  # question and answer are enough for accuracy
    (note,) = notes
    assert f"{len(rescored)} completion" in note
    assert "rewards see question and answer only" in note
    assert ("there is no file" in note) is (gone == "file")


def test_bad_lines_are_named_and_left_out(run: Path, capsys: pytest.CaptureFixture) -> None:
    without = {key: value for key, value in SAMPLES[0].items() if key != "text"}
    unscored = {**SAMPLES[0], "scores": {"accuracy": score(1.0)}}
    write(run, [SAMPLES[0], '{"step": 1, "te', "[1, 2]", without, unscored, "", SAMPLES[1]])
    assert command(run) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for number, problem in (
        (2, "is no JSON"),
        (3, "is no record"),
        (4, "has no text"),
        (5, "has no score of think_format"),
    ):
        assert f"samples.jsonl, line {number}: {problem}; it is left out" in printed
    assert [line["line"] for line in written(run / "rescored.jsonl")] == [1, 7]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('"value": 1.0', '"value": NaN', "holds the number NaN"),
        ('"value": 1.0', '"value": -Infinity', "holds the number -Infinity"),
        ('"value": 1.0', '"value": 1e999', "holds the number 1e999"),
        ('"value": 1.0', f'"value": {"7" * 400}', f"holds the number {'7' * 20}..."),
        ('"value": 1.0', f'"value": {"7" * 9000}', f"holds the number {'7' * 20}..."),
        ('"value": 1.0', '"value": true', "has no score of accuracy"),
        ('"failed": false', '"failed": "x"', "has no score of accuracy"),
        ('"tokens": 9', '"tokens": true', "has no tokens"),
        ('"tokens": 9', '"tokens": -1', "has -1 tokens"),
        ('"tokens": 9', '"tokens": 1e3', "has no tokens"),
        ('"tokens": 9', '"tokens": 99999999999', "has 99999999999 tokens"),
        ('"text": "', '"group": ' + "[" * 100_000 + ', "text": "', "is no JSON"),
    ],
)
def test_numbers_that_are_none_are_named_and_left_out(
    run: Path, capsys: pytest.CaptureFixture, old: str, new: str, problem: str
) -> None:
    whole = json.dumps(SAMPLES[0])
    assert old in whole
    write(run, [whole, whole.replace(old, new, 1)])
    assert command(run) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"samples.jsonl, line 2: {problem}; it is left out" in printed
    assert [line["line"] for line in written(run / "rescored.jsonl")] == [1]


def test_nothing_is_ever_overwritten(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    before = (run / "samples.jsonl").read_bytes()
    assert command(run) == 0
    first = (run / "rescored.jsonl").read_bytes()
    assert command(run, "rewards=random") == 0
    assert (run / "rescored-2.jsonl").exists()
    assert (run / "rescored.jsonl").read_bytes() == first
    out = tmp_path / "mine.jsonl"
    out.write_text("precious")
    assert command(run, "--out", str(out)) == 2
    assert "is there already and is not overwritten" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert command(run, "--out", str(tmp_path / "other.jsonl")) == 0
    assert len(written(tmp_path / "other.jsonl")) == 4
    assert (run / "samples.jsonl").read_bytes() == before


def test_a_file_that_cannot_be_written_is_a_user_error(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(run, "--out", str(run / "no" / "such.jsonl")) == 2
    assert "cannot be written: there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "samples.jsonl").unlink(), "is no run directory with completions"),
        (lambda run: (run / "config.yaml").unlink(), "there is no such file"),
        (lambda run: write(run, []), "holds no completion"),
        (lambda run: write(run, ["{"]), "line 1: is no JSON"),
    ],
)
def test_what_is_no_run_is_a_user_error(
    run: Path, spoil: Any, said: str, capsys: pytest.CaptureFixture
) -> None:
    spoil(run)
    assert command(run) == 2
    assert said in capsys.readouterr().err
    assert not (run / "rescored.jsonl").exists()


def test_a_reward_that_fails_on_a_step_is_a_user_error(run: Path, tmp_path: Path) -> None:
    reward = tmp_path / "own.py"
    reward.write_text("def broken(response, example):\n    raise RuntimeError('out of order')\n")
    with pytest.raises(UserError, match=r"broken.*failed on 2 of 2(.|\n)*out of order"):
        rescore(run, load(run / "config.yaml", [f"rewards={reward}:broken"]))


def test_what_a_run_records_can_be_read() -> None:
    """The records of a step, as the stage writes them, against what is read here."""
    from rewards import RubricScore, Score
    from rlreason.policy.chat import RenderedPrompt
    from rlreason.rescore import _parse
    from rlreason.runs.jsonl import to_json
    from rlreason.stages.collect import Sample
    from rlreason.stages.record import sample_records
    from rlreason.types import Example, Rollout

    example = Example([{"role": "user", "content": "What is 4 + 3?"}], "7")
    parts = {"accuracy": Score(None, "abstained"), "other": Score(None, "broke", failed=True)}
    one = Sample(
        0, RenderedPrompt(example, [1], "<think>"), Rollout([1], [2, 3], [0.0, 0.0], "stop"), "so\ud800",
        RubricScore(None, parts), None,
    )  # fmt: skip
    (record,) = sample_records("grpo", 1, [one])
    problem, read = _parse(to_json(record).encode(), ["accuracy", "other"])
    assert problem == ""
    assert (read["prefill"], read["text"], read["tokens"]) == ("<think>", "so\ud800", 2)
