"""Rewards that fail, and the two ways of combining several, in a whole run."""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from micro import lines

from rlreason.cli import main_train

ROOT = Path(__file__).parents[2]
Train = Callable[..., Path]

MINE = """
import os, time, zlib

def dice(text, sides):
    return zlib.crc32(text.encode()) % sides

def some_fail(response, example):
    if dice(response.text, 8) == 0 and example["prompts"]:
        raise KeyError("oops")
    return None if dice(response.text, 8) == 1 else float(dice(response.text, 2))

def all_fail_later(response, example):
    # The dry run of the rewards is on written completions, which think.
    return 1.0 if "The known right answer." in response.text else 1 / 0

def parity(response, example):
    return float(dice(response.text, 2))

def level(response, example):
    return dice(response.text, 5) / 4

def hangs(response, example):
    if "The known right answer." not in response.text:
        with open(os.path.join(os.path.dirname(__file__), "pids"), "a") as file:
            file.write(f"{os.getpid()}\\n")
        time.sleep(300)
    return 1.0
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return str(tmp_path / "mine.py")


def test_failures_are_counted_told_and_kept(
    train: Train, mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{mine}:some_fail"
    run = train(stage="grpo", rewards={name: {"max_errors": 0.9}}, grpo={"steps": 2})
    metrics, samples = lines(run / "metrics.jsonl"), lines(run / "samples.jsonl")
    for step, line in enumerate(metrics, 1):
        said = [sample["scores"][name] for sample in samples if sample["step"] == step]
        failed = [score for score in said if score["failed"]]
        assert line[f"reward_failed/{name}"] == len(failed)
        assert line[f"reward_abstained/{name}"] == sum(
            score["value"] is None and not score["failed"] for score in said
        )
        assert line["failed"] == len(failed) / len(said)
        assert line["reward_failed/accuracy"] == 0
    reasons = {s["scores"][name]["reason"] for s in samples if s["scores"][name]["failed"]}
    assert reasons == {"KeyError: 'oops' (mine.py, line 9)"}
    assert all(s["advantage"] == 0 for s in samples if s["scores"][name]["value"] is None)
    out = " ".join(capsys.readouterr().out.split())
    assert f"in processes of their own: {name} (at most 10 s)".replace(" ", "") in out.replace(" ", "")
    assert out.count("failed on") == 1  # a reward's failures are told of once


def test_a_run_whose_reward_fails_too_often_stops_and_says_why(
    mine: str, write_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{mine}:all_fail_later"
    # The right answers are marked before the run, the answers of the model after.
    code = main_train([str(write_config(stage="grpo", rewards={"random": 1.0, name: 0.5}))])
    said = capsys.readouterr().err
    assert code == 2
    assert f"rewards.{name}: scoring failed on 6 of 6 completions" in said  # of the first evaluation
    assert "max_errors = 0.1" in said
    assert "ZeroDivisionError: division by zero (mine.py, line" in said
    assert "1 / 0" in said


@pytest.mark.parametrize("sampling", [0, 2])
def test_gdpo_compares_each_reward_on_its_own(train: Train, mine: str, sampling: int) -> None:
    rewards = {f"{mine}:parity": 1.0, f"{mine}:level": {"weight": 0.5, "clip": [0.25, 0.75]}}
    run = train(
        stage="grpo", rewards=rewards, grpo={"steps": 2, "combine": "gdpo", "dynamic_sampling": sampling}
    )
    for step in (1, 2):
        samples = [sample for sample in lines(run / "samples.jsonl") if sample["step"] == step]
        groups: dict[int, list[tuple[float, float]]] = defaultdict(list)
        for sample in samples:
            parity, level = (sample["scores"][name]["value"] for name in rewards)
            groups[sample["group"]].append((parity, min(max(level, 0.25), 0.75)))
            assert sample["reward"] == pytest.approx(parity + 0.5 * groups[sample["group"]][-1][1])
        sums: dict[int, list[float]] = {}
        for group, values in groups.items():
            first, second = (normalised(list(column)) for column in zip(*values, strict=True))
            sums[group] = [a + 0.5 * b for a, b in zip(first, second, strict=True)]
        deviation = statistics.stdev(value for group in sums.values() for value in group)
        expected = [sums[s["group"]].pop(0) / (deviation + 1e-4) for s in samples]
        assert [s["advantage"] for s in samples] == pytest.approx(expected, abs=1e-5)
        assert any(expected)


def normalised(values: list[float]) -> list[float]:
    if len(set(values)) == 1:
        return [0.0] * len(values)
    return [(v - statistics.fmean(values)) / (statistics.stdev(values) + 1e-4) for v in values]


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_worker(
    mine: str, write_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = write_config(stage="grpo", rewards={f"{mine}:hangs": {"seconds": 300.0}})
    process = subprocess.Popen([sys.executable, "train.py", str(config)], cwd=ROOT, stderr=subprocess.PIPE)
    pids, deadline = tmp_path / "pids", time.monotonic() + 60
    while not pids.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # during the first evaluation, where it stops at once
    process.communicate(timeout=30)
    assert process.returncode == 130
    deadline = time.monotonic() + 5
    while any(map(exists, map(int, pids.read_text().split()))):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
