"""The doctor in the loop: it tells of a finding once, writes it, and finds the same in the files."""

from collections.abc import Callable
from pathlib import Path

import pytest
from micro import lines

from rlreason.doctor import examine, read, replayed
from rlreason.doctor.watch import Doctor

Train = Callable[..., Path]


def test_live_and_from_the_files_it_comes_to_the_same(
    train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(
        stage="grpo",
        rewards="accuracy",  # which random weights never earn
        rollout={"max_new_tokens": 4},
        grpo={"steps": 8, "prompts_per_step": 12, "group_size": 2, "stop_after_uninformative": 0},
    )
    out = " ".join(capsys.readouterr().out.split())
    assert out.count("no group teaches anything (no_signal, docs/doctor.md)") == 1
    assert "the doctor at the end: " in out
    assert "no group teaches anything (warning, since step 5)" in out
    metrics = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    record = read(run)
    doctor = Doctor(record.facts)
    standing = [[one.rule.name for one in doctor.standing()] for _ in replayed(doctor, record)]
    assert standing == [line["findings"] for line in metrics]
    assert "no_signal" in standing[-1]
    assert [one.since for one in examine(record).standing() if one.rule.name == "no_signal"] == [5]
    unjudged = {rule.name for rule, _ in doctor.unjudged()}
    assert unjudged <= {"entropy_collapse", "sampler_drift", "clipped", "non_finite"}  # no update was made
    assert all(0 <= line["repeated"] <= 1 and line["length_reward"] is None for line in metrics)
