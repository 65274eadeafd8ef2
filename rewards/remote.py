"""The tests' side of `rewards.dialogue`: a program in another process, and its objects for the tests."""

import builtins
import os
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from rewards.dialogue import COMPARISONS, NO_VALUE, OPERATORS, decode, encode, receive, send


class Unsendable(TypeError):
    """A test passes the program something that is no plain data."""


class Gone(BaseException):
    """The program has ended, or writes what is no answer. No `except Exception` of a test may swallow it."""


class Program:
    """The other process. `calls` counts what it was asked; `broken` says why it can be asked no more.

    `unsendable` says what a test would have passed to one of its functions that is no plain data.
    """

    def __init__(self, requests: int, replies: int) -> None:
        self._writer, self._reader = os.fdopen(requests, "wb"), os.fdopen(replies, "rb")
        self._handles: dict[int, Handle] = {}
        self._classes: dict[str, int] = {}
        self._errors: dict[str, type[Exception]] = {}
        self._named = 0
        self.calls = 0
        self.broken = ""
        self.unsendable = ""

    def hello(self) -> dict[str, Any]:
        """The program's functions and classes by name. Raises the error that it ended in, or Gone."""
        reply = self._reply()
        try:
            names = {name: self._handle(number) for name, number in reply["names"].items()}
            self._classes = reply["names"]
            for name, (_, *ancestors) in reply["errors"]:
                bases = [kind for kind in map(self._kind, ancestors) if kind]
                self._errors[name] = type(name, (bases[0],), {"__module__": "solution"})
        except (AttributeError, LookupError, *NO_VALUE):
            self._lost("the program answers what is no value")
        self._named = len(names)
        # What a module says of itself, `__name__` say, is not the program's to say of the tests.
        return {name: value for name, value in (names | self._errors).items() if not name.startswith("__")}

    def ask(self, do: str, on: int, *arguments: Any) -> Any:
        """Do something with an object of the program. Raises what that raises, Unsendable or Gone."""
        self.calls += 1
        try:
            sent = [self.encode(argument) for argument in arguments]
        except Unsendable as error:
            # To have that said of an object of its own would be a program's way out of a test.
            self.unsendable = self.unsendable or (str(error) if do == "call" and on < self._named else "")
            raise
        try:
            send(self._writer, {"do": do, "on": on, "arguments": sent})
        except OSError:
            self._lost("the program has ended")
        reply = self._reply(do)
        if do == "call":
            *positional, named = arguments
            changed = self.decode(reply.get("arguments"))
            if not isinstance(changed, list):
                self._lost("the program answers what is no value")
            for mine, theirs in zip([*positional, *named.values()], changed, strict=False):
                _update(mine, theirs)
        return self.decode(reply.get("value"))

    def encode(self, value: Any) -> Any:
        return encode(value, self._number)

    def _number(self, value: Any) -> int:
        if type(value) is Handle:
            return _number(value)
        if isinstance(value, type) and value in self._errors.values():
            return self._classes[value.__name__]
        if isinstance(value, tuple(self._errors.values())):
            raise TypeError("an error of the program is no argument")  # nor a reason not to be tested
        raise Unsendable(f"they pass the program an object of type {type(value).__name__}")

    def decode(self, value: Any) -> Any:
        try:
            return decode(value, self._handle)
        except NO_VALUE:
            self._lost("the program answers what is no value")

    def _handle(self, number: Any) -> "Handle":
        """The same handle for the same object, so that `is` works."""
        if type(number) is not int:
            raise ValueError(f"no number: {number}")
        if number not in self._handles:
            self._handles[number] = Handle(self, number)
        return self._handles[number]

    def _reply(self, do: str = "") -> dict[str, Any]:
        if self.broken:
            raise Gone(self.broken)
        try:
            reply = receive(self._reader)
        except (EOFError, OSError):
            self._lost("the program has ended")
        except NO_VALUE:
            self._lost("the program answers what is no value")
        if not isinstance(reply, dict):
            self._lost("the program answers what is no value")
        if "error" in reply:
            raise self._error(reply["error"], do)
        return reply

    def _error(self, told: Any, do: str) -> Exception:
        """The error as it was, if its class is builtin or the program's own, or as the nearest that is."""
        try:
            kinds, said, arguments = list(map(str, told["kinds"])), str(told["said"]), told["arguments"]
            ways = [list(self.decode(arguments)), [said]]
        except (LookupError, *NO_VALUE):
            self._lost("the program answers what is no value")
        for kind in filter(None, map(self._kind, kinds)):
            # It would end a loop of the tests that only calls the program, and let what follows pass.
            if do != "next" and issubclass(kind, StopIteration | StopAsyncIteration):
                break
            for way in ways:
                try:
                    error = kind(*way)
                    if str(error).startswith(said) or way is ways[1]:
                        return error
                except Exception:  # UnicodeDecodeError and the like want more than a text
                    continue
        return RuntimeError(": ".join([*kinds[:1], said]))

    def _kind(self, name: str) -> type[Exception] | None:
        kind = self._errors.get(name) or getattr(builtins, name, None)
        return kind if isinstance(kind, type) and issubclass(kind, Exception) else None

    def _lost(self, why: str) -> NoReturn:
        self.broken = why
        raise Gone(why)


def _update(mine: Any, theirs: Any) -> None:
    """Change a mutable argument of a test as the program has changed its copy."""
    if mine == theirs:
        return
    if isinstance(mine, list | bytearray) and isinstance(theirs, list | bytearray):
        mine[:] = theirs
    elif isinstance(mine, dict | set) and isinstance(theirs, dict | set):
        mine.clear()
        mine.update(theirs)
    elif isinstance(mine, deque) and isinstance(theirs, deque):
        mine.clear()
        mine.extend(theirs)


class Handle:
    """An object of the program. It can be called, read, changed and iterated, and compared with its like.

    Nothing that a test expects is ever handed to it: it has no ==, `in` or arithmetic with plain data, but
    for products.
    """

    __slots__ = ("__number", "__program")

    def __init__(self, program: Program, number: int) -> None:
        object.__setattr__(self, "_Handle__program", program)
        object.__setattr__(self, "_Handle__number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _ask(self, "call", *arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _ask(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", name, value)

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, "getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask(self, "setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        _ask(self, "delitem", key)

    def __len__(self) -> int:
        return int(_ask(self, "len"))

    def __bool__(self) -> bool:
        return bool(_ask(self, "bool"))

    def __hash__(self) -> int:
        return int(_ask(self, "hash"))

    def __str__(self) -> str:
        return str(_ask(self, "str"))

    def __repr__(self) -> str:
        return str(_ask(self, "repr"))

    def __neg__(self) -> Any:
        return _ask(self, "neg")

    def __abs__(self) -> Any:
        return _ask(self, "abs")

    def __iter__(self) -> Iterator[Any]:
        items = _ask(self, "iter")
        while type(items) is Handle:
            try:
                yield _ask(items, "next")
            except StopIteration:
                return

    def __next__(self) -> Any:
        return _ask(self, "next")

    def __contains__(self, item: Any) -> bool:
        return any(item == other for other in self)

    def __instancecheck__(self, instance: Any) -> bool:
        return type(instance) is Handle and bool(_ask(self, "isinstance", instance))

    def __subclasscheck__(self, other: Any) -> bool:
        return type(other) is Handle and bool(_ask(self, "issubclass", other))

    def __mul__(self, other: Any) -> Any:
        return _ask(self, "mul", other) if type(other) in (Handle, int, float) else NotImplemented

    def __rmul__(self, other: Any) -> Any:
        return _ask(self, "mul", other) if type(other) in (int, float) else NotImplemented


def _number(handle: Handle) -> int:
    number: int = object.__getattribute__(handle, "_Handle__number")
    return number


def _ask(handle: Handle, do: str, *arguments: Any) -> Any:
    program: Program = object.__getattribute__(handle, "_Handle__program")
    return program.ask(do, _number(handle), *arguments)


def _binary(name: str) -> Callable[[Handle, Any], Any]:
    def method(self: Handle, other: Any) -> Any:
        return _ask(self, name, other) if type(other) is Handle else NotImplemented

    return method


for _name in {*OPERATORS, *COMPARISONS} - {"mul"}:
    setattr(Handle, f"__{_name.rstrip('_')}__", _binary(_name))
