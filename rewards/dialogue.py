"""How tests in one process talk to the functions of a program in another: JSON, a line a message.

`rewards.testing` runs what the author of the data wrote, `rewards.solution` what the model wrote; both inside
the sandbox, where `rewards.confine` starts them. Only plain data and handles of objects pass between them. So
the program never sees the values that it should return, shares no names with the tests, and cannot make an
object that equals everything: what comes out of it is compared where it cannot reach.
"""

import builtins
import importlib
import json
import operator
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, BinaryIO

LARGEST_MESSAGE = 1 << 24  # bytes
_SMALL = 1 << 53
_COLLECTIONS: tuple[Any, ...] = (tuple, set, frozenset, deque)
# Numbers and dates, by the module that has them; a datetime is a date as well.
_WRITTEN = {
    "Fraction": "fractions",
    "Decimal": "decimal",
    "datetime": "datetime",
    "date": "datetime",
    "time": "datetime",
}

OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and_", "or_", "xor")
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
OPERATIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in (*OPERATORS, *COMPARISONS)},
    **{name: getattr(operator, name) for name in ("getitem", "setitem", "delitem", "neg")},
    **{function.__name__: function for function in (len, str, repr, bool, iter, next, abs, hash, setattr)},
    "isinstance": lambda kind, value: isinstance(value, kind),
    "issubclass": lambda kind, other: issubclass(other, kind),
}


def encode(value: Any, handle: Callable[[Any], int]) -> Any:
    """Return `value` for JSON: plain data by its kind, whatever its subclass; else the number of a handle."""
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
    for kind in _COLLECTIONS:
        if isinstance(value, kind):
            return {kind.__name__: [encode(item, handle) for item in kind.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, handle), encode(v, handle)] for k, v in dict.items(value)]}
    if isinstance(value, slice | range):
        parts = (value.start, value.stop, value.step)
        return {type(value).__name__: [encode(part, handle) for part in parts]}
    if isinstance(value, bytes | bytearray):
        return {"bytearray" if isinstance(value, bytearray) else "bytes": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    for name, module in _WRITTEN.items():
        if module in sys.modules and isinstance(value, getattr(sys.modules[module], name)):
            return {name: value.isoformat() if module == "datetime" else str(value)}
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return encode(value.item(), handle)  # a number of an array
    return {"handle": handle(value)}


def decode(value: Any, handle: Callable[[Any], Any]) -> Any:
    """Return what `encode` was given. Raises an error for anything else, of one of the kinds of NO_VALUE."""
    if isinstance(value, list):
        return [decode(item, handle) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    for collection in _COLLECTIONS:
        if kind == collection.__name__:
            return collection(decode(item, handle) for item in inner)
    if kind == "dict":
        return {decode(k, handle): decode(v, handle) for k, v in inner}
    if kind in ("bytes", "bytearray"):
        return getattr(builtins, kind).fromhex(inner)
    if kind in ("slice", "range"):
        return getattr(builtins, kind)(*(decode(item, handle) for item in inner))
    if kind == "complex":
        return complex(*inner)
    if kind == "int":
        return int(inner, 16)
    if kind in _WRITTEN:
        written = getattr(importlib.import_module(_WRITTEN[kind]), kind)
        return written.fromisoformat(inner) if _WRITTEN[kind] == "datetime" else written(inner)
    if kind != "handle":
        raise ValueError(f"no kind of value: {kind}")
    return handle(inner)


NO_VALUE = (ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)


def send(stream: BinaryIO, message: Any) -> None:
    """Write a message. Raises OSError if nobody reads any more."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def receive(stream: BinaryIO) -> Any:
    """Read a message. Raises EOFError if there is none, ValueError or RecursionError if it is no JSON."""
    line = stream.readline(LARGEST_MESSAGE)
    if not line.endswith(b"\n"):
        raise EOFError
    return json.loads(line)
