"""Worker processes under fire: each bomb comes back within its budget, and the next call works."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bombed import (
    BOMBS,
    BUDGET,
    LATE,
    LINUX_ONLY,
    ONE,
    SLACK,
    TEXTS,
    alive,
    all_gone,
    bomb,
    in_thread,
    linux_only,
    scores,
)

from rewards import Score, WorkerPool
from rewards.guarded import timed_out

ROOT = Path(__file__).parents[2]

# What the bad completion gets, and the others: those of its batch share its fate.
ONE_BY_ONE: dict[str, Score | str] = {
    "sleeps": LATE,
    "computes": LATE,
    "catches_everything": LATE,
    "allocates": "MemoryError",
    "raises": "KeyError: 'oops' (bombs.py, line",
    "gives_nan": "reward 'gives_nan' returned nan: return a finite number",
    "gives_text": "reward 'gives_text' returned 'high': return a finite number",
    "recurses": "RecursionError",
    "exits": "SystemExit: 0",
    "leaves": "the worker process ended with exit code 3",
    "kills_itself": "the worker process was killed by SIGKILL",
    "kills_its_group": "the worker process was killed by SIGKILL",
    "kills_its_parent": "the worker process was killed by SIGKILL",
    "crashes": "the worker process was killed by SIGSEGV",
    "forges": "the worker process was stopped: it wrote to a pipe that is not its own",
    "dies_with_a_grandchild": "the worker process ended with exit code 1",
    "batch_nan": "reward 'batch_nan' returned nan: return a finite number",
    "async_sleeps": LATE,
    "async_raises": "KeyError: 'oops' (bombs.py, line",
}
TOGETHER: dict[str, Score | str] = {
    "batch_sleeps": timed_out(BUDGET * len(TEXTS)),
    "batch_raises": "KeyError: 'oops' (bombs.py, line",
    "batch_short": "returned 2 values for 3 completions",
    "async_batch_sleeps": timed_out(BUDGET * len(TEXTS)),
}
HARMLESS = ["fine", "shouts", "forks", "leaves_a_grandchild"]


@pytest.mark.parametrize("threaded", [False, True], ids=["main", "thread"])
@pytest.mark.parametrize("name", [*ONE_BY_ONE, *TOGETHER, *HARMLESS])
def test_a_bomb_comes_back_and_the_next_call_works(
    pool: WorkerPool, tmp_path: Path, name: str, threaded: bool
) -> None:
    if name in LINUX_ONLY and sys.platform != "linux":
        pytest.skip("this system bounds no memory, or does not find a process that has left its group")
    reward = bomb(pool, name)
    call = in_thread if threaded else lambda work: work()
    expected = (ONE_BY_ONE | TOGETHER).get(name)
    # Where time is not what runs out, a busy machine should have enough of it.
    seconds = BUDGET if isinstance(expected, Score) else 20.0
    began = time.monotonic()
    found: list[Score] = call(lambda: scores(reward, TEXTS, tmp_path / "pids", seconds))
    assert time.monotonic() - began < BUDGET * (len(TEXTS) if name in TOGETHER else 1) + SLACK
    for text, score in zip(TEXTS, found, strict=True):
        if expected is None or (text != "bad" and name not in TOGETHER):
            assert score == ONE, (text, score)
        elif isinstance(expected, Score):
            assert score == expected
        else:
            assert score.value is None
            assert score.failed
            assert expected in score.reason
    assert call(lambda: scores(reward, ["good"] * 3, tmp_path / "other", 20.0)) == [ONE] * 3
    assert call(lambda: scores(bomb(pool, "fine"), TEXTS, tmp_path / "other", 20.0)) == [ONE] * 3


@linux_only
def test_memory_that_a_reward_keeps_is_not_missing_later(tmp_path: Path) -> None:
    with WorkerPool(1, memory_gib=0.25) as pool:
        reward = bomb(pool, "hoards")
        for _ in range(2):
            first, second, third = scores(reward, TEXTS, tmp_path / "pids", seconds=10)
            assert (first, third) == (ONE, ONE)
            assert second.reason.startswith("MemoryError")


def test_all_completions_of_an_async_function_that_blocks_share_its_fate(
    pool: WorkerPool, tmp_path: Path
) -> None:
    found = scores(bomb(pool, "async_blocks"), ["bad"], tmp_path / "pids")
    assert [(score.value, score.failed) for score in found] == [(0.0, True)]


def test_a_failure_carries_the_traceback_and_what_was_printed(pool: WorkerPool, tmp_path: Path) -> None:
    (score,) = scores(bomb(pool, "raises"), ["bad"], tmp_path / "pids", 20.0)
    assert 'bombs.py", line' in score.trace
    assert 'raise KeyError("oops")' in score.trace
    assert "KeyError: 'oops'" in score.trace
    assert score.trace.endswith("printed: about to fail")
    assert "rewards/adapt.py" not in score.trace
    (crash,) = scores(bomb(pool, "crashes"), ["bad"], tmp_path / "pids", 20.0)
    assert "Segmentation fault" in crash.trace
    assert "in crashes" in crash.trace


def test_nothing_that_a_reward_prints_is_seen(
    pool: WorkerPool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scores(bomb(pool, "shouts"), TEXTS, tmp_path / "pids", 20.0)
    assert capfd.readouterr() == ("", "")


# ---------------------------------------------------------------------- nothing stays behind


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("sleeps", 2),
        ("computes", 2),
        ("kills_its_parent", 1),
        pytest.param("dies_with_a_grandchild", 1, marks=linux_only),
    ],
)
def test_what_a_bomb_has_started_is_gone_when_it_comes_back(
    pool: WorkerPool, tmp_path: Path, name: str, count: int
) -> None:
    scores(bomb(pool, name), ["bad"], tmp_path / "pids")
    assert all_gone(tmp_path / "pids", count)


@linux_only
def test_what_a_reward_leaves_running_ends_with_the_pool(tmp_path: Path) -> None:
    with WorkerPool(1) as pool:
        assert scores(bomb(pool, "leaves_a_grandchild"), ["bad"], tmp_path / "pids", 20.0) == [ONE]
        deadline = time.monotonic() + 5
        written = tmp_path / "pids"
        while not (written.exists() and written.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert alive(int(written.read_text()))
    assert all_gone(tmp_path / "pids", 1)


PARENT = """
import signal, sys, threading
from rewards import WorkerPool

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
bombs, name, pids, how = sys.argv[1:]
pool = WorkerPool(2)

def score():
    reward = pool.reward(f"{bombs}:{name}")
    call = reward.begin(["bad"] * 8, None, {"pids": [pids] * 8})
    pool.run([call])

if how == "thread":
    thread = threading.Thread(target=score)
    thread.start()
    thread.join()
else:
    try:
        score()
    except KeyboardInterrupt:
        fine = pool.reward(f"{bombs}:fine")
        print("then", fine(completions=["good"]))
"""


def started(pids: Path, name: str, how: str) -> subprocess.Popen[str]:
    """A process whose two workers are both at a bomb."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(BOMBS), name, str(pids), how],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 20
    while not pids.exists() or len(pids.read_text().split()) < 4:  # two workers of two processes
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("how", ["main", "thread"])
@pytest.mark.parametrize("name", ["sleeps", "computes"])
def test_no_worker_outlives_a_killed_parent(tmp_path: Path, name: str, how: str) -> None:
    process = started(tmp_path / "pids", name, how)
    process.kill()
    process.communicate(timeout=20)
    assert all_gone(tmp_path / "pids", 4)


def test_an_interrupt_ends_the_workers_and_the_next_call_works(tmp_path: Path) -> None:
    process = started(tmp_path / "pids", "sleeps", "main")
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=20)
    assert said == "then [1.0]\n"
    assert process.returncode == 0
    assert all_gone(tmp_path / "pids", 4)
