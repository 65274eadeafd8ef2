"""The sandbox: what a program can reach, what it may cost, and what is left of it."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from programs import ADD, RIGHT_ADD, needs, score

from rewards import confine, sandbox
from rewards.sandbox import Limits, Outcome, isolation, run_program, run_tests

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs run on Unix")
linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's means are those of Linux")

# What a program may not reach, by the kernel's means where there are some, and by the hook alone.
REACH = {
    "the caller's files": "print(open({secret!r}).read())",
    "files by a name that starts as a readable one's": "import sys\nopen(sys.prefix + '/lib-of-others')",
    "files by a way up": "import sys\nprint(open(sys.prefix + '/lib/../../..' + {secret!r}).read())",
    "the names of the caller's files": "import os\nprint(os.listdir({folder!r}))",
    "the caller's environment": "import os\nprint(open(f'/proc/{{os.getppid()}}/environ').read())",
    "the caller's memory": "import os\nprint(open(f'/proc/{{os.getppid()}}/mem', 'rb'))",
    "a socket": "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)",
    "a datagram": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "a datagram of a pair": "import socket\na, b = socket.socketpair(type=socket.SOCK_DGRAM)\n"
    "a.sendto(b'x', {mailbox!r})",
    "a file": "open('made', 'w').write('x')",
    "a file elsewhere": "open({made!r}, 'w').write('x')",
    "a big file": "f = open('made', 'wb')\nfor _ in range(10**4): f.write(bytes(1 << 20))",
    "removal": "import os\nos.remove({secret!r})",
    "rights": "import os\nos.chmod({secret!r}, 0)",
    "an owner": "import os\nos.chown({secret!r}, os.getuid(), os.getgid())",
    "times": "import os\nos.utime({secret!r}, (5, 5))",
    "attributes": "import os\nos.setxattr({secret!r}, 'user.kept', b'x')",
    "a folder": "import os\nos.mkdir('made')",
    "a process": "import os\nos.fork()",
    "a program": "import os\nos.execv('/bin/true', ['true'])",
    "a signal": "import os\nos.kill(os.getppid(), 0)",
    "a signal of a file": "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
}


@pytest.fixture
def world(tmp_path: Path) -> Any:
    """A file, a server and a mailbox that a program should not reach."""
    secret = tmp_path / "tests.txt"
    secret.write_text("the expected output")
    before = secret.stat()
    mailbox = tmp_path / "mailbox"
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as m,
    ):
        m.bind(str(mailbox))
        yield {
            "secret": str(secret),
            "folder": str(tmp_path),
            "mailbox": str(mailbox),
            "made": str(tmp_path / "made"),
            "port": server.getsockname()[1],
        }
        for waiting in (server.accept, lambda: m.recv(1)):
            server.setblocking(False)
            m.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mailbox", "tests.txt"]
    after = secret.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_size) == (
        before.st_mode,
        before.st_mtime_ns,
        before.st_size,
    )
    if hasattr(os, "listxattr"):
        assert "user.kept" not in os.listxattr(secret)


@pytest.mark.parametrize("hook_only", [False, True])
@pytest.mark.parametrize("name", REACH)
def test_a_program_reaches_nothing(name: str, hook_only: bool, world: dict[str, Any]) -> None:
    if name == "attributes" and not hasattr(os, "setxattr"):
        pytest.skip("there are no such attributes here")
    program = f"{REACH[name].format(**world)}\nprint('reached')"
    outcome = run_program(program, "", Limits(3, 512, hook_only))
    assert "reached" not in outcome.output
    assert "expected" not in outcome.output
    assert "PermissionError" in outcome.problem or "FileNotFoundError" in outcome.problem


# Ways around a hook of the interpreter that need no more than names.
AROUND = {
    "names of modules": "import os\nos.path.realpath = os.path.join = lambda *a, **k: '/usr/lib/x'\n",
    "builtins": "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.type = lambda x: int\n"
    "builtins.str = builtins.bytes = builtins.PermissionError = lambda *a: 'x'\n",
    "names of the sandbox": "import sys\nnames = sys._getframe(1).f_globals\n"
    "names['_REFUSED_EVENTS'] = names['_readable'] = ()\nnames['_WRITING'] = 0\n",
    "a path that changes": "class Path:\n    said = iter(['main.py', {secret!r}, {secret!r}])\n"
    "    def __fspath__(self): return next(self.said)\nimport os\nos.open(Path(), 0)\n",
    "a path as a list": "class Path(str):\n    def startswith(self, *a): return True\n"
    "print(open(Path({secret!r})).read())\n",
    "a data base": "import sqlite3\nsqlite3.connect({made!r})\n",
}


@pytest.mark.parametrize("name", AROUND)
def test_the_hook_holds_against_other_names(name: str, world: dict[str, Any]) -> None:
    program = f"{AROUND[name].format(**world)}print(open({world['secret']!r}).read())\nprint('reached')"
    outcome = run_program(program, "", Limits(3, 512, hook_only=True))
    assert outcome.output == ""
    assert outcome.problem


def test_the_hook_refuses_an_interpreter_without_it() -> None:
    program = (
        "import sys\n"
        "name = '_interpreters' if sys.version_info >= (3, 13) else '_xxsubinterpreters'\n"
        "__import__(name).create()\nprint('reached')"
    )
    outcome = run_program(program, "", Limits(3, 512, hook_only=True))
    assert (outcome.output, "refused: _" in outcome.problem) == ("", True)


@linux
def test_the_kernel_holds_without_the_interpreter(tmp_path: Path) -> None:
    if not all(isolation().values()):
        pytest.skip(f"this kernel offers only {isolation()}")
    (tmp_path / "file").touch()
    own = str(tmp_path / "file").encode()
    calls = "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\n"
    for call in ("fork()", "socket(2, 1, 0)", "kill(os.getppid(), 0)", "ptrace(16, os.getppid(), 0, 0)",
                 "unshare(0x10000000)", "memfd_create(b'x', 0)", "shmget(0, 1 << 20, 0o1600)",
                 "shmctl(0, 2, 0)", "msgget(0, 0o1600)", "mq_open(b'/none', 0o102, 0o600, 0)",
                 "open(b'/etc/passwd', 0)", f"chmod({own}, 0o600)", f"utimes({own}, 0)",
                 f"setxattr({own}, b'user.x', b'x', 1, 0)", "prctl(1, 0, 0, 0, 0)",
                 "fallocate(0, 1, ctypes.c_long(0), ctypes.c_long(9))",
                 "sched_setaffinity(os.getppid(), 128, bytes(128))",
                 "syscall(437, -100, b'/etc/passwd', bytes(24), 24)", "syscall(447, 0)",
                 "syscall(435, 0, 0)", "syscall(425, 8, bytes(200))"):  # fmt: skip
        outcome = run_program(f"{calls}print(c.{call}, ctypes.get_errno())", "", Limits(3, 512))
        result, number = outcome.output.split()
        assert (result, int(number) in (1, 13, 38)) == ("-1", True), (call, outcome)


def decided(code: bytes, architecture: int, number: int, *arguments: int) -> int:
    """What a BPF program returns for a system call; the instructions that `confine` uses, by the manual."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("HBBI", code))
    at = loaded = 0
    while True:
        kind, if_true, if_false, operand = instructions[at]
        at += 1
        if kind == 0x06:
            return int(operand)
        if kind == 0x20:
            (loaded,) = struct.unpack_from("=I", data, operand)
        else:
            holds = {0x15: loaded == operand, 0x35: loaded >= operand, 0x45: bool(loaded & operand)}[kind]
            at += if_true if holds else if_false


@pytest.mark.skipif(sys.byteorder != "little", reason="filters are made for two machines")
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_of_both_machines(machine: str) -> None:
    column, architecture = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}[machine]
    allowed, refused, missing, own = 0x7FFF0000, 0x00050001, 0x00050026, os.getpid()
    code = confine._filter(column, architecture, may_write=False)

    def says(numbers: tuple[int, int], *arguments: int) -> int:
        return decided(code, architecture, numbers[column], *arguments)

    for _, *numbers in confine._REFUSED:
        assert numbers[column] is None or decided(code, architecture, numbers[column]) == refused
    assert {says(same) for same in ((0, 63), (1, 64), (9, 222), (202, 98), (318, 278))} == {allowed}
    assert says((435, 435)) == says((442, 442)) == says((0x40000001, 0x40000001)) == missing
    assert decided(code, 0x40000003, 1) == refused  # i386
    clone, kill, tgkill, pair, fcntl, ioctl, openat = (
        (56, 220), (62, 129), (234, 131), (53, 199), (72, 25), (16, 29), (257, 56),
    )  # fmt: skip
    assert (says(clone, 0x3D0F00), says(clone, 0x11)) == (allowed, refused)
    assert (says(kill, own, 9), says(kill, own + 1, 9), says(kill, 0xFFFFFFFF, 9)) == (
        allowed,
        refused,
        refused,
    )
    assert (says(tgkill, own), says(tgkill, 1)) == (allowed, refused)
    assert (says(pair, 1, 1), says(pair, 1, 0x80801), says(pair, 1, 0x802)) == (allowed, allowed, refused)
    assert [says(fcntl, 0, command) for command in (1, 3, 8, 10, 15)] == [allowed] * 2 + [refused] * 3
    assert [says(ioctl, 0, command) for command in (0x5401, 0x8901, 0x8902)] == [allowed, refused, refused]
    assert [says(openat, 0, 0, flags) for flags in (0o2000000, 1, 2, 0o100)] == [allowed] + [refused] * 3
    code = confine._filter(column, architecture, may_write=True)
    assert says(openat, 0, 0, 1) == allowed


@pytest.mark.parametrize("hook_only", [False, True])
def test_a_program_may_compute(hook_only: bool) -> None:
    program = (
        "import asyncio, collections, decimal, heapq, os, random, re, signal, sys, threading\n"
        "async def one(): return 1\n"
        "threading.stack_size(1 << 26)\n"
        "sys.setrecursionlimit(10**5)\n"
        "def deep(n): return n and 1 + deep(n - 1)\n"
        "thread = threading.Thread(target=lambda: print(deep(20000)))\n"
        "thread.start(); thread.join()\n"
        "print(asyncio.run(one()), open('/dev/stdin').read(), open(0).read(), __name__, sys.argv)\n"
        "print(len(open('main.py').read()) > 99, os.listdir(), random.random() < 1)\n"
        "print(len(str(10**9999)))"
    )
    outcome = run_program(program, "given", Limits(5, 1024, hook_only))
    assert outcome.problem == ""
    first, second, third, fourth = outcome.output.splitlines()
    assert first == "20000"
    assert second.split() in (["1", "given", "given", "__main__", "['main.py']"],  # opened anew, on Linux
                              ["1", "given", "__main__", "['main.py']"])  # fmt: skip
    assert (third, fourth) == ("True ['main.py'] True", "10000")


def test_arrays_work_where_they_are_installed() -> None:
    needs("numpy")
    program = "import numpy as np\nprint((np.ones((99, 99)) @ np.ones(99)).sum())"
    assert run_program(program, "", Limits(9, 1024)) == Outcome("9801.0\n", "")


@linux
def test_threads_are_counted() -> None:
    program = (
        "import threading, time\nthreading.stack_size(1 << 15)\n"
        "for _ in range(500): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()\n"
        "time.sleep(9)"
    )
    start = time.perf_counter()
    assert run_program(program, "", Limits(8, 1024)).problem == "started more than 256 threads"
    verdict = run_tests(program, ADD, None, Limits(8, 1024))
    assert (verdict.results, verdict.broken) == ([], "started more than 256 threads")
    assert time.perf_counter() - start < 6


def test_its_input_is_no_place_to_write() -> None:
    with sandbox._readable(b"given") as file:
        assert os.read(file.fileno(), 9) == b"given"
        assert not os.path.exists(file.name)
        with pytest.raises(OSError, match="descriptor"):
            os.write(file.fileno(), b"x")


def test_a_signal_without_a_name_is_a_problem_too() -> None:
    assert sandbox._problem(-40, b"", Limits(1, 1)).startswith("ended by signal 40")


def test_where_no_program_can_run_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    isolation.cache_clear()
    monkeypatch.setattr(sandbox, "_CONFINE", "no_such_file.py")
    with pytest.raises(RuntimeError, match=r"no program can be run in a sandbox here: .*no_such_file"):
        isolation()


_RUNS_FOR_LONG = """
from rewards.sandbox import Limits, run_program
run_program("import time; time.sleep(99)", "", Limits(99, 512))
"""


@linux
def test_no_program_outlives_its_caller(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    caller = subprocess.Popen([sys.executable, "-c", _RUNS_FOR_LONG], cwd=ROOT, env=environment)
    children = Path(f"/proc/{caller.pid}/task/{caller.pid}/children")
    program = _until(lambda: children.read_text().split())[0]
    _until(lambda: "S" in _state(program) and b"confine.py" in Path(f"/proc/{program}/cmdline").read_bytes())
    time.sleep(0.3)  # it has to be past its first lines
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    _until(lambda: _state(program) in ("", "Z"))


def _until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not happen within 10 s")


def _state(process: str) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _sandboxed() -> set[int]:
    """The processes of sandboxes that this one has started and that have not been waited for."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = status.read_text().rpartition(")")[2].split()[1]
            command = (status.parent / "cmdline").read_bytes()
            zombie = status.read_text().rpartition(")")[2].split()[0] == "Z"
            if int(parent) == os.getpid() and (b"confine.py" in command or zombie):
                found.add(int(status.parent.name))
    return found


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    descriptors, before = len(os.listdir("/dev/fd")), _sandboxed()
    for program in (RIGHT_ADD, "while True: pass", "import os; os._exit(3)"):
        score(program, ADD, total_seconds=0.3)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/dev/fd")) == descriptors
    assert _sandboxed() <= before


def test_nothing_is_left_behind_when_scoring_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    descriptors, before = len(os.listdir("/dev/fd")), _sandboxed()
    monkeypatch.setattr(sandbox, "_watch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_tests("while True: pass", ADD, None, Limits(9, 512))
    started = sandbox._running

    def none_for_tests(role: str, *arguments: Any, **named: Any) -> Any:
        if role == "testing":
            raise OSError("no more processes")
        return started(role, *arguments, **named)

    monkeypatch.setattr(sandbox, "_running", none_for_tests)
    with pytest.raises(OSError, match="no more processes"):
        run_tests("while True: pass", ADD, None, Limits(9, 512))
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/dev/fd")) == descriptors
    assert _sandboxed() <= before


def test_libraries_of_the_interpreter_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/no/such/folder")
    monkeypatch.setenv("SECRET", "x")
    outcome = run_program("import json, os\nprint(json.dumps(dict(os.environ)))", "", Limits(5, 512))
    assert json.loads(outcome.output)["LD_LIBRARY_PATH"] == "/no/such/folder"
    assert "SECRET" not in outcome.output
