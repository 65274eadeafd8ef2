"""code: which answers and tests are read, what passes and what fails. Attacks are in test_code_attacks."""

import sys
import time
from typing import Any

import pytest
from programs import ADD, RIGHT_ADD, RIGHT_SUM, SUMS, needs, score

from rewards import code
from rewards.code import extract_program, same_output

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="programs run on Unix")


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
    said = score(answer, ADD)
    assert said.value == 1.0
    assert said.reason.startswith("2 of 2 tests passed")


def test_a_right_program() -> None:
    assert score(RIGHT_SUM, SUMS).value == 1.0
    assert score("import sys\nprint(sum(map(int, sys.stdin.read().split())))\nsys.exit(0)", SUMS).value == 1.0


@pytest.mark.parametrize(
    ("program", "tests", "reason"),
    [
        ("def add(a, b):\n    return a - b", ADD, "0 of 2 tests passed: test 1 AssertionError"),
        ("print(3)", SUMS, "1 of 2 tests passed: test 2 printed '3', not '11'"),
        ("print(3)\n1 / 0", SUMS, "test 1 ended with exit code 1 (ZeroDivisionError: division by zero)"),
        ("def add(a, b) return a", ADD, "SyntaxError: expected ':' (main.py, line 1)"),
        ("x = 1", ADD, "test 1 NameError: name 'add' is not defined"),
        ("x = 1", "import solution\nassert dir()", "the tests never called the program"),
        ("print(' 3')", [{"input": "", "output": "  3"}], "printed ' 3', not '  3'"),
        (
            "def add(a, b):\n    raise ValueError('\\ud800\\x1b[31m')",
            ADD,
            r"test 1 ValueError: \ud800\x1b[31m",
        ),
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


@pytest.mark.parametrize("end", ["while True: pass", "import os; os._exit(0)"])
def test_partial_credit_is_kept_when_a_test_ends_the_program(end: str) -> None:
    program = f"def add(a, b):\n    if a == 2:\n        {end}\n    return a + b"
    assert score(program, ADD, partial=True, total_seconds=0.7).value == 0.5
    assert score(program, ADD[::-1], partial=True, total_seconds=0.7).value == 0.0


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
        '[{"input": "1", "output": "2"}]',
    ],
)
def test_tests_that_cannot_be_read_are_an_abstention(tests: Any) -> None:
    assert score(RIGHT_ADD, tests).value is None


def test_an_entry_point_that_cannot_be_read_is_an_abstention() -> None:
    said = score(RIGHT_ADD, "def check(candidate):\n    candidate(1)", entry_point="add(")
    assert (said.value, said.reason) == (None, "the entry point cannot be read: 'add('")
    assert score(RIGHT_ADD, ADD, entry_point="").value == 1.0


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("assert apply(lambda x: x) == 1", "an object of type function"),
        ("import no_such_module\nassert apply(1) == 1", "there is no module no_such_module"),
        ("def test_it(server):\n    assert apply(1) == 1", "test_it: missing a required argument: 'server'"),
        ("async def test_it():\n    assert apply(1) == 1", "test_it is async"),
        ("import pytest\n@pytest.fixture\ndef x(): return apply(1)", "fixtures"),
        ("assert len([1]) == sum([1])", "they call no function of the program"),
    ],
)
def test_tests_that_cannot_be_run_are_an_abstention(tests: str, reason: str) -> None:
    if "pytest" in tests:
        needs("pytest")
    said = score("def apply(f):\n    return 1", tests)
    assert said.value is None
    assert reason in said.reason


def test_whether_tests_can_be_run_does_not_depend_on_the_program() -> None:
    for program in ("x = 1", "no python", "raise SystemExit", "class apply(Exception): pass"):
        assert score(program, "import no_such_module\nassert apply(1) == 1").value is None
        assert score(program, "assert apply(apply) == 1").value == 0.0
        assert score(program, "assert apply(apply(1)) == 1").value == 0.0


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
        ("def f(*, x):\n    x.append(3)", "x = [1]\nf(x=x)\nassert x == [1, 3]", {}),
        ("def f(x):\n    x.rotate(1)", "q = collections.deque([1, 2])\nf(q)\nassert list(q) == [2, 1]", {}),
        (
            "def f(x):\n    raise KeyError(x, 2)",
            "try:\n    f('a')\nexcept LookupError as e:\n"
            "    assert e.args == ('a', 2) and str(e) == \"('a', 2)\"",
            {},
        ),
        (
            "class E(Exception):\n    pass\nclass F(E):\n    pass\ndef f():\n    raise F('no')\n"
            "def g(kind):\n    return kind is F",
            "try:\n    f()\n    assert False\nexcept E as e:\n    assert type(e) is F and str(e) == 'no'\n"
            "assert g(F) and not g(E)",
            {},
        ),
        (
            "class A:\n    pass\nclass B(A):\n    one = None\n    def __new__(cls):\n"
            "        cls.one = cls.one or object.__new__(cls)\n        return cls.one",
            "b = B()\nassert b is B() and b in [B()] and issubclass(B, A) and not isinstance(A(), B)\n"
            "b._number = 3\nassert b._number == 3 and len({b, B()}) == 1",
            {},
        ),
        (
            "class M(dict):\n    pass\nclass G:\n    def __init__(s):\n        s.d = {}\n"
            "    def __getitem__(s, k):\n        return s.d[k]\n    def __setitem__(s, k, v):\n"
            "        s.d[k] = v\n    def __delitem__(s, k):\n        del s.d[k]",
            "g = G()\ng['a'] = 1\nassert g['a'] == 1\ndel g['a']\nassert g.d == {}",
            {},
        ),
        ("def f(r):\n    return range(len(r))", "assert f(range(5)) == range(5)", {}),
        (
            "def f(x):\n    return x",
            "class TestF:\n    def setup_method(self):\n        self.x = 3\n"
            "    def test_f(self):\n        assert f(self.x) == 3",
            {},
        ),
        ("def f(x):\n    return x", "x = 1\nassert statistics.mean([f(x), 3]) == 2", {}),
        (
            "def f(x):\n    return iter(x)",
            "assert list(f([1, 2])) == [1, 2]\nassert next(f([3])) == 3\nassert 4 in f([4])",
            {},
        ),
    ],
)
def test_what_tests_can_do(program: str, tests: str, options: dict[str, Any]) -> None:
    said = score(program, tests, **options)
    assert (said.value, said.reason[:19]) == (1.0, "1 of 1 tests passed")


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
        ("1 2", "1  2", True),
        ("1  2", "1 2", False),
        ("  *\n ***", "*\n***", False),
        ("  *\n ***", "  * \n ***\n", True),
        ("x  1.50", "x  1.5", True),
        ("1\r\n2", "1\n2", True),
        ("1\n2", "1\x0c2", False),
    ],
)
def test_same_output(wanted: str, printed: str, same: bool) -> None:
    assert same_output(wanted=wanted, printed=printed) is same


def test_a_program_of_fences_alone_is_read_in_linear_time() -> None:
    start = time.perf_counter()
    assert extract_program("```x\n" * 20_000) is None
    assert time.perf_counter() - start < 1


def test_a_hook_alone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "isolation", lambda: {"seccomp": True, "landlock": False})
    code._weakness.cache_clear()
    try:
        said = score(RIGHT_ADD, ADD)
    finally:
        code._weakness.cache_clear()
    assert said.reason == "2 of 2 tests passed (without landlock: network and files closed by a hook only)"
