"""countdown: an expression over the given numbers, each used once, that reaches the target."""

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from rewards.response import Response
from rewards.score import Score
from rewards.text import plain

MAX_CHARACTERS = 500
MAX_DEPTH = 50

_TOKEN = re.compile(r"\s*(?:([0-9]{1,12})(?![0-9.])|(\\times|\\cdot|\\div|[-+*/()]))")
_INTEGER = re.compile(r"\s*-?[0-9]{1,12}\s*")
_SPELLING = {"\\times": "*", "\\cdot": "*", "\\div": "/"}


class _Unreadable(Exception):
    """The text is no expression in + - * / and brackets over whole numbers."""


def evaluate(text: str) -> tuple[Fraction, list[int]] | None:
    """Return the exact value of an arithmetic expression and the numbers it uses, or None.

    Allowed are whole numbers, + - * / in their plain, Unicode and LaTeX spellings, brackets and a sign in
    front. Nothing is ever executed. None for anything else and for a division by zero.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    try:
        parser = _Parser(plain(text))
        value = parser.sum(depth=0)
        if parser.token:
            return None
    except (_Unreadable, ZeroDivisionError):
        return None
    return value, parser.used


class _Parser:
    """Recursive descent: sum = term {(+|-) term}; term = atom {(*|/) atom}; atom = number, -atom, (sum)."""

    def __init__(self, text: str) -> None:
        self.used: list[int] = []
        self._tokens = self._scan(text)
        self.token = next(self._tokens)

    @staticmethod
    def _scan(text: str) -> Iterator[str]:
        position = 0
        text = text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise _Unreadable
            yield match[1] or _SPELLING.get(match[2], match[2])
            position = match.end()
        while True:
            yield ""

    def _take(self) -> str:
        token, self.token = self.token, next(self._tokens)
        return token

    def sum(self, depth: int) -> Fraction:
        value = self.term(depth)
        while self.token in ("+", "-"):
            value = value + self.term(depth) if self._take() == "+" else value - self.term(depth)
        return value

    def term(self, depth: int) -> Fraction:
        value = self.atom(depth)
        while self.token in ("*", "/"):
            value = value * self.atom(depth) if self._take() == "*" else value / self.atom(depth)
        return value

    def atom(self, depth: int) -> Fraction:
        token = self._take()
        if token.isdigit():
            self.used.append(int(token))
            return Fraction(int(token))
        if depth >= MAX_DEPTH or token not in ("-", "("):
            raise _Unreadable
        if token == "-":
            return -self.atom(depth + 1)
        value = self.sum(depth + 1)
        if self._take() != ")":
            raise _Unreadable
        return value


def countdown(response: Response, *, numbers: Any, target: Any) -> Score:
    """1.0 if the answer uses each of `numbers` exactly once and equals `target`, else 0.0.

    The answer may write its value out behind "="; it must then be the target as well. Whole numbers may come
    as floats or in an array, as pandas has them, and the target as text. Abstains where `numbers` or `target`
    hold anything else.
    """
    given = [_whole(number) for number in numbers] if _is_list(numbers) else [None]
    whole = int(target) if isinstance(target, str) and _INTEGER.fullmatch(target) else _whole(target)
    known = [number for number in given if number is not None]
    if whole is None or len(known) < len(given):
        return Score(None, f"cannot be read: numbers {numbers!r:.80}, target {target!r:.80}")
    if response.answer is None:
        return Score(0.0, f"no answer: {', '.join(response.problems)}")
    expression, equals, stated = plain(response.answer).partition("=")
    result = evaluate(expression)
    written = evaluate(stated) if equals else (Fraction(whole), [])
    if result is None or written is None:
        return Score(0.0, f"unreadable answer: {response.answer!r:.80}")
    value, used = result
    if sorted(used) != sorted(known):
        return Score(0.0, f"wrong numbers: uses {sorted(used)}, not {sorted(known)}")
    if value != whole:
        return Score(0.0, f"wrong: {expression.strip()!r:.80} is {value}, not {whole}")
    if written[0] != whole or len(written[1]) > 1:
        return Score(0.0, f"wrong: behind '=' stands {stated.strip()!r:.80}, not {whole}")
    return Score(1.0, "correct")


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) or (hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1)


def _whole(value: Any) -> int | None:
    """The whole number that a value of Python or numpy is, or None."""
    value = value.item() if getattr(value, "shape", None) == () else value
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value)
