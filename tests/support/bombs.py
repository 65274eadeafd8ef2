"""Rewards that misbehave for the completion "bad", and give 1 for every other.

What they start writes its process number into the file that the column `pids` names.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from rewards import Response

LONG = 300.0


def note(example: dict[str, Any], *pids: int) -> None:
    with open(example["pids"], "a") as file:
        file.write("".join(f"{pid}\n" for pid in pids))


def fine(response: Response, example: dict[str, Any]) -> float:
    return 1.0


def sleeps(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        note(example, os.getpid(), os.getppid())
        time.sleep(LONG)
    return 1.0


def computes(response: Response, example: dict[str, Any]) -> float:
    """Never lets another thread of its process run."""
    if response.text == "bad":
        note(example, os.getpid(), os.getppid())
        return float(3 ** (10**9) > 0)
    return 1.0


def catches_everything(response: Response, example: dict[str, Any]) -> float:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while response.text == "bad":
        with suppress(BaseException):
            time.sleep(LONG)
    return 1.0


def allocates(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        return float(len(bytearray(50 << 30)))
    return 1.0


HOARD: list[bytearray] = []


def hoards(response: Response, example: dict[str, Any]) -> float:
    """Fills the memory bit by bit, and keeps it."""
    while response.text == "bad":
        HOARD.append(bytearray(16 << 20))
    return 1.0


def raises(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        print("about to fail")
        raise KeyError("oops")
    return 1.0


def gives_nan(response: Response, example: dict[str, Any]) -> float:
    return float("nan") if response.text == "bad" else 1.0


def gives_text(response: Response, example: dict[str, Any]) -> Any:
    return "high" if response.text == "bad" else 1.0


def recurses(response: Response, example: dict[str, Any]) -> float:
    return recurses(response, example) if response.text == "bad" else 1.0


def exits(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        sys.exit(0)
    return 1.0


def leaves(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        os._exit(3)
    return 1.0


def kills_itself(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        os.kill(os.getpid(), signal.SIGKILL)
    return 1.0


def kills_its_group(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        os.killpg(0, signal.SIGKILL)
    return 1.0


def kills_its_parent(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        note(example, os.getpid())
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(LONG)
    return 1.0


def crashes(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        ctypes.string_at(0)
    return 1.0


def shouts(response: Response, example: dict[str, Any]) -> float:
    """Garbage to wherever a program may write without opening anything."""
    print("garbage" * 1000)
    os.write(1, b"\xff" * 4096)
    os.write(2, b"\x00" * 4096)
    subprocess.run([sys.executable, "-c", "print('garbage' * 1000)"], check=True)
    return 1.0


def forges(response: Response, example: dict[str, Any]) -> float:
    """Garbage into every pipe of the process, the worker's own included."""
    if response.text == "bad":
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b'{"row": 0}' * 10)
            except OSError:
                continue
    return 1.0


def forks(response: Response, example: dict[str, Any]) -> float:
    """Both copies return."""
    if response.text == "bad":
        os.fork()
    return 1.0


def leaves_a_grandchild(response: Response, example: dict[str, Any]) -> float:
    """A process that holds all our pipes, in a session of its own, and stays."""
    if response.text == "bad" and os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        note(example, os.getpid())
        time.sleep(LONG)
    return 1.0


def dies_with_a_grandchild(response: Response, example: dict[str, Any]) -> float:
    """As above, and the worker itself dies."""
    if response.text == "bad":
        leaves_a_grandchild(response, example)
        while not (os.path.exists(example["pids"]) and os.path.getsize(example["pids"])):
            time.sleep(0.001)
        os._exit(1)
    return 1.0


def batch_sleeps(completions: list[str], **columns: Any) -> list[float]:
    time.sleep(LONG if "bad" in completions else 0)
    return [1.0] * len(completions)


def batch_raises(completions: list[str], **columns: Any) -> list[float]:
    if "bad" in completions:
        raise KeyError("oops")
    return [1.0] * len(completions)


def batch_short(completions: list[str], **columns: Any) -> list[float]:
    return [1.0] * (len(completions) - ("bad" in completions))


def batch_nan(completions: list[str], **columns: Any) -> list[float]:
    return [float("nan") if text == "bad" else 1.0 for text in completions]


async def async_sleeps(response: Response, example: dict[str, Any]) -> float:
    await asyncio.sleep(LONG if response.text == "bad" else 0.01)
    return 1.0


async def async_blocks(response: Response, example: dict[str, Any]) -> float:
    time.sleep(LONG if response.text == "bad" else 0)
    return 1.0


async def async_raises(response: Response, example: dict[str, Any]) -> float:
    await asyncio.sleep(0)
    if response.text == "bad":
        raise KeyError("oops")
    return 1.0


async def async_batch_sleeps(completions: list[str], **columns: Any) -> list[float]:
    await asyncio.sleep(LONG if "bad" in completions else 0.01)
    return [1.0] * len(completions)
