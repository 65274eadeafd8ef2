"""Answers that say what holds: ranges, inequalities, equations of curves, systems of values; and matrices.

Each reader takes a text as `rewards.text.plain` returns it and gives its parts as texts, or None.
"""

import re

from rewards.collection import read_elements, read_tuple
from rewards.text import plain, unwrap

MAX_CELLS = 50

_SIGNS = {
    "<=": "<=", "\u2264": "<=", "\\le": "<=", "\\leq": "<=", "\\leqslant": "<=",
    ">=": ">=", "\u2265": ">=", "\\ge": ">=", "\\geq": ">=", "\\geqslant": ">=",
    "<": "<", "\\lt": "<", ">": ">", "\\gt": ">", "=": "=",
}  # fmt: skip
_SIGN = re.compile(r"(\\(?:[lg]t|[lg]eq?|[lg]eqslant)(?![A-Za-z])|<=|>=|[<>=\u2264\u2265])")
_TURNED = {">": "<", ">=": "<="}
_LETTER = re.compile(r"[A-Za-z](?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]{1,5}\}))?")
_UNION = re.compile(r"\\cup(?![A-Za-z])|\u222a|(?<=[)\]])\s*U\s*(?=[(\[])")
_OR = re.compile(r"\s+or\s+|\\(?:lor|vee)(?![A-Za-z])")
_MATRIX = re.compile(r"\\begin\{([pb]?matrix)\}(.*)\\end\{\1\}", re.DOTALL)
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?")


def _sides(text: str) -> tuple[list[str], list[str]]:
    """Split "1 < x \\le 3" into its sides and the signs between them, ">" turned to "<" where all are."""
    pieces = _SIGN.split(text)
    sides, signs = [plain(side) for side in pieces[::2]], [_SIGNS[sign] for sign in pieces[1::2]]
    if signs and all(sign in _TURNED for sign in signs):
        return sides[::-1], [_TURNED[sign] for sign in reversed(signs)]
    return sides, signs


def read_range(text: str) -> tuple[str, list[str]] | None:
    """Read "x > 2" or "1 < x \\le 3" as an interval, in the way of `read_tuple`: ("(]", ["1", "3"])."""
    sides, signs = _sides(text)
    if not 1 <= len(signs) <= 2 or not set(signs) <= {"<", "<="} or not all(sides):
        return None
    if len(signs) == 1:
        # Infinity is an end without a sign: x < 3 is (-\infty, 3).
        below = bool(_LETTER.fullmatch(sides[0]))
        sides = ["-\\infty", *sides] if below else [*sides, "\\infty"]
        signs = ["<", *signs] if below else [*signs, "<"]
    low, name, high = sides
    unknown = re.compile(rf"(?<![\\A-Za-z]){re.escape(name)}(?![A-Za-z])")
    if not _LETTER.fullmatch(name) or any(unknown.search(e) or _LETTER.fullmatch(e) for e in (low, high)):
        return None
    return ("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")"), [low, high]


def read_ranges(text: str) -> list[tuple[str, list[str]]] | None:
    """Read one interval or a union: "(-\\infty, -1) \\cup [1, 2]", "x < -1 or x \\ge 2"."""
    separator = _OR if _SIGN.search(text) else _UNION
    ranges = [read_range(part) or read_tuple(plain(part)) for part in separator.split(text)]
    found = [one for one in ranges if one is not None and len(one[1]) == 2]
    return found if len(found) == len(ranges) else None


def read_equation(text: str) -> tuple[str, str, str] | None:
    """Read an equation or inequality as (left side, sign, right side), the sign one of = < <=."""
    sides, signs = _sides(text)
    if len(signs) != 1 or not all(sides):
        return None
    return sides[0], signs[0], sides[1]


def read_system(text: str) -> dict[str, str] | None:
    """Read "x = 2, y = 3" or "(x, y) = (2, 3)" as the value of each name, a letter that is there once."""
    elements = None if _OR.search(text) else read_elements(text)
    pairs = [read_equation(element) for element in elements or ()]
    if len(pairs) == 1 and pairs[0] is not None:
        names, values = read_tuple(pairs[0][0]), read_tuple(pairs[0][2])
        if names is None or values is None or len(names[1]) != len(values[1]):
            return None
        pairs = [(name, pairs[0][1], value) for name, value in zip(names[1], values[1], strict=True)]
    found = {pair[0]: pair[2] for pair in pairs if pair and pair[1] == "=" and _LETTER.fullmatch(pair[0])}
    return found if len(found) == len(pairs) > 1 else None


def read_matrix(text: str) -> list[list[str]] | None:
    """Read a pmatrix, bmatrix or matrix as its rows; `text` is an answer as it was written."""
    match = _MATRIX.fullmatch(unwrap(text))
    if match is None or "\\begin" in match[2] or match[2].count("&") + match[2].count("\\\\") >= MAX_CELLS:
        return None
    rows = [[plain(cell) for cell in row.split("&")] for row in _ROW_END.split(match[2]) if row.strip()]
    complete = rows and all(len(row) == len(rows[0]) and all(row) for row in rows)
    return rows if complete else None
