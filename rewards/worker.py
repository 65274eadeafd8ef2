"""A worker: the process in which rewards run that may hang, crash or need more memory than there is.

Started by `rewards.pool` as `python -m rewards.worker REQUESTS REPLIES LIFELINE MEMORY`, three inherited file
descriptors and the memory limit in bytes. It is two processes. The keeper never runs code of a reward, so it
is always able to act; the runner, its child, scores. Once the runner has ended or the lifeline is closed, as
it is when the pool gives a worker up and when the trainer dies in whatever way, the keeper kills the runner
with all processes that rewards have started, and ends. Outside Linux it finds only those in the runner's
group.

Both ends write length-prefixed messages. Requests are pickles; replies are JSON, as nothing that a reward can
write should be unpickled by the trainer.
"""

import faulthandler
import importlib
import io
import json
import os
import pickle
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

from rewards.base import Reward
from rewards.guarded import describe, each_score, failure, printable
from rewards.process import DIED, HEADER, WorkerProcess
from rewards.score import Score

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_KILL_SECONDS = 5.0
# What registered rewards import with their first completion, whose time budget it should not use up.
_LIBRARIES = {
    "accuracy": "math_verify",
    "reasoning_gym": "reasoning_gym",
    "rewards.procedural:ANSWERS": "reasoning_gym",
}
_REASON, _PRINTED = 500, 2000  # characters kept


def main(requests: int, replies: int, lifeline: int, memory: int) -> NoReturn:
    """Fork the runner and keep it."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # processes that leave the runner's group come to the keeper
    keeper = os.getpid()
    runner = os.fork()
    if runner == 0:
        os.close(lifeline)
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == keeper:
            Runner(requests, replies).run(memory)
        os._exit(0)
    os.close(requests)
    os.close(replies)
    os._exit(_keep(runner, lifeline))


# ---------------------------------------------------------------------- the keeper


def _keep(runner: int, lifeline: int) -> int:
    """Wait for the end of the runner or of the lifeline, leave no process behind, return the exit code."""
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    status = _reap(runner)
    while status is None:
        ready, _, _ = select.select([lifeline, ended], [], [])
        if lifeline in ready:
            break
        os.read(ended, 4096)
        status = _reap(runner)
    _kill_all(runner)
    if status is None:
        return 0
    return status if status >= 0 else DIED - status


def _reap(runner: int) -> int | None:
    """Collect all processes that have ended; the runner's exit code, negative for a signal, if it is one."""
    found = None
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == runner:
                found = os.waitstatus_to_exitcode(ended[1])
    return found


def _kill_all(runner: int) -> None:
    """Kill the runner's group, then whatever else has become a child of the keeper, until there is none."""
    deadline = time.monotonic() + _KILL_SECONDS
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(runner, signal.SIGKILL)
    while time.monotonic() < deadline:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        for child in _children() or [runner]:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.001)


def _children() -> list[int]:
    """The children of this process where /proc lists them (Linux), else nothing."""
    found = []
    with suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with suppress(OSError), open(f"/proc/{name}/stat", "rb") as stat:
                    # pid (name, which may hold anything) state parent ...
                    if int(stat.read().rpartition(b")")[2].split()[1]) == os.getpid():
                        found.append(int(name))
    return found


def _prctl(option: int, value: int) -> None:
    """Linux' prctl; elsewhere the process group alone has to do."""
    with suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


# ---------------------------------------------------------------------- the runner


class Runner:
    """Answers requests, one after the other, until there are no more."""

    def __init__(self, requests: int, replies: int) -> None:
        self._process = os.getpid()
        self._requests = requests
        self._replies = replies
        self._rewards: dict[Any, Reward] = {}
        self._printed = _Tail()
        self._environments: dict[str, dict[str, str]] = {}

    def run(self, memory: int) -> None:
        for descriptor in (self._requests, self._replies):
            os.set_inheritable(descriptor, False)  # not for programs that a reward starts
        faulthandler.enable(os.dup(2))  # the pool reads there what a crash leaves
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(nothing, standard)
        sys.stdin, sys.stdout, sys.stderr = io.StringIO(), self._printed, self._printed
        limit_memory(memory)
        WorkerProcess.forbidden = True
        for request in self._messages():
            self._answer(request)

    def _messages(self) -> Iterator[Any]:
        stream = open(self._requests, "rb", closefd=False)  # noqa: SIM115 (it ends with the process)
        while len(header := stream.read(HEADER.size)) == HEADER.size:
            yield stream.read(HEADER.unpack(header)[0])

    def _answer(self, request: bytes) -> None:
        """Say `ready` or `error`, then a `row` for each completion, then `done`."""
        try:
            asked = pickle.loads(request)
            if "setup" in asked:
                return _set_up(**asked["setup"])
            os.chdir(asked["folder"])
            reward = self._reward(asked["reward"])  # with the environment that it was loaded in
        except (Exception, SystemExit) as error:
            self._reply(error=self._fields(failure(error)))
            return
        self._reply(ready=describe(reward))
        spent = False
        completions, columns = asked["completions"], asked["columns"]
        for row, score in each_score(
            reward, completions, asked["prefill"], columns, seconds=asked["seconds"]
        ):
            self._reply(row=row, score=self._fields(score))
            spent = spent or score.reason.startswith("MemoryError")
        # What a reward holds on to it will not give back: the next completions need another worker.
        self._reply(done=True, spent=spent)

    def _reward(self, key: Any) -> Reward:
        from rewards import load_reward

        name, args, spec = pickle.loads(key)
        # What code sets when it is loaded, it finds again in every request. Other rewards do not see it, and
        # nobody what a call has set.
        home = name.rpartition(":")[0]
        _restore(self._environments.get(home) or self._environments.setdefault("", dict(os.environ)))
        if key not in self._rewards:
            self._rewards[key] = load_reward(name, args, spec)
            if name in _LIBRARIES:
                importlib.import_module(_LIBRARIES[name])
            self._environments.setdefault(home, dict(os.environ))
        return self._rewards[key]

    def _fields(self, score: Score) -> dict[str, Any]:
        printed = self._printed.take()
        trace = f"{score.trace}\nprinted: {printed}" if score.failed and printed else score.trace
        return {
            "value": score.value,
            "reason": score.reason[:_REASON],
            "failed": score.failed,
            "trace": trace,
        }

    def _reply(self, **message: Any) -> None:
        if os.getpid() != self._process:
            os._exit(0)  # a reward has forked, and its copy has come back as well
        payload = json.dumps(message).encode()
        pending = memoryview(HEADER.pack(len(payload)) + payload)
        while pending:
            pending = pending[os.write(self._replies, pending) :]


class _Tail(io.TextIOBase):
    """Takes what is printed and keeps the end of it."""

    def __init__(self) -> None:
        self._kept = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._kept = (self._kept + text)[-_PRINTED:]
        return len(text)

    def take(self) -> str:
        kept, self._kept = self._kept.strip(), ""
        return printable(kept)


def limit_memory(limit: int) -> None:
    """Bound what this process may allocate, and each process that it starts.

    Private memory is counted where the system can (Linux, RLIMIT_DATA), address space elsewhere: libraries
    for GPUs reserve far more addresses than they use. No core files are written.
    """
    kind = resource.RLIMIT_DATA if sys.platform == "linux" else resource.RLIMIT_AS
    for which, value in ((kind, limit), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(which)[1]
        with suppress(ValueError, OSError):
            resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard),) * 2)


def _set_up(path: list[str], environment: dict[str, str | None]) -> None:
    """Look modules up where the trainer does, and put back what was set to start this process."""
    sys.path[:] = path
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _restore(environment: dict[str, str]) -> None:
    """Make the environment what it was; nothing is written where nothing has changed."""
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
