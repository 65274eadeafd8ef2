"""The sides of "x = 84/2 = 42": which are names, and what value all the others have."""

import re

from rewards.quantity import Quantity, read_quantity, read_unit, same_quantity, same_unit
from rewards.symbolic import TRIALS, Values, read_expression, same_values
from rewards.text import fold, plain
from rewards.words import ARTICLES, DOUBT, LEADS, Known, may_stand

_LEAD_IN = re.compile(
    r"[*_]{0,2}(?:(?:so|thus|hence|therefore)\b,?\s+)?(?:it(?:\s+is|'s)\b:?\s*|"
    r"(?:(?:the|my|our)\s+)?(?:(?:final|correct|right)\s+)?"
    r"(?:answer|result|solution|value|total|sum|option|choice)"
    r"(?:[*_]{0,2}\s*:[*_]{0,2}|\s+(?:is|equals)\b:?(?:\s+option\b)?)\s*)",
    re.IGNORECASE,
)
_INDEX = r"(?:_(?:[A-Za-z0-9]|\{(?:[A-Za-z]?[0-9]{0,3}|[A-Z]{2,3}|max|min|total|new|old)\}))?'{0,2}"
_GREEK = "alpha|beta|gamma|delta|epsilon|theta|lambda|mu|nu|phi|psi|omega|rho|sigma|tau"
_SYMBOL = re.compile(rf"(?:[A-Za-z]|\\(?:{_GREEK})(?![A-Za-z]) ?){_INDEX}")
_ARGUMENT = r"(?:[A-Za-z]|-?[0-9]{1,4})"
_CALLED = re.compile(rf"{_SYMBOL.pattern}\s*\(\s*{_ARGUMENT}(?:\s*,\s*{_ARGUMENT}){{0,3}}\s*\)")
_POINT = re.compile(r"\([A-Za-z](?:\s*,\s*[A-Za-z])+\)")
_DRAWN = re.compile(r"[A-Z]{2,3}|(?:m\s*)?\\angle\s*[A-Z]{1,4}")  # a line, an angle
_PHRASE = re.compile(r"[^\W\d_]+(?:[ ]+[^\W\d_]+){0,7}")
_OF_SYMBOL = re.compile(r"(?<=\bof )\s*(?:[a-z]|[A-Z]{1,4})\Z")
_IS = re.compile(rf"(?:(?:the\s+)?value\s+of\s+)?({_SYMBOL.pattern})\s+(?:is|equals)\s+(?=\S)", re.IGNORECASE)
_UNITS_BEHIND = re.compile(
    r"(?<=[0-9A-Za-z)}])[ \t]+((?:[A-Za-z]+(?:/[A-Za-z]+)?(?:\^?\{?[23]\}?)?[ \t]*){1,3})"
)
WORDS = re.compile(r"[A-Za-z]{3,}(?:[ '-][A-Za-z]+)*|[A-Za-z]{2}|[0-9]+(?:\s*:\s*[0-9]+)+")


def behind_lead_in(text: str) -> str:
    """Return `text` without "The answer is", as `plain` spells it."""
    text = plain(text)
    lead_in = _LEAD_IN.match(text)
    return plain(text[lead_in.end() :]) if lead_in else text


def _sides(text: str) -> list[str]:
    text = _IS.sub(r"\1 = ", plain(text), count=1) if _IS.match(plain(text)) else behind_lead_in(text)
    return [plain(side) for side in text.removeprefix("=").split("=")]


def value_side(text: str, known: Known) -> str | None:
    """Return the value in "x = 11", or the text itself where it is no equation, or None.

    The other sides must be names or come to that value: "x^2 + y^2 = 1" is not the number 1.
    """
    sides = _sides(text)
    if "" in sides:
        return None
    if len(sides) > 1 and known is not None and WORDS.fullmatch(sides[-1]):
        known = frozenset()  # Tuesday = Monday, both of the question, names nothing
    *left, right = [side for side in sides if not is_name(side, known)] or sides[-1:]
    holds = all(_leads_to(side, right, known) for side in left)
    return right if holds and not _in_terms_of_itself(sides, right, known) else None


def symbols(text: str) -> frozenset[str]:
    """Return the letters that `text` says the value of: x in "x = 5"; empty where it names none."""
    sides = _sides(text)
    return frozenset(side.replace(" ", "") for side in sides if len(sides) > 1 and _SYMBOL.fullmatch(side))


def is_name(side: str, known: Known) -> bool:
    """Whether `side` says what has the value: a letter, f(x), a line, an angle, or words that may do so."""
    if any(map(DOUBT.fullmatch, side.casefold().split())):
        return False
    if _SYMBOL.fullmatch(side) or _CALLED.fullmatch(side) or _DRAWN.fullmatch(side):
        return True
    if _POINT.fullmatch(side):  # (y, x) turns a point around
        conventional = [letter for letter in side if letter in "xyz"]
        return conventional == sorted(conventional)
    side = _OF_SYMBOL.sub("", side).strip() or side
    if not _PHRASE.fullmatch(side):
        return False
    words = side.casefold().split()
    return not ARTICLES.issuperset(words) and all(may_stand(word, known, LEADS) for word in words)


def _in_terms_of_itself(sides: list[str], right: str, known: Known) -> bool:
    """x = 2x + 1 gives no value of x."""
    if len(sides) == 1 or read_quantity(right, known) is not None or WORDS.fullmatch(right):
        return False
    bare = re.sub(r"\\[A-Za-z]+", " ", split_unit(right, known)[0])
    letters = {side for side in sides if len(side) == 1 and side.isalpha() and side != right}
    return any(re.search(rf"(?<![A-Za-z_]){letter}(?![A-Za-z])", bare) for letter in letters)


def _leads_to(side: str, right: str, known: Known) -> bool:
    """Whether `side` is equal to `right`."""
    number, value = read_quantity(side, known), read_quantity(right, known)
    if number is not None and value is not None and same_quantity(gold=value, predicted=number):
        return True
    if number and value and (number.decimal or not same_unit(number.unit, value.unit)):
        return False
    if fold(side) == fold(right):
        return True
    left = values_of(split_unit(side, known)[0], known)
    stated = read_expression(str(value.value)) if value else values_of(split_unit(right, known)[0], known)
    if value and value.unit == frozenset("%"):
        return False
    if left is None or stated is None:
        return False
    # 10/3 = 3.33 is what people write; a whole number is exact.
    rounded = 1e-6 if "." in side else 0
    return same_values(gold=left, predicted=stated, tolerance=1e-2 if value and value.decimal else rounded)


def values_of(side: str, known: Known) -> Values | None:
    """Return the values of a number or expression without unit, as `read_expression` does."""
    number = read_quantity(side, known)
    if isinstance(number, Quantity) and not number.unit:
        return (number.value,) * TRIALS
    return read_expression(side)


def split_unit(side: str, known: Known) -> tuple[str, frozenset[str]]:
    """Split "12 \\pi square inches" into the expression and its unit."""
    match = _UNITS_BEHIND.search(side)
    if match is None or match.end() != len(side):
        return side, frozenset()
    unit = read_unit(f" {match[1]}", known)
    whole = unit and not re.fullmatch("degrees?|[a-z]|[abd-jnp-z]{2,3}", match[1].strip())
    return (side[: match.start()], unit) if unit and whole else (side, frozenset())
