"""accuracy: is the answer behind the reasoning the gold answer?

A text has at most one reading, and a gold answer one way to be met. So nothing is gained by what a policy
tries instead of an answer: several candidates, a doubt, a denial, the question once more.
"""

import re
from collections.abc import Callable
from functools import lru_cache

from rewards.base import nearest
from rewards.collection import read_elements, read_tuple
from rewards.quantity import DOUBT, Quantity, read_quantity, read_unit, same_quantity
from rewards.relation import read_equation, read_matrix, read_range, read_ranges, read_system
from rewards.response import Response
from rewards.score import Score
from rewards.symbolic import TRIALS, Values, factor_between, read_expression, same_values
from rewards.text import fold, plain

MAX_CHARACTERS = 4000

_LEAD_IN = re.compile(
    r"[*_]{0,2}(?:(?:so|thus|hence|therefore)\b,?\s+)?(?:(?:the|my|our)\s+)?(?:(?:final|correct|right)\s+)?"
    r"(?:answer|result|solution|value|total|sum|option|choice)"
    r"(?:[*_]{0,2}\s*:[*_]{0,2}|\s+(?:is|equals)\b:?(?:\s+option\b)?)\s*",
    re.IGNORECASE,
)
_NAME = re.compile(
    r"[A-Za-z][A-Za-z_ ]{0,40}|[A-Za-z](?:_(?:[A-Za-z0-9]|\{[A-Za-z0-9]{1,5}\}))?"
    r"(?:\s*\([A-Za-z0-9, ]{1,9}\))?|\([A-Za-z](?:\s*,\s*[A-Za-z])+\)|(?:m\s*)?\\angle\s*[A-Z]{1,3}|\\[a-z]+"
)
_ARITHMETIC = re.compile(r"(?:\\(?:times|cdot|div|frac|sqrt)|[-+*/^(){}. 0-9%$])+")
_INFINITY = re.compile(r"([-+]?)\s*(?:\\infty|infinity|inf)", re.IGNORECASE)
_WORDS = re.compile(
    r"[A-Za-z]{3,}(?:[ '-][A-Za-z]+)*|[A-Za-z]{2}"
    r"|[0-9]+(?:\s*:\s*[0-9]+)+"
)
_UNITS_BEHIND = re.compile(r"(?<=[0-9A-Za-z)}])\s+((?:[A-Za-z]+(?:\^?\{?[23]\}?)?\s*){1,3})")
_HAS_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_CHOICE = re.compile(r"(?:option\s+|choice\s+)?[(\[]?([A-Za-z0-9])[)\].:]?", re.IGNORECASE)

Compare = Callable[[str], bool | None]


def _behind_lead_in(text: str) -> str:
    """Return `text` without "The answer is", as `plain` spells it."""
    text = plain(text)
    lead_in = _LEAD_IN.match(text)
    return plain(text[lead_in.end() :]) if lead_in else text


def _value_side(text: str) -> str | None:
    """Return the value in "x = 11", or the text itself where it is no equation, or None.

    The other sides must be names or plain arithmetic: "x^2 + y^2 = 1" is not the number 1, and a side that
    is itself a number must be the same one.
    """
    text = _behind_lead_in(text)
    sides = [plain(side) for side in text.removeprefix("=").split("=")]
    if "" in sides:
        return None
    *left, right = [side for side in sides if not _is_name(side)] or sides[-1:]
    return right if all(_leads_to(side, right) for side in left) else None


def _leads_to(side: str, right: str) -> bool:
    """Whether `side` is a number equal to `right`, or arithmetic that comes to it."""
    number, value = read_quantity(side), read_quantity(right)
    if number is not None and value is not None and same_quantity(gold=value, predicted=number):
        return True
    if not _ARITHMETIC.fullmatch(side) or (number is not None and (value is None or number.decimal)):
        return False
    if value is None:
        return True
    worked_out, stated = _values(side), _values(str(value.value))
    if worked_out is None or stated is None:
        return False
    # 10/3 = 3.33 is what people write; a whole number is exact.
    return same_values(gold=worked_out, predicted=stated, tolerance=1e-2 if value.decimal else 0)


def _is_name(side: str) -> bool:
    return bool(_NAME.fullmatch(side)) and not any(map(DOUBT.fullmatch, side.lower().split()))


def _number(gold: str) -> Compare | None:
    side = _value_side(gold)
    wanted = None if side is None else read_quantity(side)
    if wanted is None:
        return None

    def compare(answer: str) -> bool | None:
        side = _value_side(answer)
        found = None if side is None else read_quantity(side)
        # Only a number counts, no sum that is still to be worked out: it could be copied from the question.
        return None if found is None else same_quantity(gold=wanted, predicted=found)

    return compare


def _math(gold: str) -> Compare | None:
    number = _number(gold)
    if number is not None:
        return number
    side = _value_side(gold)
    value = None if side is None else _tuple(side) or _infinity(side) or _expression(side) or _words(side)
    return _matrix(gold) or _ranges(gold) or _system(gold, value) or _equation(gold, value) or value


def _tuple(gold: str) -> Compare | None:
    """Points and intervals: the same brackets, and in them the same elements in the same order."""
    wanted = read_tuple(gold)
    compares = [_math(element) for element in wanted[1]] if wanted else []
    if wanted is None or None in compares:
        return None
    brackets = wanted[0]

    def compare(answer: str) -> bool | None:
        side = _value_side(answer)
        found = (None if side is None else read_tuple(side)) or read_range(_behind_lead_in(answer))
        if found is None:
            return None
        if found[0] != brackets or len(found[1]) != len(compares):
            return False
        pairs = zip(compares, found[1], strict=True)
        return all(element is not None and element(text) for element, text in pairs)

    return compare


def _matrix(gold: str) -> Compare | None:
    wanted = read_matrix(gold)
    compares = [[_math(cell) for cell in row] for row in wanted or ()]
    if wanted is None or any(None in row for row in compares):
        return None

    def compare(answer: str) -> bool | None:
        found = read_matrix(answer)
        if found is None:
            return None
        if (len(found), len(found[0])) != (len(compares), len(compares[0])):
            return False
        rows = zip(compares, found, strict=True)
        cells = (pair for row, texts in rows for pair in zip(row, texts, strict=True))
        return all(cell is not None and cell(text) for cell, text in cells)

    return compare


def _ranges(gold: str) -> Compare | None:
    """Inequalities in one letter and unions of intervals, in any order."""
    text = _behind_lead_in(gold)
    wanted = None if read_tuple(text) else read_ranges(text)
    compares = [(brackets, [_math(end) for end in ends]) for brackets, ends in wanted or ()]
    if wanted is None or any(None in ends for _, ends in compares):
        return None

    def compare(answer: str) -> bool | None:
        found = read_ranges(_behind_lead_in(answer))
        if found is None:
            return None
        left = list(found)
        for brackets, ends in compares:
            met = [
                one
                for one in left
                if one[0] == brackets
                and all(end is not None and end(text) for end, text in zip(ends, one[1], strict=True))
            ]
            if not met:
                return False
            left.remove(met[0])
        return not left

    return compare


def _system(gold: str, value: Compare | None) -> Compare | None:
    """A value for each name, in any order; or what `value` takes."""
    wanted = read_system(_behind_lead_in(gold))
    compares = {name: _math(value) for name, value in (wanted or {}).items()}
    if wanted is None or None in compares.values():
        return None

    def compare(answer: str) -> bool | None:
        found = read_system(_behind_lead_in(answer))
        if found is None:
            return None if value is None else value(answer)
        same = found.keys() == compares.keys()
        return same and all(met is not None and met(found[name]) for name, met in compares.items())

    return compare


def _equation(gold: str, value: Compare | None) -> Compare | None:
    """An equation or inequality of letters, moved around or multiplied by a number; or what `value` takes."""
    wanted = _difference(gold)
    if wanted is None:
        return None

    def compare(answer: str) -> bool | None:
        said = None if value is None else value(answer)
        found = None if said else _difference(answer)
        if found is None:
            return said
        factor = factor_between(wanted[1], found[1]) if wanted[0] == found[0] else None
        return factor is not None and (wanted[0] == "=" or factor > 0)

    return compare


def _difference(text: str) -> tuple[str, Values] | None:
    """Return the sign of a relation and what its left side has over its right; None if a side is a value."""
    equation = read_equation(_behind_lead_in(text))
    # x = \sqrt{2} is an answer, 2x = 2 \sqrt{2} is still to be solved.
    if equation is None or (_is_name(equation[0]) and not _HAS_LETTER.search(equation[2])):
        return None
    values = read_expression(f"({equation[0]})-({equation[2]})")
    return None if values is None else (equation[1], values)


def _infinity(gold: str) -> Compare | None:
    wanted = _INFINITY.fullmatch(gold)
    if wanted is None:
        return None

    def compare(answer: str) -> bool | None:
        found = _INFINITY.fullmatch(_value_side(answer) or "")
        return None if found is None else (found[1] == "-") == (wanted[1] == "-")

    return compare


def _expression(gold: str) -> Compare | None:
    gold, gold_unit = _split_unit(gold)
    wanted = read_expression(gold)
    if wanted is None:
        return None

    def compare(answer: str) -> bool | None:
        side, unit = _split_unit(_value_side(answer) or "")
        found = _values(side)
        if found is None:
            return None
        if unit and gold_unit and not unit & gold_unit:
            return False
        # A decimal stands for a number that has no exact one: sqrt(2) as 1.414214.
        rounded = "." in f"{side}{gold}"
        return same_values(gold=wanted, predicted=found, tolerance=1e-6 if rounded else 0)

    return compare


def _split_unit(side: str) -> tuple[str, frozenset[str]]:
    """Split "12 \\pi square inches" into the expression and its unit."""
    match = _UNITS_BEHIND.search(side)
    if match is None or match.end() != len(side):
        return side, frozenset()
    unit = read_unit(f" {match[1]}")
    known = unit and not re.fullmatch("degrees?|[a-z]|[abd-jnp-z]{2,3}", match[1].strip())
    return (side[: match.start()], unit) if unit and known else (side, frozenset())


def _values(side: str) -> Values | None:
    number = read_quantity(side)
    if isinstance(number, Quantity) and not number.unit:
        return (number.value,) * TRIALS
    return read_expression(side)


def _words(gold: str) -> Compare | None:
    if not _WORDS.fullmatch(gold):
        return None
    wanted = fold(gold)
    return lambda answer: fold(_value_side(answer) or "") == wanted


def _set(gold: str) -> Compare | None:
    """The same elements in any order, each once."""
    wanted = read_elements(_behind_lead_in(gold))
    compares = [compare for compare in map(_math, wanted or ()) if compare is not None]
    if wanted is None or len(compares) < len(wanted):
        return None
    if any(sum(bool(compare(element)) for element in wanted) != 1 for compare in compares):
        return None  # an element is there twice

    def compare(answer: str) -> bool | None:
        found = read_elements(_behind_lead_in(answer))
        if found is None:
            return None
        said = [[compare(element) for compare in compares] for element in found]
        if compares and any(verdicts.count(None) == len(verdicts) for verdicts in said):
            return None
        met = [verdicts.index(True) for verdicts in said if True in verdicts]
        return len(met) == len(found) and sorted(met) == list(range(len(compares)))

    return compare


def _choice(gold: str) -> Compare | None:
    wanted = _CHOICE.fullmatch(_behind_lead_in(gold))
    if wanted is None:
        return None

    def compare(answer: str) -> bool | None:
        found = _CHOICE.fullmatch(_behind_lead_in(answer))
        return None if found is None else found[1].upper() == wanted[1].upper()

    return compare


def _exact(gold: str) -> Compare | None:
    return (lambda answer: fold(answer) == fold(gold)) if fold(gold) else None


ANSWER_TYPES: dict[str, Callable[[str], Compare | None]] = {
    "math": _math,
    "number": _number,
    "choice": _choice,
    "exact": _exact,
    "set": _set,
}


@lru_cache(maxsize=1024)
def _reading(kind: str, gold: str) -> Compare | None:
    """Read a gold answer once for all completions of its group."""
    return ANSWER_TYPES[kind](gold) if len(gold) <= MAX_CHARACTERS else None


def accuracy(
    response: Response, *, answer: str | int | float | None, answer_type: str | None = None
) -> Score:
    """1.0 if the response's answer equals the gold `answer`, else 0.0; abstains where the gold is unreadable.

    `answer_type` (default "math") says how: "number" reads one exact number; "math" also expressions, points,
    intervals and, where the gold is a word, a ratio or a clock time, that; "set" elements in any order, each
    read as "math"; "choice" one letter; "exact" folds case and white space. Raises ValueError for any other.
    """
    kind = answer_type or "math"
    if kind not in ANSWER_TYPES:
        raise ValueError(f"answer_type {kind!r} is not known: {nearest(kind, ANSWER_TYPES)}")
    gold = "" if answer is None else str(answer)
    compare = _reading(kind, gold)
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
