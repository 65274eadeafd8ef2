"""accuracy: is the answer behind the reasoning the gold answer?"""

import re
from collections.abc import Callable

from rewards.base import nearest
from rewards.quantity import Quantity, read_quantity, same_quantity
from rewards.response import Response
from rewards.score import Score
from rewards.symbolic import Values, read_expression, same_values
from rewards.text import fold, plain

MAX_CHARACTERS = 4000

_LEAD_IN = re.compile(r"(?:the\s+)?(?:final\s+|correct\s+)?answer(?:\s*:|\s+is\b:?)\s*", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z][A-Za-z_ ]{0,40}|[A-Za-z]\s*\([A-Za-z]\)|\\[a-z]+")
_ARITHMETIC = re.compile(r"(?:\\times|\\cdot|\\div|[-+*/^(). 0-9])+")
_NEGATED = re.compile(r"\b(?:not|never|no|isn|or)\b", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z]{3,}(?:[ '-][A-Za-z]+)*|[A-Za-z]{2}|[0-9]{1,2}(?::[0-9]{2})+")
_CHOICE = re.compile(r"[(\[]?([A-Za-z0-9])[)\].:]?")

Compare = Callable[[str], bool | None]


def _value_side(text: str) -> str | None:
    """Return the right side of "x = 11", or the text itself where it is no equation, or None.

    The other sides must be a name or plain arithmetic: "x^2 + y^2 = 1" is not the number 1, and a side that
    is itself a number must be the same one.
    """
    lead_in = _LEAD_IN.match(text)
    *left, right = (plain(side) for side in text[lead_in.end() if lead_in else 0 :].split("="))
    for side in left:
        if _NAME.fullmatch(side) and not _NEGATED.search(side):
            continue
        number, value = read_quantity(side), read_quantity(right)
        if number is None and not _ARITHMETIC.fullmatch(side):
            return None
        if number is not None and (value is None or not same_quantity(gold=value, predicted=number)):
            return None
    return right


def _number(gold: str) -> Compare | None:
    side = _value_side(plain(gold))
    wanted = None if side is None else read_quantity(side)
    if wanted is None:
        return None

    def compare(answer: str) -> bool | None:
        side = _value_side(plain(answer))
        found = None if side is None else read_quantity(side)
        # Only a number counts, no sum that is still to be worked out: it could be copied from the question.
        return None if found is None else same_quantity(gold=wanted, predicted=found)

    return compare


def _math(gold: str) -> Compare | None:
    number = _number(gold)
    if number is not None:
        return number
    gold_side = _value_side(plain(gold))
    wanted = None if gold_side is None else read_expression(gold_side)
    if wanted is None:
        words = _WORDS.fullmatch(plain(gold))
        return (lambda answer: fold(plain(answer)) == fold(plain(gold))) if words else None

    def compare(answer: str) -> bool | None:
        side = _value_side(plain(answer))
        found = None if side is None else _values(side)
        if found is None:
            return None
        # A decimal stands for a number that has no exact one: sqrt(2) as 1.414214.
        rounded = "." in f"{side}{gold_side}"
        return same_values(gold=wanted, predicted=found, tolerance=1e-6 if rounded else 1e-25)

    return compare


def _values(side: str) -> Values | None:
    number = read_quantity(side)
    if isinstance(number, Quantity) and not number.unit:
        return read_expression(f"{number.value.numerator}/{number.value.denominator}")
    return read_expression(side)


def _choice(gold: str) -> Compare | None:
    wanted = _CHOICE.fullmatch(plain(gold))
    if wanted is None:
        return None

    def compare(answer: str) -> bool | None:
        found = _CHOICE.fullmatch(plain(answer))
        return None if found is None else found[1].upper() == wanted[1].upper()

    return compare


def _exact(gold: str) -> Compare | None:
    return (lambda answer: fold(answer) == fold(gold)) if fold(gold) else None


ANSWER_TYPES: dict[str, Callable[[str], Compare | None]] = {
    "math": _math,
    "number": _number,
    "choice": _choice,
    "exact": _exact,
}


def accuracy(
    response: Response, *, answer: str | int | float | None, answer_type: str | None = None
) -> Score:
    """1.0 if the response's answer equals the gold `answer`, else 0.0; abstains where the gold is unreadable.

    `answer_type` (default "math") says how: "number" reads one exact number; "math" also expressions and,
    where the gold is a word or a clock time, that word; "choice" one letter; "exact" folds case and white
    space. Raises ValueError for any other type.
    """
    kind = answer_type or "math"
    if kind not in ANSWER_TYPES:
        raise ValueError(f"answer_type {kind!r} is not known: {nearest(kind, ANSWER_TYPES)}")
    gold = "" if answer is None else str(answer)
    compare = ANSWER_TYPES[kind](gold) if len(gold) <= MAX_CHARACTERS else None
    if compare is None:
        return Score(None, f"the gold answer {gold!r:.80} cannot be read as {kind}")
    if response.answer is None:
        return Score(0.0, f"no answer: {', '.join(response.problems)}")
    if len(response.answer) > MAX_CHARACTERS:
        return Score(0.0, f"unreadable answer: {len(response.answer)} characters")
    if response.answer == gold.strip():
        return Score(1.0, "correct")
    equal = compare(response.answer)
    if equal is None:
        return Score(0.0, f"unreadable answer: {response.answer!r:.80}")
    return Score(1.0, "correct") if equal else Score(0.0, f"wrong: {response.answer!r:.80}, not {gold!r:.80}")
