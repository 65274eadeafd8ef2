"""Tests that call functions of a program from a process of their own: how the two processes talk.

`tests` runs what the author of the data wrote, `solution` what the model wrote; both inside the sandbox,
where `rewards.confine` starts them. Only plain data and handles of objects pass between them. So the program
never sees the values that it should return, shares no names with the tests, and cannot make an object that
equals everything: what comes out of it is compared where it cannot reach. Standing alone, like `confine`.
"""

import ast
import builtins
import importlib.util
import json
import operator
import os
import sys
import types
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, BinaryIO, NoReturn

LARGEST_MESSAGE = 1 << 24  # bytes
_SMALL = 1 << 53
_ALIASES = {"np": "numpy", "pd": "pandas"}
_BINARY = ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "truediv")
_OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in _BINARY},
    **{function.__name__: function for function in (len, str, repr, bool, iter, next)},
    "item": operator.getitem,
    "isinstance": lambda kind, value: isinstance(value, kind),
}


class Unsendable(TypeError):
    """A test passes the program something that is no plain data."""


class Gone(BaseException):
    """The program has ended, or writes what is no answer. No `except Exception` of a test may swallow it."""


def encode(value: Any, handle: Callable[[Any], Any]) -> Any:
    """Return `value` for JSON: plain data by its kind, whatever its subclass; anything else by `handle`."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        number = int.__int__(value)
        return number if abs(number) < _SMALL else {"int": hex(number)}
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, list):
        return [encode(item, handle) for item in list.__iter__(value)]
    kind: Any
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encode(item, handle) for item in kind.__iter__(value)]}
    if isinstance(value, slice):
        return {"slice": [encode(item, handle) for item in (value.start, value.stop, value.step)]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, handle), encode(v, handle)] for k, v in dict.items(value)]}
    if isinstance(value, bytes | bytearray):
        return {type(value).__name__: bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, Fraction | Decimal):
        return {type(value).__name__: str(value)}
    return handle(value)


def decode(value: Any, handle: Callable[[int], Any]) -> Any:
    """Return what `encode` was given. Raises ValueError or TypeError for anything else."""
    if isinstance(value, list):
        return [decode(item, handle) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind in ("tuple", "set", "frozenset"):
        return getattr(builtins, kind)(decode(item, handle) for item in inner)
    if kind == "dict":
        return {decode(k, handle): decode(v, handle) for k, v in inner}
    if kind in ("bytes", "bytearray"):
        return getattr(builtins, kind).fromhex(inner)
    if kind == "complex":
        return complex(*inner)
    if kind == "slice":
        return slice(*(decode(item, handle) for item in inner))
    if kind == "int":
        return int(inner, 16)
    return handle(inner) if kind == "handle" else {"Fraction": Fraction, "Decimal": Decimal}[kind](inner)


def _send(stream: BinaryIO, message: Any) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _receive(stream: BinaryIO) -> Any:
    line = stream.readline(LARGEST_MESSAGE)
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line)


# ---------------------------------------------------------------------- the program's side


class _Objects:
    """What the program has handed out, by number."""

    def __init__(self) -> None:
        self.known: list[Any] = []

    def number(self, value: Any) -> dict[str, int]:
        self.known.append(value)
        return {"handle": len(self.known) - 1}

    def encode(self, value: Any) -> Any:
        return encode(value, self.number)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        do, on = request["do"], self.known[request["on"]]
        arguments = decode(request.get("arguments", []), lambda number: self.known[number])
        if do == "call":
            *arguments, named = arguments
            value = on(*arguments, **named)
            # Lists that a function has changed in place are changed for the tests as well.
            return {"value": self.encode(value), "arguments": [self.encode(item) for item in arguments]}
        if do == "get":
            return {"value": self.encode(getattr(on, request["name"]))}
        return {"value": self.encode(_OPERATIONS[do](on, *arguments))}


def solution(enter: Callable[[], Any], requests: int, replies: int) -> None:
    """Run main.py as a module, then answer for its functions until no request comes any more."""
    with open("main.py", encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    reader, writer = os.fdopen(requests, "rb"), os.fdopen(replies, "wb")
    enter()
    objects = _Objects()
    sys.modules["program"] = module = types.ModuleType("program")
    try:
        exec(compile(source, "main.py", "exec"), module.__dict__)
    except BaseException as error:  # SystemExit as well: a program that leaves has no functions to test
        _send(writer, {"error": _described(error)})
        return
    names = {name: value for name, value in vars(module).items() if callable(value)}
    _send(writer, {"names": {name: objects.number(value) for name, value in names.items()}})
    while True:
        request = _receive(reader)
        try:
            reply = objects.answer(request)
        except BaseException as error:
            reply = {"error": _described(error)}
        _send(writer, reply)


def _described(error: BaseException) -> list[str]:
    """The error's nearest builtin class and what it says."""
    name = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins")
    try:
        said = str(error)
    except BaseException:
        said = ""
    return [name, said[:300]]


# ---------------------------------------------------------------------- the tests' side


class _Program:
    """The other process, as the tests see it."""

    def __init__(self, requests: int, replies: int) -> None:
        self._writer, self._reader = os.fdopen(requests, "wb"), os.fdopen(replies, "rb")
        self._named = 0
        self.calls = 0
        self.gone = ""
        self.unsendable = ""

    def hello(self) -> dict[str, Any]:
        """The program's functions and classes by name."""
        names = self._reply().get("names")
        if not isinstance(names, dict):
            self._lost("the program answers what is no value")
        self._named = len(names)
        return {name: self.decode(value) for name, value in names.items()}

    def ask(self, do: str, on: int, *arguments: Any, **fields: Any) -> Any:
        self.calls += 1
        try:
            sent = [self.encode(argument) for argument in arguments]
        except Unsendable as error:
            # To have that said of an object of its own would be a program's way out of a test.
            self.unsendable = self.unsendable or (str(error) if do == "call" and on < self._named else "")
            raise
        try:
            _send(self._writer, {"do": do, "on": on, "arguments": sent, **fields})
        except OSError:
            self._lost("the program has ended")
        reply = self._reply()
        for mine, theirs in zip(arguments, reply.get("arguments", []), strict=False):
            _update(mine, self.decode(theirs))
        return self.decode(reply.get("value"))

    def encode(self, value: Any) -> Any:
        return encode(value, self._known)

    def _known(self, value: Any) -> dict[str, int]:
        if isinstance(value, Handle):
            return {"handle": object.__getattribute__(value, "_number")}
        raise Unsendable(f"they pass the program an object of type {type(value).__name__}")

    def decode(self, value: Any) -> Any:
        try:
            return decode(value, lambda number: Handle(self, number))
        except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):
            self._lost("the program answers what is no value")

    def _reply(self) -> dict[str, Any]:
        if self.gone:
            raise Gone(self.gone)
        try:
            reply = _receive(self._reader)
        except (EOFError, OSError):
            self._lost("the program has ended")
        except (ValueError, RecursionError):
            self._lost("the program answers what is no value")
        if not isinstance(reply, dict):
            self._lost("the program answers what is no value")
        if "error" in reply:
            name, said = (*map(str, reply["error"]), "", "")[:2]
            kind = getattr(builtins, name, Exception)
            wanted = isinstance(kind, type) and issubclass(kind, Exception)
            try:
                error = kind(said) if wanted else RuntimeError(f"{name}: {said}")
            except TypeError:  # UnicodeDecodeError and the like want more than a text
                error = ValueError(said)
            raise error
        return reply

    def _lost(self, why: str) -> NoReturn:
        self.gone = why
        raise Gone(why)


def _update(mine: Any, theirs: Any) -> None:
    if type(mine) is not type(theirs) or mine == theirs:
        return
    if isinstance(mine, list):
        mine[:] = theirs
    elif isinstance(mine, dict | set):
        mine.clear()
        mine.update(theirs)


class Handle:
    """An object of the program. It can be called, read and iterated, and compared with its like.

    Nothing that a test expects is ever handed to it: it has no ==, `in` or arithmetic with plain data.
    """

    __slots__ = ("_number", "_program")

    def __init__(self, program: _Program, number: int) -> None:
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._program.ask("call", self._number, *arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._program.ask("get", self._number, name=name)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("item", self._number, key)

    def __len__(self) -> int:
        return int(self._program.ask("len", self._number))

    def __bool__(self) -> bool:
        return bool(self._program.ask("bool", self._number))

    def __str__(self) -> str:
        return str(self._program.ask("str", self._number))

    def __repr__(self) -> str:
        return str(self._program.ask("repr", self._number))

    def __iter__(self) -> Iterator[Any]:
        items = self._program.ask("iter", self._number)
        while True:
            try:
                yield self._program.ask("next", object.__getattribute__(items, "_number"))
            except StopIteration:
                return

    def __next__(self) -> Any:
        return self._program.ask("next", self._number)

    def __contains__(self, item: Any) -> bool:
        return any(item == other for other in self)

    def __instancecheck__(self, instance: Any) -> bool:
        return isinstance(instance, Handle) and bool(self._program.ask("isinstance", self._number, instance))

    __hash__ = object.__hash__


def _binary(name: str) -> Callable[[Handle, Any], Any]:
    def method(self: Handle, other: Any) -> Any:
        if not isinstance(other, Handle):
            return NotImplemented
        return self._program.ask(name, self._number, other)

    return method


for _name in _BINARY:
    setattr(Handle, f"__{_name}__", _binary(_name))


def tests(enter: Callable[[], Any], requests: int, replies: int) -> None:
    """Run the tests on standard input, {"tests": [...], "entry_point": name or null}; print the verdict."""
    asked, verdict = json.load(sys.stdin), os.fdopen(os.dup(1), "w")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    program = _Program(requests, replies)
    enter()
    failed: dict[int, str] = {}
    try:
        names = program.hello()
        if missing := _missing_modules(asked["tests"]):
            program.unsendable = f"there is no module {missing[0]}"
        scope = {} if missing else _scope(asked["tests"], asked["entry_point"], names)
        for number, test in enumerate(asked["tests"]):
            try:
                _run(test, scope, asked["entry_point"])
            except SystemExit as error:  # unittest.main() ends so
                if error.code not in (None, 0, False):
                    failed[number] = "the tests ended with an error"
            except Exception as error:
                failed[number] = f"{type(error).__name__}: {error!s:.200}".removesuffix(": ")
            if failed and not asked["all"]:
                break
    except (Exception, Gone) as error:
        program.gone = program.gone or f"{type(error).__name__}: {error!s:.200}"
    fields = {"calls": program.calls, "gone": program.gone, "unsendable": program.unsendable}
    verdict.write(json.dumps({"failed": sorted(failed.items()), **fields}))
    verdict.close()


def _run(test: str, scope: dict[str, Any], entry_point: str | None) -> None:
    """Run one test; in the ways of HumanEval and pytest, its functions check and test_... as well."""
    before = set(scope)
    exec(compile(test, "tests", "exec"), scope)
    if entry_point and "check" in scope:
        scope["check"](scope[entry_point])
    for name in sorted(scope.keys() - before):
        if name.startswith("test_") and isinstance(scope[name], types.FunctionType):
            scope[name]()


def _missing_modules(tests: list[str]) -> list[str]:
    """The modules that the tests import and that are not installed; `solution` is the program itself."""
    wanted: set[str] = set()
    for node in (node for test in tests for node in ast.walk(ast.parse(test))):
        if isinstance(node, ast.Import):
            wanted.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            wanted.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            wanted.update([_ALIASES[node.value.id]] if node.value.id in _ALIASES else [])
    return sorted(name for name in wanted - {"solution"} if importlib.util.find_spec(name) is None)


def _scope(tests: list[str], entry_point: str | None, program: dict[str, Any]) -> dict[str, Any]:
    """The names that the tests see: the program's functions, but no builtin or module replaced by one."""
    scope: dict[str, Any] = {"__name__": "tests"}
    sys.modules["solution"] = module = types.ModuleType("solution")
    vars(module).update(program)
    for node in (node for test in tests for node in ast.walk(ast.parse(test))):
        if isinstance(node, ast.Name):
            called = node.id in program and (node.id == entry_point or not hasattr(builtins, node.id))
            if called and node.id not in _ALIASES:
                scope.setdefault(node.id, program[node.id])
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = node.value.id
            if name in sys.stdlib_module_names or name in _ALIASES:
                scope[name] = __import__(_ALIASES.get(name, name))
    if entry_point and entry_point in program:
        scope[entry_point] = program[entry_point]
    return scope
