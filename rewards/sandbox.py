"""Programs in child processes of limited time, memory and rights: the caller's side of `confine`."""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

MAX_OUTPUT = 1 << 22  # bytes that are read of what a program prints
MAX_THREADS = 256
_LOOK = 0.02  # seconds between two looks at how many threads there are
_MIB = 1 << 20
_CONFINE = str(Path(__file__).with_name("confine.py"))
# Nothing of the caller's environment; libraries for arrays start one thread, as each reserves memory.
_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
_INHERITED = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # without which some interpreters do not start


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
    """What tests said of a program: of each that was run why it failed, empty if it held.

    `broken` says why not all could be run, `calls` how often the program was called, `unsendable` what the
    tests do that cannot be done between two processes.
    """

    results: list[str]
    broken: str = ""
    calls: int = 0
    unsendable: str = ""


@lru_cache(maxsize=1)
def isolation() -> dict[str, bool]:
    """Which of the kernel's means, "seccomp" and "landlock", hold programs here. Starts one process, once."""
    with (
        tempfile.TemporaryDirectory() as folder,
        _readable(b"") as nothing,
        _running("probe", Limits(10, 1024), folder, stdin=nothing) as process,
    ):
        output, errors, _ = _watch(process, 30)
    told, _, held = output.decode().partition(":")
    if told != "held by":
        raise RuntimeError(f"no program can be run in a sandbox here: {errors.decode()!r:.300}")
    return {name: name in held.split() for name in ("seccomp", "landlock")}


def run_program(source: str, stdin: str, limits: Limits) -> Outcome:
    """Run a program on this standard input, in a folder that holds nothing else."""
    with ExitStack() as stack:
        folder = _folder(stack, source)
        given = stack.enter_context(_readable(stdin.encode(errors="surrogatepass")))
        process = stack.enter_context(_running("program", limits, folder, stdin=given))
        output, errors, problem = _watch(process, limits.seconds)
    problem = problem or _problem(process.returncode, errors, limits)
    return Outcome(output.decode(errors="replace"), problem)


def run_tests(
    source: str, tests: Sequence[str], entry_point: str | None, limits: Limits, *, to_the_end: bool = False
) -> Verdict:
    """Run test code, in one process, on the functions of a program, in another (see `rewards.dialogue`).

    The first test that fails is the last that is run, unless `to_the_end`.
    """
    asked = json.dumps({"tests": list(tests), "entry_point": entry_point, "all": to_the_end}).encode()
    with ExitStack() as stack:
        program_folder, tests_folder = _folder(stack, source), _folder(stack, "")
        stdin = [stack.enter_context(_readable(data)) for data in (b"", asked)]
        with ExitStack() as pipes:
            requests_out, requests_in = _pipe(pipes)
            replies_out, replies_in = _pipe(pipes)
            program = stack.enter_context(
                _running("solution", limits, program_folder, requests_out, replies_in, stdin=stdin[0])
            )
            tester = stack.enter_context(
                _running("testing", limits, tests_folder, requests_in, replies_out, stdin=stdin[1])
            )
        output, errors, problem = _watch(tester, limits.seconds, beside=program)
        told = [json.loads(line) for line in output.rpartition(b"\n")[0].splitlines()]
        if not told or isinstance(told[-1], str):  # the tests have not come to their end
            why = problem or _problem(tester.returncode, errors, limits) or "the tests ended too early"
            return Verdict(told, broken=why)
        *results, said = told
        if said["broken"]:  # what ended the program explains that
            _end(program, 0.2)
            if program.returncode not in (0, -signal.SIGKILL):
                said["broken"] += f": {_problem(program.returncode, b'', limits)}"
    return Verdict(results, **said)


def _folder(stack: ExitStack, source: str) -> str:
    """A folder for one process, with the program in it."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="program-"))
    Path(folder, "main.py").write_text(source, encoding="utf-8", errors="surrogatepass", newline="")
    return folder


def _readable(data: bytes) -> IO[bytes]:
    """An open file of this content that can only be read: one to write would hold any amount of the disk."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return open(file.name, "rb")


def _pipe(stack: ExitStack) -> tuple[int, int]:
    reader, writer = os.pipe()
    stack.callback(os.close, reader)
    stack.callback(os.close, writer)
    return reader, writer


@contextmanager
def _running(
    role: str, limits: Limits, folder: str, *descriptors: int, stdin: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has ended at the end of the block, however that is left."""
    settings = (role, os.getpid(), limits.hook_only, limits.seconds, limits.memory_mib * _MIB, *descriptors)
    output = subprocess.DEVNULL if role == "solution" else subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-I", "-X", "utf8", "-X", "int_max_str_digits=0", _CONFINE, *map(str, settings)],
        stdin=stdin,
        stdout=output,
        stderr=output,
        pass_fds=descriptors,
        cwd=folder,
        env=_ENVIRONMENT | {name: os.environ[name] for name in _INHERITED if name in os.environ},
        start_new_session=True,  # a group of its own, to be killed as one
    )
    try:
        yield process
    finally:
        _end(process)
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()


def _end(process: subprocess.Popen[bytes], seconds: float = 0.0) -> None:
    """Let a process end by itself for some time, then leave nothing of it."""
    if process.returncode is not None:  # its number may already be that of another
        return
    with suppress(subprocess.TimeoutExpired):
        if seconds > 0:
            process.wait(seconds)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _watch(
    process: subprocess.Popen[bytes], seconds: float, *, beside: subprocess.Popen[bytes] | None = None
) -> tuple[bytes, bytes, str]:
    """Read what a process prints until it ends or has to be ended: output, errors and what was too much."""
    deadline = time.monotonic() + seconds
    printed: dict[Any, bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    problem = ""
    with selectors.DefaultSelector() as selector:
        for stream in printed:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map() and not problem and (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, _LOOK)):
                data = os.read(key.fd, 1 << 16)
                printed[key.fileobj] += data
                if not data:
                    selector.unregister(key.fileobj)
            if any(len(text) > MAX_OUTPUT for text in printed.values()):
                problem = f"printed more than {MAX_OUTPUT} bytes"
            elif any(_threads(each) > MAX_THREADS for each in (process, beside) if each):
                problem = f"started more than {MAX_THREADS} threads"
        ended = not selector.get_map()
    _end(process, deadline - time.monotonic() if ended else 0.0)
    return bytes(printed[process.stdout]), bytes(printed[process.stderr]), problem


def _threads(process: subprocess.Popen[bytes]) -> int:
    """How many threads a process has, on Linux, where no limit of its own can be set."""
    try:
        return os.stat(f"/proc/{process.pid}/task").st_nlink - 2
    except OSError:
        return 0


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
        return f"ended by signal {-code} ({signal.strsignal(-code)})"
    return f"ended with exit code {code}" + (f" ({last[0]:.200})" if last else "")
