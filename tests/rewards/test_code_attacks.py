"""code: programs that try to earn what they have not solved, or to outlast their limits."""

import sys
import threading
import time

import pytest
from programs import ADD, RIGHT_ADD, RIGHT_SUM, SUMS, score

from rewards import WorkerPool
from rewards.sandbox import isolation

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs run on Unix")

EQUAL_TO_ALL = """
class E:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __getattr__(self, name): return lambda *a: True
    def __sub__(self, other): return 0
    def __mul__(self, other): return 3
    def __abs__(self): return 0
    def __lt__(self, other): return True
    def __contains__(self, other): return True
    def __bool__(self): return True
    def __hash__(self): return hash(3)
    def __iter__(self): return iter([E()])
"""
# Each is tried alone: no attack may pass a single one.
FUNCTION_TESTS = [
    *ADD,
    "assert abs(add(1, 2) - 3) < 1e-9",
    "assert 3 in [add(1, 2)]",
    "assert {3: 1}[add(1, 2)]",
    "assert all(map(lambda case: add(*case[0]) == case[1], [((1, 2), 3)]))",
    "for got in map(add, [1], [2]):\n    assert got == 3",
    "import math\nfrom solution import *\nassert math.isclose(add(1, 2), 3)",
    "from solution import *\nassert sorted([add(1, 2), 9]) == [3, 9]",
    "def test_add():\n    assert [3] == list(map(add, [1], [2]))",
    "import unittest\nclass T(unittest.TestCase):\n"
    "    def test_add(self):\n        self.assertAlmostEqual(add(1, 2), 3)\n"
    "if __name__ == '__main__':\n    print(__file__, __spec__)",
]
IN_A_FUNCTION = "def add(a, b):\n    {}\n    return 0"
# What follows these lines would pass: they have to fail.
THEN_RIGHT = "\ndef add(a, b): return a + b"
ATTACKS = {
    "leave": "import sys; sys.exit(0)",
    "leave at once": "import os; os._exit(0)",
    "leave when called": IN_A_FUNCTION.format("import os; os._exit(0)"),
    "exit when called": IN_A_FUNCTION.format("raise SystemExit(0)"),
    "interrupt": IN_A_FUNCTION.format("raise KeyboardInterrupt"),
    "kill itself": IN_A_FUNCTION.format("import os; os.kill(os.getpid(), 9)"),
    "kill itself by a signal without a name": IN_A_FUNCTION.format("import os; os.kill(os.getpid(), 40)"),
    "print a marker": "print('2 of 2 tests passed')\nprint('{\"broken\": \"\", \"calls\": 2}')",
    "write to all descriptors": IN_A_FUNCTION.format(
        "import os\n    for d in range(3, 64):\n        try: os.write(d, b'{\"value\": true}\\n' * 9)\n"
        "        except OSError: pass"
    ),
    "answer before it is asked": "import os\nfor d in range(3, 64):\n    try:\n"
    '        os.write(d, b\'{"names": {"add": 0, "abs": 0, "sorted": 0}, "errors": []}\\n\')\n'
    "        os.write(d, b'{\"value\": true, \"arguments\": []}\\n' * 99)\n    except OSError: pass",
    "answer with an error of no kind": "import os\nfor d in range(3, 64):\n    try:\n"
    '        os.write(d, b\'{"names": {"add": 0}, "errors": [["E", ["E", "StopIteration"]]]}\\n\')\n'
    '        os.write(d, b\'{"error": {"kinds": ["E"], "said": "", "arguments": []}}\\n\' * 99)\n'
    "    except OSError: pass",
    "equal to all": EQUAL_TO_ALL + "def add(a, b): return E()",
    "equal number": "class E(int):\n    __eq__ = lambda s, o: True\n    __sub__ = lambda s, o: 0\n"
    "    __hash__ = int.__hash__\n"
    "def add(a, b): return E(7)",
    "no number": "def add(a, b): return float('nan')",
    "no number, signalling": "from decimal import Decimal\ndef add(a, b): return Decimal('sNaN')",
    "patch builtins": "import builtins\nbuiltins.AssertionError = Exception\nbuiltins.abs = lambda x: 0\n"
    "def add(a, b): return 7",
    "replace builtins and modules": "def abs(x): return 0\ndef isinstance(*a): return True\n"
    "def sorted(x): return [3, 9]\nclass math:\n    def isclose(*a): return True\ndef add(a, b): return 7",
    "names of modules": EQUAL_TO_ALL.replace("return True", "return False")
    + "E.__call__ = lambda *a: 7\n__name__ = __file__ = __spec__ = E()\ndef add(a, b): return 7",
    "an error for a function": "class add(Exception): pass",
    "patch the tests": IN_A_FUNCTION.format(
        "import sys, gc\n    for f in list(sys._current_frames().values()):\n        f.f_globals.clear()"
    ),
    "answer what is no value": IN_A_FUNCTION.format("import json; json.dumps = lambda *a, **k: '[' * 100000"),
    "a huge answer": IN_A_FUNCTION.format("return 'x' * (1 << 25)"),
    "deep answer": "def add(a, b):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "end the loop of the tests": IN_A_FUNCTION.format("raise StopIteration"),
    "end the loop by an error of its own": "class E(StopIteration): pass\ndef add(a, b): raise E",
    "50 GiB": IN_A_FUNCTION.format("return len(bytearray(50 << 30))"),
    "fork": "import os\nfor _ in range(9):\n    if os.fork() == 0: os._exit(0)" + THEN_RIGHT,
    "fork when called": "import os\ndef add(a, b):\n    if os.fork() == 0: os._exit(0)\n    return a + b",
    # Signals that hurt nobody, should they go out.
    "signal the parent": "import os, signal\nos.kill(os.getppid(), signal.SIGCONT)" + THEN_RIGHT,
    "signal all": "import os, signal\nos.kill(-1, signal.SIGCONT)" + THEN_RIGHT,
    "signal the group":
    "import os, signal\nos.killpg(os.getpgid(os.getppid()), signal.SIGCONT)" + THEN_RIGHT,
    "a shell": "import os\nos.system('true')\nos.execvp('true', ['true'])",
    "a program": "import subprocess\nsubprocess.run(['true'], check=True)" + THEN_RIGHT,
    "crash": IN_A_FUNCTION.format("import ctypes; ctypes.string_at(0)"),
}  # fmt: skip
ENDLESS = {
    "run for ever": IN_A_FUNCTION.format("while True: pass"),
    "run for ever at once": "while True: pass",
    "sleep": IN_A_FUNCTION.format("import time; time.sleep(60)"),
    "stop itself": "import signal\nsignal.raise_signal(signal.SIGSTOP)",
    "ignore signals": "import signal\nfor s in range(1, 30):\n    try: signal.signal(s, signal.SIG_IGN)\n"
    "    except OSError: pass\nwhile True: pass",
    "threads for ever": "import threading\n"
    "for _ in range(99): threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "recursion": IN_A_FUNCTION.format("import sys; sys.setrecursionlimit(10**9); add(a, b)"),
    # The tests would be busy with it, not the program.
    "numbers of one hash": "def add(a, b): return {i * (2**61 - 1) for i in range(99999)}",
    "a range of all": "def add(a, b): return range(1 << 60)",
}
OUTPUT_ATTACKS = {
    "leave": "import sys; sys.exit(0)",
    "the output of the other test": "print(3)",
    "all outputs": "print(3)\nprint(11)",
    "right, then an error": f"{RIGHT_SUM}\n1 / 0",
    "right, then a signal without a name": f"{RIGHT_SUM}\nimport os; os.kill(os.getpid(), 40)",
    "read the tests": "import gc\nprint([x for x in gc.get_objects() if isinstance(x, str)])",
    "run for ever": "while True: pass",
    "run on, unseen": "import os\nos.close(1); os.close(2)\nwhile True: pass",
    "memory bit by bit": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "a flood of output": "while True: print('3' * 1000)",
    "a flood of errors": "import sys\nwhile True: print('3' * 1000, file=sys.stderr)",
    "slow to compile": "x = " + "(" * 90 + "-" * 20000 + "1" + ")" * 90,
}


@pytest.fixture(scope="module", autouse=True)
def _isolation_is_known() -> None:
    isolation()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_passes_no_test_of_a_function(name: str) -> None:
    said = score(ATTACKS[name], FUNCTION_TESTS, partial=True, total_seconds=3, memory_mib=512)
    assert said.value == 0.0, said


@pytest.mark.parametrize("name", ENDLESS)
def test_a_program_without_end_passes_no_test_of_a_function_in_time(name: str) -> None:
    start = time.perf_counter()
    said = score(ENDLESS[name], FUNCTION_TESTS, partial=True, total_seconds=0.5, memory_mib=512)
    assert said.value == 0.0, said
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("name", OUTPUT_ATTACKS)
def test_an_attack_on_output_tests_earns_nothing_in_time(name: str) -> None:
    start = time.perf_counter()
    said = score(OUTPUT_ATTACKS[name], SUMS, test_seconds=0.6, memory_mib=512)
    assert said.value == 0.0, said
    assert time.perf_counter() - start < 3


def test_attacks_from_worker_threads() -> None:
    found: dict[str, float | None] = {}

    def work(name: str) -> None:
        found[name] = score((ATTACKS | ENDLESS)[name], ADD, total_seconds=0.7).value
        found[f"{name}, then right"] = score(RIGHT_ADD, ADD).value

    names = ["run for ever", "leave at once", "50 GiB", "fork"]
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert found == {n: 0.0 for n in names} | {f"{n}, then right": 1.0 for n in names}


def test_attacks_in_a_worker_are_no_failures_of_the_reward() -> None:
    names = ["run for ever", "kill itself by a signal without a name", "signal the group"]
    programs = [(ATTACKS | ENDLESS)[name] for name in names] + [RIGHT_ADD]
    with WorkerPool(1) as pool:
        scores = pool.reward("code", {"total_seconds": 0.5}).scores(
            completions=[f"<think>r</think><answer>{program}</answer>" for program in programs],
            tests=[ADD] * len(programs),
        )
    assert [(score.value, score.failed) for score in scores] == [(0.0, False)] * 3 + [(1.0, False)]
