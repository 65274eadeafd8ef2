"""What pydantic found, in words for the person who wrote the config: field, value, remedy."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlreason.config import fields

Path = tuple[int | str, ...]
Found = Mapping[str, Any]
"""One entry of `pydantic.ValidationError.errors()`."""


def dotted(path: Sequence[int | str]) -> str:
    """The key as a user writes it: `eval.pass_at[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def explain(found: Found) -> str:
    """Return one line that names the field, the value found and what to do."""
    path: Path = tuple(part for part in found["loc"] if part != "[key]")
    is_key = found["loc"][-1] == "[key]"
    if found["type"] == "invalid_key" or (is_key and found["type"] == "string_type"):
        where = f"{dotted(path[:-1])}: " if path[:-1] else ""
        return f"{where}the key {show(path[-1])} is not text; put it in quotes"
    if found["type"] == "extra_forbidden":
        return _unknown(path)
    sentence = _SENTENCES.get(found["type"], _other)(found)
    field = fields.find(path)
    return f"{dotted(path)}: {sentence}" + (f" ({field.description})" if field else "")


def show(value: object) -> str:
    """The value as the config would write it, cut to a readable length."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping" if value else "{}"
    if isinstance(value, list | tuple):
        return "a list" if value else "[]"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def suggestion(path: Path) -> Path | None:
    """The known key that an unknown one was probably meant to be: a neighbour, or the same name elsewhere."""
    *parent, key = path
    near = difflib.get_close_matches(str(key), fields.known_keys(parent), n=1)
    if near:
        return (*parent, near[0])
    named_so = [known for known, _ in fields.walk() if known.rpartition(".")[2] == key]
    return tuple(named_so[0].split(".")) if named_so else None


def _unknown(path: Path) -> str:
    nearest = suggestion(path)
    if nearest:
        return f"{dotted(path)}: there is no such field; did you mean {dotted(nearest)}?"
    known = ", ".join(fields.known_keys(path[:-1]))
    section = dotted(path[:-1])
    return f"{dotted(path)}: there is no such field; {section + ' takes' if section else 'known are'} {known}"


def _missing(found: Found) -> str:
    return "is missing; add it"


def _whole_number(found: Found) -> str:
    value = found["input"]
    if isinstance(value, float) and value.is_integer():
        return f"{show(value)} is not a whole number; write {value:.0f}"
    return _number(found, "a whole number")


def _number(found: Found, wanted: str = "a number") -> str:
    value = found["input"]
    if isinstance(value, str) and _reads_as_number(value):
        return f"{show(value)} is text; remove the quotes, or write it as {wanted}"
    return f"{show(value)} is not {wanted}; give one"


def _text(found: Found) -> str:
    value = found["input"]
    if value is None or isinstance(value, dict | list):
        return f"{show(value)} is not text; give some"
    return f"{show(value)} is not text; put it in quotes"


def _choice(found: Found) -> str:
    value, options = found["input"], re.findall(r"'([^']*)'", found["ctx"]["expected"])
    near = difflib.get_close_matches(str(value), options, n=1)
    if len(options) == 1:
        return f"{show(value)} is not known; give {options[0]}"
    if near:
        return f"{show(value)} is not known; did you mean {near[0]}? It is one of {', '.join(options)}"
    return f"{show(value)} is not known; give one of {', '.join(options)}"


def _other(found: Found) -> str:
    return f"{show(found['input'])} cannot be used: {found['msg'].lower()}"


def _bound(problem: str, remedy: str, limit: str) -> Callable[[Found], str]:
    def sentence(found: Found) -> str:
        bound = format(found["ctx"][limit], "g")
        return f"{show(found['input'])} is {problem}; give {remedy.format(bound)}"

    return sentence


def _section(found: Found) -> str:
    if found["loc"][0] == "rewards":
        return f"{show(found['input'])} is not a weight; give a number, or keys as in {{weight: 1}}"
    return f"{show(found['input'])} is not a section; give keys as in {{key: value}}"


def _wanted(what: str) -> Callable[[Found], str]:
    return lambda found: f"{show(found['input'])} is not {what}; give one"


_SENTENCES: dict[str, Callable[[Found], str]] = {
    "missing": _missing,
    "int_type": _whole_number,
    "float_type": _number,
    "bool_type": lambda found: f"{show(found['input'])} is neither true nor false; give one of them",
    "string_type": _text,
    "literal_error": _choice,
    "greater_than": _bound("too small", "a number above {}", "gt"),
    "greater_than_equal": _bound("too small", "{} or more", "ge"),
    "less_than": _bound("too large", "a number below {}", "lt"),
    "less_than_equal": _bound("too large", "{} or less", "le"),
    "finite_number": lambda found: f"{show(found['input'])} is not a finite number; give one",
    "string_too_short": lambda found: "is empty; give some text, or remove the line",
    "too_short": lambda found: f"{show(found['input'])} is empty; give at least one entry",
    "tuple_type": _wanted("a list such as [a, b]"),
    "dict_type": _wanted("a mapping such as {key: value}"),
    "model_type": _section,
    "value_error": lambda found: f"{show(found['input'])} cannot be used; {found['ctx']['error']}",
    "invalid-json-value": lambda found: (
        f"{show(found['input'])} is no plain value; give numbers, text, lists or mappings"
    ),
}


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
