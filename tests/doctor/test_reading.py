"""Run directories and trainer states: whole, damaged, empty, and while they are being written."""

import json
import math
from pathlib import Path

import pytest
from healthy import Line, healthy
from left_behind import CONFIG, cut, state_of, trl_log, written

from rlreason.doctor import Names, Record, examine, read, read_run, replayed
from rlreason.doctor.watch import Doctor
from rlreason.errors import UserError


def evaluated(root: Path, label: str, accuracy: float) -> None:
    folder = root / "evaluations" / label
    folder.mkdir(parents=True)
    summary = {"accuracy": accuracy, "ci95": [accuracy - 0.02, accuracy + 0.02], "n": 2000}
    (folder / "completions.json").write_text(json.dumps({"summary": summary, "completions": []}))


def names(record: Record) -> list[str]:
    return [finding.rule.name for finding in examine(record).findings]


def test_the_facts_come_from_the_config(tmp_path: Path) -> None:
    facts = read(written(tmp_path / "run", healthy(0, steps=3))).facts
    assert (facts.stage, facts.groups, facts.learned, facts.trl) == ("grpo", 16, True, False)
    ppo = {**CONFIG, "stage": ["ppo"], "eval": {"reward": "learned"}}
    facts = read(written(tmp_path / "ppo", [{"stage": "ppo", "step": 1}], ppo)).facts
    assert (facts.stage, facts.groups, facts.learned) == ("ppo", 8, False)


@pytest.mark.parametrize("config", ["", ": : :", "[1, 2]", "grpo: 3\nrewards: x\neval:\nstage: 7"])
def test_a_config_that_cannot_be_used_is_done_without(tmp_path: Path, config: str) -> None:
    record = read(written(tmp_path / "run", cut(healthy(0, steps=12)), config))
    assert record.facts.groups is None
    assert names(record) == ["cut_off"]


def test_other_stages_are_no_steps_of_the_loop(tmp_path: Path) -> None:
    lines = [{"stage": "sft", "step": step, "loss": math.nan} for step in range(1, 9)]
    assert names(read(written(tmp_path / "run", [*lines, *healthy(0, steps=12)]))) == []


def test_a_run_that_is_being_written_is_read_as_far_as_it_is(tmp_path: Path) -> None:
    root = written(tmp_path / "run", cut(healthy(0, steps=12)))
    with (root / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "grpo", "step": 13, "trunc')
    record = read(root)
    assert len(record.lines) == 12
    assert record.remarks == []
    assert names(record) == ["cut_off"]


def test_damaged_lines_are_left_out_and_counted(tmp_path: Path) -> None:
    root = written(tmp_path / "run", cut(healthy(0, steps=12)))
    path = root / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    lines[3] = b'{"stage": "grpo", "ste\n'
    lines[5] = b"\xff\xfe\x00 no text\n"
    lines[6] = b"[" * 100_000 + b"\n"
    lines.insert(8, b'"a text"\n')
    lines.insert(9, b'{"stage": "grpo", "step": "9"}\n')
    lines.insert(9, b"\n")
    path.write_bytes(b"".join(lines))
    record = read(root)
    assert [line["step"] for line in record.lines] == [1, 2, 3, 5, 8, 9, 10, 11, 12]
    assert record.remarks == ["metrics.jsonl: 4 lines are no JSON records and were left out"]
    assert names(record) == ["cut_off"]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such run"):
        read(tmp_path / "nothing")
    with pytest.raises(UserError, match="is no run"):
        read(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(b"\x00\x01\n\x02\n")
    with pytest.raises(UserError, match="none of its 2 lines is a JSON record"):
        read(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\n", b'{"stage": "grp'])
def test_a_run_without_a_step_has_nothing_wrong(tmp_path: Path, content: bytes) -> None:
    root = written(tmp_path / "run", [])
    (root / "metrics.jsonl").write_bytes(content)
    assert read(root).lines == []
    (root / "metrics.jsonl").unlink()
    assert read(root).lines == []


def test_a_step_that_was_written_twice_counts_once_as_it_was_last(tmp_path: Path) -> None:
    lines = healthy(0, steps=6)
    root = written(tmp_path / "run", [*lines, {**lines[4], "kl": 0.77}])
    record = read(root)
    assert [line["step"] for line in record.lines] == [1, 2, 3, 4, 5, 6]
    assert record.lines[4]["kl"] == 0.77


def test_evaluations_are_seen_with_the_step_after_them(tmp_path: Path) -> None:
    root = written(tmp_path / "run", healthy(0, steps=30))
    evaluated(root, "before", 0.4)
    evaluated(root, "step-000010", 0.6)
    evaluated(root, "step-000020", 0.3)
    evaluated(root, "after", 0.1)  # the run has ended: its verdict says so
    evaluated(root, "step-x", 0.1)
    (root / "evaluations" / "step-000005").mkdir()
    (root / "evaluations" / "step-000005" / "completions.json").write_text("{")
    record = read(root)
    assert record.remarks == ["evaluations/step-000005 cannot be read and was left out"]
    (finding,) = [one for one in examine(record).findings if one.rule.name == "held_out_falls"]
    assert finding.since == 21
    assert [step for step, _ in read_run(root, until=10).evaluations] == [0, 10]
    assert len(read_run(root, until=10).lines) == 10


def test_a_doctor_that_begins_in_the_middle_goes_on_as_if_it_had_been_there(tmp_path: Path) -> None:
    """What a resumed run does: it reads what is there, and takes each further step as it comes."""
    lines = cut(healthy(0, steps=40))
    root = written(tmp_path / "run", lines)
    evaluated(root, "before", 0.4)
    whole = examine(read(root))
    resumed = examine(read_run(root, until=3))
    for line in lines[3:]:
        resumed.step(line)
    assert resumed.findings == whole.findings != []


def test_replaying_tells_what_was_told_live(tmp_path: Path) -> None:
    lines = cut(healthy(0, steps=20))
    live = Doctor(read(written(tmp_path / "run", lines)).facts)
    said = [live.step(line) for line in lines]
    record = read(tmp_path / "run")
    assert list(replayed(Doctor(record.facts), record)) == said
    assert any(said)


# ---------------------------------------------------------------------- TRL


@pytest.mark.parametrize("seed", range(4))
def test_a_healthy_trl_run_is_left_alone(tmp_path: Path, seed: int) -> None:
    record = read(state_of(tmp_path, trl_log(healthy(seed, steps=60))))
    assert record.remarks == ["accuracy: accuracy_reward", "format: think_format_reward"]
    assert names(record) == []


def test_a_trl_run_is_judged_by_the_same_rules_with_trls_names(tmp_path: Path) -> None:
    lines: list[Line] = [
        {**line, "truncated": 0.8, "informative": 0.0, "kl": 3.0, "entropy": line["entropy"]}
        for line in healthy(1, steps=40)
    ]
    log = trl_log(lines)
    log[30]["grad_norm"] = math.nan  # written as NaN, which is no JSON, as transformers does
    found = {one.rule.name: one for one in examine(read(state_of(tmp_path, log))).findings}
    assert {"cut_off", "no_signal", "kl_runaway", "non_finite"} <= found.keys()
    assert any("`max_completion_length`" in hint for hint in found["cut_off"].hints)
    assert any("`max_completion_length`" in hint for hint in found["no_signal"].hints)
    assert not any("rollout." in hint for one in found.values() for hint in one.hints)


def test_the_newest_checkpoint_of_a_folder_is_read(tmp_path: Path) -> None:
    log = trl_log(healthy(0, steps=12))
    for number in (2, 12, 9):
        state_of(tmp_path / f"checkpoint-{number}", log[:number])
    (tmp_path / "checkpoint-x").mkdir()
    assert len(read(tmp_path).lines) == 12


def test_rewards_of_trl_can_be_named(tmp_path: Path) -> None:
    lines: list[Line] = [
        {**line, "reward/learned": min(step / 20, 1.0), "accuracy": 0.6 if step < 20 else 0.2}
        for step, line in enumerate(healthy(0, steps=40))
    ]
    path = state_of(tmp_path, trl_log(lines))
    assert "learned_apart" not in names(read(path))
    assert "learned_apart" in names(read(path, Names(learned="my-reward-model")))
    with pytest.raises(UserError, match=r"--accuracy: there is no reward 'x'; there are accuracy_reward, "):
        read(path, Names(accuracy="x"))


def test_a_run_of_this_project_needs_no_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave them out"):
        read(written(tmp_path / "run", []), Names(accuracy="accuracy"))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"log_history": 3}', '{"log_history": [{"step": 1, "loss": 2}]}', "\x00"]
)
def test_what_is_no_state_of_a_grpo_trainer_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trainer_state.json"
    path.write_text(text)
    with pytest.raises(UserError, match=r"trainer_state\.json: "):
        read(path)


def test_a_trainer_that_has_logged_nothing_yet_has_nothing_wrong(tmp_path: Path) -> None:
    assert read(state_of(tmp_path, [])).lines == []
    assert names(read(state_of(tmp_path, []))) == []
