"""Programs in child processes of limited time, memory and rights: the caller's side of `confine`."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

MAX_OUTPUT = 1 << 22  # bytes that are read of what a program prints
_MIB = 1 << 20
_CONFINE = str(Path(__file__).with_name("confine.py"))
# Nothing of the caller's environment; libraries for arrays start one thread, as each reserves memory.
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Limits:
    """Seconds of wall-clock and of processor time, and MiB of address space, of one process."""

    seconds: float
    memory_mib: int
    hook_only: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a program printed. `problem` says in words why it did not end well; empty if it did."""

    output: str
    problem: str


@dataclass(frozen=True)
class Verdict:
    """What tests said of a program: the numbers of those that failed, from 0, with the reason.

    `broken` says why the program could not be tested to the end, `calls` how often it was called,
    `unsendable` what the tests do that cannot be done between two processes.
    """

    failed: dict[int, str]
    broken: str
    calls: int
    unsendable: str


@lru_cache(maxsize=1)
def isolation() -> dict[str, bool]:
    """Which of the kernel's means, "seccomp" and "landlock", hold programs here. Starts one process, once."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as nothing:
        process = _start("probe", Limits(10, 1024), folder, stdin=nothing)
        output, errors = _watch(process, 30)
    try:
        return dict(json.loads(output))
    except ValueError as error:
        raise RuntimeError(f"no program can be run in a sandbox here: {errors.decode()!r:.300}") from error


def run_program(source: str, stdin: str, limits: Limits) -> Outcome:
    """Run a program on this standard input, in a folder that holds nothing else."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="program-"))
        given = stack.enter_context(tempfile.TemporaryFile())
        given.write(stdin.encode(errors="surrogatepass"))
        given.seek(0)
        _write(folder, source)
        process = _start("program", limits, folder, stdin=given)
        output, errors = _watch(process, limits.seconds)
    problem = _problem(process.returncode, errors, limits)
    if len(output) > MAX_OUTPUT:
        problem = f"printed more than {MAX_OUTPUT} bytes"
    return Outcome(output.decode(errors="replace"), problem)


def run_tests(
    source: str, tests: Sequence[str], entry_point: str | None, limits: Limits, *, to_the_end: bool = False
) -> Verdict:
    """Run test code, in one process, on the functions of a program, in another (see `rewards.dialogue`)."""
    with ExitStack() as stack:
        program_folder, tests_folder = (
            stack.enter_context(tempfile.TemporaryDirectory(prefix="program-")) for _ in range(2)
        )
        _write(program_folder, source)
        asked = stack.enter_context(tempfile.TemporaryFile())
        asked.write(
            json.dumps({"tests": list(tests), "entry_point": entry_point, "all": to_the_end}).encode()
        )
        asked.seek(0)
        nothing = stack.enter_context(tempfile.TemporaryFile())
        requests_out, requests_in = os.pipe()
        replies_out, replies_in = os.pipe()
        try:
            program = _start(
                "solution",
                limits,
                program_folder,
                stdin=nothing,
                descriptors=(requests_out, replies_in),
                silent=True,
            )
            tester = _start(
                "tests", limits, tests_folder, stdin=asked, descriptors=(requests_in, replies_out)
            )
        finally:
            for descriptor in (requests_out, requests_in, replies_out, replies_in):
                os.close(descriptor)
        verdict, errors = _watch(tester, limits.seconds)
        # It ends by itself once nobody asks any more; what ended it before that explains the verdict.
        _watch(program, 0.2 if verdict else 0.0)
    try:
        said = json.loads(verdict)
    except ValueError:
        why = _problem(tester.returncode, errors, limits) or "the tests ended without a verdict"
        return Verdict({}, why, 0, "")
    broken = said["gone"]
    if broken and program.returncode not in (0, -signal.SIGKILL):
        broken += f": {_problem(program.returncode, b'', limits)}"
    return Verdict({number: why for number, why in said["failed"]}, broken, said["calls"], said["unsendable"])


def _write(folder: str, source: str) -> None:
    Path(folder, "main.py").write_text(source, encoding="utf-8", errors="surrogatepass", newline="")


def _start(
    role: str,
    limits: Limits,
    folder: str,
    *,
    stdin: IO[bytes],
    descriptors: tuple[int, ...] = (),
    silent: bool = False,
) -> subprocess.Popen[bytes]:
    settings = {
        "role": role,
        "parent": os.getpid(),
        "hook_only": limits.hook_only,
        "seconds": limits.seconds,
        "memory": limits.memory_mib * _MIB,
        "descriptors": descriptors,
    }
    return subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", _CONFINE, json.dumps(settings)],
        stdin=stdin,
        stdout=subprocess.DEVNULL if silent else subprocess.PIPE,
        stderr=subprocess.DEVNULL if silent else subprocess.PIPE,
        pass_fds=descriptors,
        cwd=folder,
        env=_ENVIRONMENT,
        start_new_session=True,  # a group of its own, to be killed as one
    )


def _watch(process: subprocess.Popen[bytes], seconds: float) -> tuple[bytes, bytes]:
    """Read what a process prints until it ends, prints too much or its time is over; leave nothing of it."""
    deadline = time.monotonic() + seconds
    printed: dict[Any, bytearray] = {
        stream: bytearray() for stream in (process.stdout, process.stderr) if stream
    }
    try:
        with selectors.DefaultSelector() as selector:
            for stream in printed:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map() and all(len(text) <= MAX_OUTPUT for text in printed.values()):
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                if not ready:
                    break
                for key, _ in ready:
                    data = os.read(key.fd, 1 << 16)
                    printed[key.fileobj] += data
                    if not data:
                        selector.unregister(key.fileobj)
            else:
                if not selector.get_map():
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for stream in printed:
            stream.close()
    output, errors = (bytes(printed.get(stream, b"")) for stream in (process.stdout, process.stderr))
    return output, errors


def _problem(code: int, errors: bytes, limits: Limits) -> str:
    """Say in words what an exit code means; nothing for 0."""
    if code == 0:
        return ""
    if code == -signal.SIGKILL or code == -signal.SIGXCPU:
        return f"no end within {limits.seconds:g} s"
    last = errors.decode(errors="replace").strip().splitlines()[-1:]
    if last and "MemoryError" in last[0]:
        return f"more than {limits.memory_mib} MiB of memory"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}" + (f" ({last[0]:.200})" if last else "")
