"""Runs test code on the functions of a program in another process: a role of `rewards.confine`."""

import ast
import builtins
import importlib.util
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from rewards.remote import Gone, Program

_ALIASES = {"np": "numpy", "pd": "pandas"}
_REASON = 200  # characters


def main(confined: Callable[[], Any], requests: int, replies: int) -> None:
    """Run the tests on standard input, {"tests": [...], "entry_point": name or null, "all": bool}.

    Prints a line of JSON for each test, why it failed or an empty text, and one of an object at the end.
    """
    asked, verdict = json.load(sys.stdin), os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (the tests may print until the end)
    os.dup2(sys.stdout.fileno(), 1)
    program = Program(requests, replies)
    confined()
    try:
        for why in _results(program, asked["tests"], asked["entry_point"] or ""):
            verdict.write(json.dumps(why) + "\n")
            verdict.flush()
            if why and not asked["all"]:
                break
    except (Exception, Gone) as error:
        program.broken = program.broken or _said(error)
    fields = {"broken": program.broken, "calls": program.calls, "unsendable": program.unsendable}
    verdict.write(json.dumps(fields) + "\n")
    verdict.flush()
    os._exit(0)


def _results(program: Program, tests: list[str], entry_point: str) -> Iterator[str]:
    """Yield why each test failed, empty if it held, until the program is gone or the tests cannot be run."""
    names = _Names(tests, entry_point)
    program.unsendable = names.problem()
    if program.unsendable:
        return
    scope = _scope(names, entry_point, program.hello())
    for test in tests:
        try:
            _run(test, scope, entry_point)
            why = ""
        except _Untestable as error:
            program.unsendable = str(error)
        except SystemExit as error:  # unittest.main() ends so
            why = "" if error.code in (None, 0, False) else "the tests ended with an error"
        except BaseException as error:  # that of pytest.fail is no Exception
            why = _said(error)
        if program.broken or program.unsendable:
            return
        yield why


def _said(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error!s:.{_REASON}}".removesuffix(": ")
    except BaseException:  # what it says may be the program's
        return type(error).__name__


class _Untestable(Exception):
    """A test wants what only a test runner has."""


# ---------------------------------------------------------------------- what tests there are


def _run(test: str, scope: dict[str, Any], entry_point: str) -> None:
    """Run one test, and what HumanEval, pytest and unittest would call of what it defines."""
    before = dict(scope)
    exec(compile(test, "tests", "exec"), scope)
    check = scope.get("check")
    if entry_point and isinstance(check, types.FunctionType):
        check(eval(entry_point, scope))
    for name, value in [item for item in scope.items() if before.get(item[0]) is not item[1]]:
        if isinstance(value, types.FunctionType) and name.startswith("test_"):
            _call(value)
        elif isinstance(value, type) and value.__module__ == scope["__name__"]:
            _run_class(value)


def _call(function: Callable[..., Any]) -> None:
    """Call a test function as pytest does, with each set of the values that it is marked with."""
    import inspect

    if inspect.iscoroutinefunction(function):
        raise _Untestable(f"{function.__name__} is async")
    cases: list[dict[str, Any]] = [{}]
    for mark in getattr(function, "pytestmark", []):
        if mark.name == "parametrize":
            names, rows, *_ = mark.args
            names = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
            cases = [{**case, **_values(names, row)} for case in cases for row in rows]
    for case in cases:
        try:
            inspect.signature(function).bind(**case)
        except TypeError as error:
            raise _Untestable(f"{function.__name__}: {error}") from error
        function(**case)


def _values(names: list[str], row: Any) -> dict[str, Any]:
    """The arguments of one case; pytest.param wraps them."""
    if type(row).__name__ == "ParameterSet":
        row = row.values
    elif len(names) == 1:
        row = [row]
    return dict(zip(names, row, strict=True))


def _run_class(kind: type) -> None:
    unittest = sys.modules.get("unittest")
    if unittest and issubclass(kind, unittest.TestCase):
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(kind).run(result)
        for _, trace in result.errors + result.failures:
            raise AssertionError(trace.strip().splitlines()[-1])
    elif kind.__name__.startswith("Test"):
        for name in [name for name in dir(kind) if name.startswith("test_")]:
            case = kind()
            for part in ("setup_class", "setup_method", name):
                if hasattr(case, part):
                    _call(getattr(case, part))


# ---------------------------------------------------------------------- what the tests see


class _Names(ast.NodeVisitor):
    """The names in test code: `used` are read, `given` defined or imported, `bases` stand before a dot."""

    def __init__(self, tests: list[str], entry_point: str) -> None:
        self.used: set[str] = set()
        self.called: set[str] = set()
        self.given: set[str] = set()
        self.stored: set[str] = set()
        self.bases: set[str] = set()
        self.imported: set[str] = set()
        self.fixtures = False
        for test in [*tests, entry_point]:
            self.visit(ast.parse(test))
        known = {name for name in self.bases if name in sys.stdlib_module_names} | _ALIASES.keys()
        self.modules = known & self.bases - self.stored
        self._calls_program = bool(entry_point or "solution" in self.imported) or any(
            not hasattr(builtins, name) for name in self.used - self.given - self.stored - self.modules
        )
        # Without any other name it is a builtin's name that the function under test has.
        replaced = set() if self._calls_program else {name for name in self.called if hasattr(builtins, name)}
        self.replaced = replaced if len(replaced) == 1 else set()

    def problem(self) -> str:
        """Why the tests cannot be run, whatever the program; empty if they can."""
        wanted = self.imported | {_ALIASES.get(name, name) for name in self.modules - self.given}
        missing = [name for name in sorted(wanted - {"solution"}) if not _there_is(name)]
        if missing:
            return f"there is no module {missing[0]}"
        if self.fixtures:
            return "they have fixtures of pytest"
        return "" if self._calls_program or self.replaced else "they call no function of the program"

    def visit_Name(self, node: ast.Name) -> None:
        (self.used if isinstance(node.ctx, ast.Load) else self.stored).add(node.id)

    def visit_arg(self, node: ast.arg) -> None:
        self.stored.add(node.arg)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name):
            self.called.add(node.func.id)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if isinstance(node.value, ast.Name):
            self.bases.add(node.value.id)
        self.fixtures = self.fixtures or node.attr == "fixture"
        self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.imported |= {alias.name.partition(".")[0] for alias in node.names}
        self.given |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.imported.add((node.module or "").partition(".")[0])
        self.given |= {alias.asname or alias.name for alias in node.names}

    def _define(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        self.given.add(node.name)
        self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _define


def _there_is(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # __main__, and a relative import
        return False


def _scope(names: _Names, entry_point: str, program: dict[str, Any]) -> dict[str, Any]:
    """The names that the tests see: the program's functions, but no builtin or module replaced by one."""
    wanted = _Names([], entry_point).used | names.replaced
    taken = {name for name in program if hasattr(builtins, name)} | _ALIASES.keys()
    ours = {
        name: program[name] for name in names.used & program.keys() if name in wanted or name not in taken
    }
    full = {name: _ALIASES.get(name, name) for name in names.modules}
    modules = {name: importlib.import_module(module) for name, module in full.items() if _there_is(module)}
    sys.modules["solution"] = solution = types.ModuleType("solution")
    vars(solution).update(program)
    # `import *` gives the same, and replaces nothing that the tests import or define themselves.
    vars(solution)["__all__"] = sorted(ours.keys() - names.given - modules.keys())
    sys.modules["__main__"] = module = types.ModuleType("tests")  # where unittest.main() looks
    vars(module).update(ours | modules)
    return vars(module)
