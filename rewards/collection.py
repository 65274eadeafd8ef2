"""Answers of several elements: points, intervals and sets. What an element is, its reader says."""

import re

from rewards.text import closes_last, plain

MAX_ELEMENTS = 50
MAX_DEPTH = 12  # an element may be a point again, and is read by the reader that calls this one

_MEMBER = re.compile(r"[A-Za-z]\s*(?:\\in(?![A-Za-z])|=)\s*(?=\\?[{(\[])")
_SEPARATOR = re.compile(r"\s*[,;]\s*(?:(?:and|or)\s+)?|\s+(?:and|or)\s+")
_SPACED = re.compile(r",\s")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_ZERO_FIRST = re.compile(r"(?<=[0-9]),0[0-9]{2}(?![0-9])")  # 1,000 is no 1 and 000
_EMPTY = re.compile(
    r"\\emptyset|\\varnothing|\\?\{\s*\\?\}|(?:the )?empty set|none|no (?:real )?solutions?", re.IGNORECASE
)
_CLOSERS = {"(": ")", "[": "]", "{": "}"}


def read_tuple(text: str) -> tuple[str, list[str]] | None:
    """Read "(1, 2)", "[0, 1)" or "x \\in [0, 1)" as its two brackets and its elements, or return None."""
    text = _MEMBER.sub("", text, count=1).strip()
    if len(text) < 2 or text[0] not in "([" or text[-1] not in ")]":
        return None
    elements = _split(text[1:-1], re.compile(r"\s*,\s*"))
    if elements is None or len(elements) < 2:
        return None
    return text[0] + text[-1], elements


def read_elements(text: str) -> list[str] | None:
    """Read the elements of a set: "{1, 2}", "1, 2", "1 and 2", "x = 1 or x = 2", "\\pm 1"; None for no set.

    A comma separates also where it could group digits; only where other commas have a space behind them,
    one without groups: "1,000, 2,000" are two. Returns [] for the empty set.
    """
    if _EMPTY.fullmatch(text):
        return []
    text = _unbraced(_MEMBER.sub("", text, count=1).strip())
    elements = _split(text, _SEPARATOR)
    if elements is None:
        return None
    signed = [element.replace("\\pm", sign, 1) for element in elements for sign in _signs(element)]
    return signed if not any("\\pm" in element for element in signed) else None


def _signs(element: str) -> tuple[str, ...]:
    return ("+", "-") if "\\pm" in element else ("",)


def _unbraced(text: str) -> str:
    text = text.replace("\\{", "{").replace("\\}", "}")
    closer = _CLOSERS.get(text[:1])
    if closer and text.endswith(closer) and closes_last(text[1:-1], text[0], closer):
        return text[1:-1].strip()
    return text


def _split(text: str, separator: re.Pattern[str]) -> list[str] | None:
    """Split at the separators outside of brackets; None if a part is blank or a bracket is left open."""
    if _SPACED.search(text) or _ZERO_FIRST.search(text):
        text = _THOUSANDS.sub("", text)
    elements, start, depth, position = [], 0, 0, 0
    while position < len(text):
        depth += (text[position] in "([{") - (text[position] in ")]}")
        match = separator.match(text, position) if depth == 0 else None
        if match:
            elements.append(plain(text[start : match.start()]))
            start = match.end()
        position = max(position + 1, match.end() if match else 0)
        if not 0 <= depth <= MAX_DEPTH or len(elements) >= MAX_ELEMENTS:
            return None
    elements.append(plain(text[start:]))
    return elements if depth == 0 and all(elements) else None
