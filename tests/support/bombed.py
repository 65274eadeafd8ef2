"""Bombs of `bombs.py` in a pool of workers, and the processes that they leave behind."""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewards import PooledReward, Score, WorkerPool
from rewards.guarded import timed_out

BOMBS = Path(__file__).parent / "bombs.py"
BUDGET = 0.5  # seconds of a completion
SLACK = 4.0  # seconds that a busy machine may take on top

TEXTS = ["good", "bad", "fine"]
LATE = timed_out(BUDGET)
ONE = Score(1.0, "returned 1")

LINUX_ONLY = {"allocates", "hoards", "leaves_a_grandchild", "dies_with_a_grandchild"}
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="see LINUX_ONLY")


def bomb(pool: WorkerPool, name: str) -> PooledReward:
    reward = pool.reward(f"{BOMBS}:{name}")
    assert isinstance(reward, PooledReward)
    return reward


def scores(reward: PooledReward, texts: list[str], pids: Path, seconds: float = BUDGET) -> list[Score]:
    call = reward.begin(texts, None, {"pids": [str(pids)] * len(texts)}, seconds=seconds)
    reward.pool.run([call])
    return call.result()


def in_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(60)
    assert found, "the thread raised or is not through"
    return found[0]


def alive(pid: int) -> bool:
    try:
        # A zombie is dead; nobody may have collected it where the first process of the machine does not.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        if Path("/proc/self").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def all_gone(pids: Path, count: int) -> bool:
    """Whether all processes noted in a file are gone, or go within two seconds."""
    numbers = [int(line) for line in pids.read_text().split()]
    assert len(numbers) >= count
    deadline = time.monotonic() + 2
    while any(map(alive, numbers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not any(map(alive, numbers))
