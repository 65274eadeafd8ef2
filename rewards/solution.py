"""The program's side of `rewards.dialogue`: runs what a model has written and answers for its functions."""

import os
import sys
import types
from collections.abc import Callable
from typing import Any

from rewards.dialogue import OPERATIONS, decode, encode, receive, send

_SAID = 10_000  # characters of an error


class _Objects:
    """What the program has handed out, by number. An object keeps its number."""

    def __init__(self) -> None:
        self._known: list[Any] = []
        self._numbers: dict[int, int] = {}

    def number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._known)
            self._known.append(value)
        return self._numbers[id(value)]

    def encode(self, value: Any) -> Any:
        return encode(value, self.number)

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        do, on = request["do"], self._known[request["on"]]
        arguments = decode(request["arguments"], lambda number: self._known[number])
        if do == "call":
            *positional, named = arguments
            value = on(*positional, **named)
            # Lists that a function has changed in place are changed for the tests as well.
            return {"value": self.encode(value), "arguments": self.encode([*positional, *named.values()])}
        if do == "getattr":
            return {"value": self.encode(getattr(on, *arguments))}
        return {"value": self.encode(OPERATIONS[do](on, *arguments))}

    def error(self, error: BaseException) -> dict[str, Any]:
        """The names of an error's classes, nearest first, what it says and what it was made of."""
        try:
            said = str(error)[:_SAID]
            arguments = self.encode(list(error.args))
        except BaseException:
            said, arguments = "", []
        return {"error": {"kinds": _ancestry(type(error)), "said": said, "arguments": arguments}}


def main(confined: Callable[[], Any], requests: int, replies: int) -> None:
    """Run main.py as a module, then answer for its functions until no request comes any more."""
    with open("main.py", encoding="utf-8", errors="surrogatepass") as file:
        source = file.read()
    reader, writer = os.fdopen(requests, "rb"), os.fdopen(replies, "wb")
    confined()
    objects = _Objects()
    sys.modules["program"] = module = types.ModuleType("program")
    try:
        exec(compile(source, "main.py", "exec"), module.__dict__)
    except BaseException as error:  # SystemExit as well: a program that leaves has no functions to test
        send(writer, objects.error(error))
        return
    names = {name: value for name, value in vars(module).items() if callable(value)}
    own = {n: v for n, v in names.items() if isinstance(v, type) and issubclass(v, Exception)}
    errors = sorted(((n, _ancestry(v)) for n, v in own.items()), key=lambda each: len(each[1]))
    send(writer, {"names": {name: objects.number(value) for name, value in names.items()}, "errors": errors})
    while True:
        try:
            request = receive(reader)
        except EOFError:
            return
        try:
            reply = objects.answer(request)
        except BaseException as error:
            reply = objects.error(error)
        send(writer, reply)


def _ancestry(kind: type) -> list[str]:
    return [each.__name__ for each in kind.__mro__]
