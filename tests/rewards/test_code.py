"""code: programs that pass, programs that fail, and programs that attack; what they may cost."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import REWARDS, Score
from rewards import sandbox as sandbox_module
from rewards.code import extract_program, same_output
from rewards.dialogue import decode, encode
from rewards.sandbox import Limits, Outcome, isolation, run_program

ROOT = Path(__file__).parents[2]
ADD = ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]
SUMS = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6", "output": "11"}]
RIGHT_ADD = "def add(a, b):\n    return a + b"
RIGHT_SUM = "a, b = map(int, input().split())\nprint(a + b)"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs run on Unix")


def score(program: str, tests: Any, **options: Any) -> Score:
    entry_point = options.pop("entry_point", None)
    return (
        REWARDS["code"]
        .with_options(**options)
        .scores(
            completions=[f"<think>r</think><answer>{program}</answer>"],
            tests=[tests],
            entry_point=[entry_point],
        )[0]
    )


# ---------------------------------------------------------------------- right and wrong programs


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT_ADD,
        f"```python\n{RIGHT_ADD}\n```",
        f"Here it is:\n\n```py\n{RIGHT_ADD}\n```\n\nIt adds. Output:\n```\n3\n```",
        f"```\n{RIGHT_ADD}\n```",
        f"{RIGHT_ADD}\nif __name__ == '__main__':\n    print(add(*map(int, input().split())))",
        "from operator import add",
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n" + RIGHT_ADD,
    ],
)
def test_a_right_function(answer: str) -> None:
    assert score(answer, ADD) == Score(1.0, "2 of 2 tests passed")


def test_a_right_program() -> None:
    assert score(RIGHT_SUM, SUMS) == Score(1.0, "2 of 2 tests passed")
    assert score("import sys\nprint(sum(map(int, sys.stdin.read().split())))\nsys.exit(0)", SUMS).value == 1.0


@pytest.mark.parametrize(
    ("program", "tests", "reason"),
    [
        ("def add(a, b):\n    return a - b", ADD, "0 of 2 tests passed: test 1 AssertionError"),
        ("print(3)", SUMS, "1 of 2 tests passed: test 2 printed '3', not '11'"),
        ("print(3)\n1 / 0", SUMS, "test 1 ended with exit code 1 (ZeroDivisionError: division by zero)"),
        ("def add(a, b) return a", ADD, "SyntaxError: expected ':' (main.py, line 1)"),
        ("x = 1", ADD, "the tests never called the program"),
        ("```python\nx\n```\n```python\ny\n```", ADD, "no program, or several"),
        ("```python\nx", ADD, "no program, or several"),
        ("```bash\nls\n```", ADD, "no program, or several"),
        ("", ADD, "no answer: answer_empty"),
        ("x" * 200_000, ADD, "no program, or several"),
    ],
)
def test_a_wrong_program(program: str, tests: Any, reason: str) -> None:
    said = score(program, tests)
    assert said.value == 0.0
    assert reason in said.reason


def test_partial_credit_is_the_share_of_tests() -> None:
    assert score("print(3)", SUMS, partial=True).value == 0.5
    wrong_once = "def add(a, b):\n    return 3 if a == 1 else 0"
    assert score(wrong_once, ADD, partial=True).value == 0.5
    assert score(wrong_once, ADD[::-1], partial=True).value == 0.5
    assert score(RIGHT_ADD, ADD, partial=True).value == 1.0


@pytest.mark.parametrize(
    "tests",
    [
        None,
        "",
        "   ",
        [],
        "assert add(",
        ["assert (", "x"],
        [{"input": "1"}],
        [1],
        5,
        [{"output": 3}],
        "# no",
    ],
)
def test_tests_that_cannot_be_read_are_an_abstention(tests: Any) -> None:
    assert score(RIGHT_ADD, tests).value is None


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("assert apply(lambda x: x) == 1", "an object of type function"),
        ("import no_such_module\nassert apply(1) == 1", "there is no module no_such_module"),
    ],
)
def test_tests_that_cannot_be_run_are_an_abstention(tests: str, reason: str) -> None:
    said = score("def apply(f):\n    return 1", tests)
    assert said.value is None
    assert reason in said.reason


@pytest.mark.parametrize(
    ("program", "tests", "options"),
    [
        (
            "def f(x):\n    return x * x",
            "def check(candidate):\n    assert candidate(3) == 9",
            {"entry_point": "f"},
        ),
        ("def f(x):\n    return x * x", "from solution import f\ndef test_f():\n    assert f(3) == 9", {}),
        ("def f(x):\n    x.sort()", "x = [2, 1]\nf(x)\nassert x == [1, 2]", {}),
        ("def f(x):\n    x['a'] = 1", "x = {}\nf(x=x) or f(x)\nassert x == {'a': 1}", {}),
        (
            "def f():\n    i = 0\n    while True:\n        yield i\n        i += 1",
            "import itertools\nassert list(itertools.islice(f(), 3)) == [0, 1, 2]",
            {},
        ),
        (
            "def f(x):\n    raise ValueError('no')",
            "try:\n    f(1)\n    assert False\nexcept ValueError as e:\n    assert str(e) == 'no'",
            {},
        ),
        (
            "class S:\n    def __init__(s):\n        s.a = []\n    def push(s, x):\n        s.a.append(x)\n"
            "    def __len__(s):\n        return len(s.a)\n    def __eq__(s, o):\n        return s.a == o.a",
            "s, t = S(), S()\nassert s == t\ns.push(3)\nassert len(s) == 1 and s.a == [3] and s != t\n"
            "assert isinstance(s, S)",
            {},
        ),
        ("def f(x):\n    return 2.5", "assert math.isclose(f(1), 2.5)\nassert abs(f(1) - 2.5) < 1e-9", {}),
        (
            "def f():\n    return ({1: (2, None)}, {3}, 10**400, b'x', 1 + 2j, '\\ud800', True)",
            "assert f() == ({1: (2, None)}, {3}, 10**400, b'x', 1 + 2j, '\\ud800', True)",
            {},
        ),
        (
            "from collections import Counter\ndef f(x):\n    return Counter(x)",
            "assert f('aab') == {'a': 2, 'b': 1}",
            {},
        ),
        (
            "def f(x):\n    return iter(x)",
            "assert list(f([1, 2])) == [1, 2]\nassert next(f([3])) == 3\nassert 4 in f([4])",
            {},
        ),
    ],
)
def test_what_tests_can_do(program: str, tests: str, options: dict[str, Any]) -> None:
    assert score(program, tests, **options) == Score(1.0, "1 of 1 tests passed")


# ---------------------------------------------------------------------- attacks

EQUAL_TO_ALL = """
class E:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __getattr__(self, name): return lambda *a: True
    def __sub__(self, other): return 0
    def __abs__(self): return 0
    def __lt__(self, other): return True
    def __contains__(self, other): return True
    def __bool__(self): return True
    def __hash__(self): return 0
    def __iter__(self): return iter([E()])
"""
FUNCTIONS_TO_ATTACK = [
    *ADD,
    "assert abs(add(1, 2) - 3) < 1e-9",
    "assert 3 in [add(1, 2)]",
    "assert {3: 1}[add(1, 2)]",
]
IN_A_FUNCTION = "def add(a, b):\n    {}\n    return 0"
ATTACKS = {
    "leave": "import sys; sys.exit(0)",
    "leave at once": "import os; os._exit(0)",
    "leave when called": IN_A_FUNCTION.format("import os; os._exit(0)"),
    "exit when called": IN_A_FUNCTION.format("raise SystemExit(0)"),
    "interrupt": IN_A_FUNCTION.format("raise KeyboardInterrupt"),
    "kill itself": IN_A_FUNCTION.format("import os; os.kill(os.getpid(), 9)"),
    "print a marker": "print('2 of 2 tests passed')\nprint('{\"failed\": [], \"calls\": 2, \"gone\": \"\"}')",
    "write to all descriptors": IN_A_FUNCTION.format(
        "import os\n    for d in range(3, 64):\n        try: os.write(d, b'{\"value\": true}\\n' * 9)\n"
        "        except OSError: pass"
    ),
    "equal to all": EQUAL_TO_ALL + "def add(a, b): return E()",
    "equal number": "class E(int):\n    __eq__ = lambda s, o: True\n    __sub__ = lambda s, o: 0\n"
    "    __hash__ = int.__hash__\n"
    "def add(a, b): return E(7)",
    "patch builtins": "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.abs = lambda x: 0\n"
    "def add(a, b): return 7",
    "replace builtins": "def abs(x): return 0\ndef isinstance(*a): return True\ndef add(a, b): return 7",
    "patch the tests": IN_A_FUNCTION.format(
        "import sys, gc\n    for f in list(sys._current_frames().values()):\n        f.f_globals.clear()"
    ),
    "answer what is no value": IN_A_FUNCTION.format("import json; json.dumps = lambda *a, **k: '[' * 100000"),
    "a huge answer": IN_A_FUNCTION.format("return 'x' * (1 << 25)"),
    "deep answer": "def add(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "raise the error of a passed test": IN_A_FUNCTION.format("raise StopIteration"),
    "run for ever": IN_A_FUNCTION.format("while True: pass"),
    "run for ever at once": "while True: pass",
    "sleep": IN_A_FUNCTION.format("import time; time.sleep(60)"),
    "ignore signals": "import signal\nfor s in range(1, 30):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except OSError: pass\nwhile True: pass",
    "threads for ever": "import threading\n"
    "for _ in range(99): threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()",
    "50 GiB": IN_A_FUNCTION.format("return len(bytearray(50 << 30))"),
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: raise SystemExit",
    "fork bomb when called": IN_A_FUNCTION.format("import os\n    while True: os.fork()"),
    "kill the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n",
    # This one would pass if the signal went out; it hurts nobody.
    "kill all":
    "import os, signal\nos.kill(-1, signal.SIGCONT)\ndef add(a, b): return a + b",
    "kill the group": "import os, signal\nos.killpg(os.getpgid(os.getppid()), signal.SIGKILL)\n",
    "a shell": "import os\nos.system('kill -9 $PPID')\nos.execvp('true', ['true'])",
    "a program": "import subprocess\nsubprocess.run(['true'], check=True)",
    "recursion": IN_A_FUNCTION.format("import sys; sys.setrecursionlimit(10**9); add(a, b)"),
    "crash": IN_A_FUNCTION.format("import ctypes; ctypes.string_at(0)"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _isolation_is_known() -> None:
    isolation()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_function_tests_earns_nothing_in_time(name: str) -> None:
    start = time.perf_counter()
    for tests in (FUNCTIONS_TO_ATTACK, "\n".join(FUNCTIONS_TO_ATTACK)):
        assert score(ATTACKS[name], tests, total_seconds=0.7, memory_mib=512).value == 0.0, name
    assert time.perf_counter() - start < 4
    assert score(RIGHT_ADD, ADD).value == 1.0


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_on_output_tests_earns_nothing_in_time(name: str) -> None:
    start = time.perf_counter()
    program = f"{ATTACKS[name]}\nadd(1, 2)"
    assert score(program, SUMS, test_seconds=0.7, memory_mib=512).value == 0.0
    assert time.perf_counter() - start < 3
    assert score(RIGHT_SUM, SUMS).value == 1.0


def test_attacks_from_worker_threads() -> None:
    found: dict[str, float | None] = {}

    def work(name: str) -> None:
        found[name] = score(ATTACKS[name], ADD, total_seconds=0.7).value
        found[f"{name}, then right"] = score(RIGHT_ADD, ADD).value

    names = ["run for ever", "leave at once", "50 GiB", "fork bomb"]
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == {n: 0.0 for n in names} | {f"{n}, then right": 1.0 for n in names}


def test_a_flood_of_output_is_cut() -> None:
    start = time.perf_counter()
    said = score("while True: print('3' * 1000)", SUMS)
    assert (said.value, "printed more than" in said.reason) == (0.0, True)
    assert time.perf_counter() - start < 4


# What a program may reach, by the kernel's means where there are some, and by the hook alone.

REACH = {
    "the caller's files": "print(open({secret!r}).read())",
    "the caller's environment": "import os\nprint(open(f'/proc/{{os.getppid()}}/environ').read())",
    "the caller's memory": "import os\nprint(open(f'/proc/{{os.getppid()}}/mem', 'rb'))",
    "a socket": "import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=1)",
    "a datagram": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port}))",
    "a file": "open('made', 'w').write('x')",
    "a file elsewhere": "open({made!r}, 'w').write('x')",
    "a big file": "f = open('made', 'wb')\nfor _ in range(10**4): f.write(bytes(1 << 20))",
    "removal": "import os\nos.remove({secret!r})",
    "a folder": "import os\nos.mkdir('made')",
    "a process": "import os\nos.fork()",
    "a program": "import os\nos.execv('/bin/true', ['true'])",
    "a signal": "import os\nos.kill(os.getppid(), 0)",
}


@pytest.fixture
def world(tmp_path: Path) -> Any:
    """A file and a server that a program should not reach."""
    secret = tmp_path / "tests.txt"
    secret.write_text("the expected output")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield {"secret": str(secret), "made": str(tmp_path / "made"), "port": server.getsockname()[1]}
        with pytest.raises(TimeoutError):
            server.accept()
    assert [path.name for path in tmp_path.iterdir()] == ["tests.txt"]


@pytest.mark.parametrize("hook_only", [False, True])
@pytest.mark.parametrize("name", REACH)
def test_a_program_reaches_nothing(name: str, hook_only: bool, world: dict[str, Any]) -> None:
    program = f"{REACH[name].format(**world)}\nprint('reached')"
    outcome = run_program(program, "", Limits(3, 512, hook_only))
    assert "reached" not in outcome.output
    assert "expected" not in outcome.output
    assert "PermissionError" in outcome.problem


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's means are those of Linux")
def test_the_kernel_holds_without_the_interpreter() -> None:
    if not all(isolation().values()):
        pytest.skip(f"this kernel offers only {isolation()}")
    calls = "import ctypes, os\nc = ctypes.CDLL(None, use_errno=True)\n"
    for call in ("fork()", "socket(2, 1, 0)", "kill(os.getppid(), 0)", "ptrace(16, os.getppid(), 0, 0)",
                 "unshare(0x10000000)", "memfd_create(b'x', 0)", "shmget(0, 1 << 20, 0o1600)",
                 "open(b'/etc/passwd', 0)", "syscall(435, 0, 0)", "syscall(425, 8, bytes(200))"):  # fmt: skip
        outcome = run_program(f"{calls}print(c.{call}, ctypes.get_errno())", "", Limits(3, 512))
        result, number = outcome.output.split()
        assert (result, int(number) in (1, 13, 38)) == ("-1", True), (call, outcome)


@pytest.mark.parametrize("hook_only", [False, True])
def test_a_program_may_compute(hook_only: bool) -> None:
    program = (
        "import asyncio, collections, decimal, heapq, random, re, sys, threading\n"
        "async def one(): return 1\n"
        "threading.stack_size(1 << 26)\n"
        "sys.setrecursionlimit(10**5)\n"
        "def deep(n): return n and 1 + deep(n - 1)\n"
        "thread = threading.Thread(target=lambda: print(deep(20000)))\n"
        "thread.start(); thread.join()\n"
        "print(asyncio.run(one()), open(0).read(), __name__)"
    )
    outcome = run_program(program, "given", Limits(5, 1024, hook_only))
    assert outcome == Outcome("20000\n1 given __main__\n", "")


def test_a_hook_alone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from rewards import code

    monkeypatch.setattr(code, "isolation", lambda: {"seccomp": True, "landlock": False})
    code._weakness.cache_clear()
    try:
        said = score(RIGHT_ADD, ADD)
    finally:
        code._weakness.cache_clear()
    assert said.reason == "2 of 2 tests passed (without landlock: network and files closed by a hook only)"


def test_where_no_program_can_run_it_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    isolation.cache_clear()
    monkeypatch.setattr(sandbox_module, "_CONFINE", "no_such_file.py")
    with pytest.raises(RuntimeError, match=r"no program can be run in a sandbox here: .*no_such_file"):
        isolation()


_RUNS_FOR_LONG = """
from rewards.sandbox import Limits, run_program
run_program("import time; time.sleep(99)", "", Limits(99, 512))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the signal at the parent's death is Linux'")
def test_no_program_outlives_its_caller() -> None:
    caller = subprocess.Popen(
        [sys.executable, "-c", _RUNS_FOR_LONG],
        cwd=ROOT,
    )
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


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    descriptors = len(os.listdir("/dev/fd"))
    for program in (RIGHT_ADD, "while True: pass", "import os; os._exit(3)"):
        score(program, ADD, total_seconds=0.3)
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/dev/fd")) == descriptors
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# ---------------------------------------------------------------------- the parts


@pytest.mark.parametrize(
    ("wanted", "printed", "same"),
    [
        ("3\n", "3", True),
        ("1 2\n3\n", "1 2  \n3\n\n", True),
        ("0.50\n", "0.5", True),
        ("0.5", "0.51", False),
        ("3", "3.0", False),
        ("1 2", "12", False),
        ("1\n2", "1 2", False),
        ("a", "A", False),
        ("", "", True),
        ("", "x", False),
        ("1.5 x", "1.50  x", True),
    ],
)
def test_same_output(wanted: str, printed: str, same: bool) -> None:
    assert same_output(wanted=wanted, printed=printed) is same


def test_a_program_of_fences_alone_is_read_in_linear_time() -> None:
    start = time.perf_counter()
    assert extract_program("```x\n" * 20_000) is None
    assert time.perf_counter() - start < 1


plain_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.fractions(),
    lambda part: st.lists(part) | st.tuples(part, part) | st.dictionaries(st.text() | st.integers(), part),
    max_leaves=10,
)


@given(plain_data)
def test_plain_data_comes_back_as_it_went(value: Any) -> None:
    def refuse(item: Any) -> Any:
        raise AssertionError(item)

    message = json.loads(json.dumps(encode(value, refuse)))
    back = decode(message, refuse)
    assert back == value
    assert type(back) is type(value)
