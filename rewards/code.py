"""code: does the Python program in the answer pass its tests?"""

import ast
import re
import time
from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from rewards.guarded import printable
from rewards.response import Response
from rewards.sandbox import Limits, isolation, run_program, run_tests
from rewards.score import Score

MAX_CHARACTERS = 100_000

_FENCE = re.compile(r" {0,3}```+\s*([A-Za-z0-9_+-]*)")
_PYTHON = frozenset({"python", "py", "python3"})
_SPACE = re.compile(r"(\s+)")
_DECIMAL = re.compile(r"[-+]?[0-9]{1,40}\.[0-9]{1,40}")


def code(
    response: Response,
    *,
    tests: Any,
    entry_point: str | None = None,
    test_seconds: float = 4.0,
    total_seconds: float = 9.0,
    memory_mib: int = 1024,
    partial: bool = False,
) -> Score:
    """1.0 if the program in the answer passes all `tests`, else 0.0; abstains where they are unreadable.

    Column `tests`: a list of {"input": text, "output": text}, of which each runs the program on that standard
    input; or test code, or a list of statements (`assert add(1, 2) == 3`), that call its functions. Functions
    and classes of pytest, parametrized or not but without fixtures, and of unittest are run. With
    `entry_point`, the function to test (`add`, `Solution().add`), a `check(candidate)` of the test code is
    called with it (HumanEval); tests may import the functions from `solution`. The program is the one block
    fenced as Python, else the one fenced block, else the whole answer. Printed lines are compared as
    `same_output` says. `partial` gives the share of the tests that pass instead.

    A program has `test_seconds` for a test and `total_seconds` for all, of wall-clock and processor time,
    `memory_mib` of address space, 256 threads, and no rights: no other process, no connection, no file to
    write, and none to read but Python's own and what is installed. What it should return it never sees:
    outputs are compared in this process, and test code runs in another (`rewards.dialogue`). So leaving
    early, printing, patching Python, reading memory and objects equal to everything do not pass a test. Tests
    that pass a program more than plain data, such as functions, cannot be run: it abstains. Needs a Unix.

    Not protected against: a program fitted to the inputs of its tests; holes in the kernel or in Python; on
    Linux for other processors than x86-64 and arm64 and on macOS, where the kernel offers no such limits, a
    program that gets around a hook in its own interpreter (the reason says so); programs that run at the same
    time and together need more memory than there is. Weak tests stay weak. Objects of the program's own
    classes are compared, and answer for their methods, as it says: `f(1).startswith("a")` can be made true
    without a text. `3 in f(1)` holds for all numbers, `f(x) == sorted(x)` for an `x` that f has emptied.
    Helpers that tests use without importing them are the program's.
    """
    kind, cases = _read_tests(tests)
    if not cases:
        return Score(None, f"the tests cannot be read: {tests!r:.80}")
    if entry_point and not _parses(entry_point):
        return Score(None, f"the entry point cannot be read: {entry_point!r:.80}")
    if response.answer is None:
        return Score(0.0, f"no answer: {', '.join(response.problems)}")
    source = extract_program(response.answer)
    if source is None:
        return Score(0.0, "unreadable answer: no program, or several")
    limits = Limits(min(test_seconds, total_seconds), memory_mib)
    passed: int | None
    if kind == "printed":
        passed, why = _printed(source, cases, limits, total_seconds, partial)
    else:
        passed, why = _called(source, cases, entry_point, Limits(total_seconds, memory_mib), partial)
    if passed is None:
        return Score(None, why)
    value = passed / len(cases) if partial else float(passed == len(cases))
    told = f"{passed} of {len(cases)} tests passed{why and ': '}{why}{_weakness()}"
    return Score(value, printable(told))


def extract_program(answer: str) -> str | None:
    """Return the program in an answer, or None where there is none or more than one."""
    if len(answer) > MAX_CHARACTERS:
        return None
    blocks = _fenced(answer)
    if blocks is None:
        return None
    python = [text for language, text in blocks if language in _PYTHON]
    programs = python or [text for language, text in blocks if not language] if blocks else [answer]
    return programs[0] if len(programs) == 1 and programs[0].strip() else None


def _fenced(answer: str) -> list[tuple[str, str]] | None:
    """Return language and text of each fenced block; None if one is not closed."""
    blocks: list[tuple[str, str]] = []
    language = ""
    lines: list[str] | None = None
    for line in answer.splitlines(keepends=True):
        fence = _FENCE.match(line)
        if lines is None and fence:
            language, lines = fence[1].lower(), []
        elif lines is not None and fence and line.strip().strip("`") == "":
            blocks.append((language, "".join(lines)))
            lines = None
        elif lines is not None:
            lines.append(line)
    return blocks if lines is None else None


def _read_tests(tests: Any) -> tuple[str, list[Any]]:
    """Return ("printed", pairs of texts) or ("called", statements); no tests if they are unreadable."""
    if isinstance(tests, str):
        tests = [tests] if tests.strip() else []
    if not isinstance(tests, Sequence) or isinstance(tests, bytes) or not tests:
        return "", []
    if all(isinstance(test, str) for test in tests):
        # Data that is still to be read, JSON say, is an expression too, but calls nothing.
        runnable = all(map(_parses, tests)) and any("(" in test for test in tests)
        return ("called", list(tests)) if runnable else ("", [])
    if all(isinstance(test, dict) and isinstance(test.get("output"), str) for test in tests):
        inputs = [test.get("input", "") for test in tests]
        if all(isinstance(text, str) for text in inputs):
            return "printed", [(text, test["output"]) for text, test in zip(inputs, tests, strict=True)]
    return "", []


def _parses(test: str) -> bool:
    try:
        return bool(ast.parse(test).body)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False


def _printed(
    source: str, cases: list[tuple[str, str]], limits: Limits, seconds: float, to_the_end: bool
) -> tuple[int, str]:
    """Return how many outputs are right, and what was wrong with the first that is not."""
    passed, why, end = 0, "", time.monotonic() + seconds
    for number, (given, wanted) in enumerate(cases, 1):
        left = end - time.monotonic()
        if left <= 0:
            return passed, why or f"no time left for test {number} of {seconds:g} s"
        outcome = run_program(source, given, Limits(min(limits.seconds, left), limits.memory_mib))
        problem = outcome.problem
        if not problem and not same_output(wanted=wanted, printed=outcome.output):
            problem = f"printed {outcome.output.rstrip()!r:.80}, not {wanted.rstrip()!r:.80}"
        passed += not problem
        why = why or (problem and f"test {number} {problem}")
        if problem and not to_the_end:
            break
    return passed, why


def same_output(*, wanted: str, printed: str) -> bool:
    """Whether two outputs have the same lines, but for white space and how decimals end.

    White space at the ends of lines and of the text never counts. Elsewhere it does if the wanted output has
    some that says something: at the start of a line, or several spaces in a row.
    """
    lines = [[line.rstrip() for line in text.rstrip().split("\n")] for text in (wanted, printed)]
    if lines[0] == lines[1]:
        return True
    laid_out = any(line != " ".join(line.split()) for line in lines[0])
    words = [[_SPACE.split(line) if laid_out else line.split() for line in part] for part in lines]
    return list(map(len, words[0])) == list(map(len, words[1])) and all(
        a == b or bool(_DECIMAL.fullmatch(a) and _DECIMAL.fullmatch(b) and Decimal(a) == Decimal(b))
        for pair in zip(*words, strict=True)
        for a, b in zip(*pair, strict=True)
    )


def _called(
    source: str, cases: list[str], entry_point: str | None, limits: Limits, to_the_end: bool
) -> tuple[int | None, str]:
    """Return how many tests hold, None where they cannot be run, and why the first fails."""
    verdict = run_tests(source, cases, entry_point, limits, to_the_end=to_the_end)
    if verdict.unsendable:
        return None, f"the tests cannot be run: {verdict.unsendable}"
    failed = [f"test {number} {why}" for number, why in enumerate(verdict.results, 1) if why]
    if not verdict.calls and not verdict.broken and not failed:
        return 0, "the tests never called the program"
    return verdict.results.count(""), failed[0] if failed else verdict.broken


@lru_cache(maxsize=1)
def _weakness() -> str:
    missing = [name for name, there in isolation().items() if not there]
    return f" (without {' and '.join(missing)}: network and files closed by a hook only)" if missing else ""
