"""Plain numbers as people and models write them, read exactly.

1,234   -5.50   1 1/2   \\frac{1}{2}   3 \\times 10^{8}   $29.00   72 clips   50%
A text with anything else in it, above all a second number, is not one.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 2000

_N = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+"
_TEX_FRACTION = re.compile(
    rf"\\frac\s*\{{\s*(-?)\s*({_N})\s*\}}\s*\{{\s*({_N})\s*\}}|\\frac\s*([0-9])\s*([0-9])"
)
_POWER_OF_TEN = re.compile(
    r"\s*(?:\\times|\\cdot|\*)\s*10\s*(?:\^|\*\*)\s*(?:\{\s*(-?[0-9]{1,3})\s*\}|(-?[0-9]{1,3}))"
)
_QUANTITY = re.compile(
    rf"""(?P<sign>[-+]?)\s* (?P<currency>[$€£¥]?)\s* (?P<sign_behind>-?)\s*
    (?P<whole>[0-9]+\s+(?=[0-9]+/))?
    (?P<top>{_N}) (?:\s*/\s*(?P<bottom>{_N}))? (?:[eE](?P<exponent>[-+]?[0-9]{{1,3}}))?
    (?P<tail>.*)""",
    re.VERBOSE | re.DOTALL,
)
_CURRENCY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
# Two letters are a unit only if they are one that is known: "5 xy" is a product.
_SHORT = r"mm|cm|km|in|ft|mi|mg|kg|lbs?|oz|ml|hrs?|min|sec|ms|mph|kph|am|pm"
_WORD = re.compile(rf"({_SHORT}|[a-z]{{3,}})(?:/[a-z]+)?(?:\^?[23])?")
_ATTACHED = re.compile(rf"(?:{_SHORT})(?![a-z])")
# Words behind a number that change its value, take it back, or add another.
_NOT_UNITS = re.compile(
    r"or|and|not?|nor|never|wrong|incorrect|except|if|but|either|maybe|to|than|through|about|least|most|more|less"
    r"|minus|plus|times|over|divided|by|squared|cubed|factorial|mod|modulo|choose|remainder|negative|positive"
    r"|hal(?:f|ves)|thirds?|quarters?|fourths?|fifths?|tenths?|hundredths?|one|two|three|four|five|six|seven|eight"
    r"|nine|ten|hundred|thousand|[mb]illion|trillion|dozen|pi|sqrt|sin|cos|tan|log|ln|exp"
)


@dataclass(frozen=True)
class Quantity:
    """An exact value and its unit as a set of words in the singular; "%" for percent, empty for none."""

    value: Fraction
    unit: frozenset[str]


def read_quantity(text: str) -> Quantity | None:
    """Read `text` (as `rewards.text.plain` returns it) as one number, or return None."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = _TEX_FRACTION.sub(lambda m: f" {m[1]}{m[2]}/{m[3]}" if m[2] else f" {m[4]}/{m[5]}", text).lstrip()
    text = _POWER_OF_TEN.sub(lambda m: f"e{m[1] or m[2]}", text)
    match = _QUANTITY.fullmatch(text)
    if match is None or (match["sign"] and match["sign_behind"]):
        return None
    unit = _unit(match["tail"])
    if unit is None or (unit and match["currency"]):
        return None
    top = Fraction(match["top"].replace(",", ""))
    bottom = Fraction((match["bottom"] or "1").replace(",", ""))
    if bottom == 0:
        return None
    value = top / bottom * Fraction(10) ** int(match["exponent"] or 0)
    if match["whole"]:
        if value >= 1:  # "2 4/3" is no mixed number
            return None
        value += int(match["whole"])
    if "-" in (match["sign"], match["sign_behind"]):
        value = -value
    return Quantity(value, frozenset({_CURRENCY[match["currency"]]}) if match["currency"] else unit)


def _unit(tail: str) -> frozenset[str] | None:
    """Return the unit that the text behind a number names, or None if it is more than a unit."""
    words = tail.casefold().replace(",", " ").split()
    if not words:
        return frozenset()
    if words in (["%"], ["percent"]):
        return frozenset("%")
    if len(words) == 1 and words[0] in _CURRENCY:
        return frozenset({_CURRENCY[words[0]]})
    matches = [_WORD.fullmatch(word) for word in words]
    attached = not tail[0].isspace() and tail[0] != "," and not _ATTACHED.match(tail.casefold())
    if (
        attached
        or len(words) > 5
        or any(match is None or _NOT_UNITS.fullmatch(match[1]) for match in matches)
    ):
        return None
    return frozenset(word.rstrip("es") for word in words)


def same_quantity(*, gold: Quantity, predicted: Quantity) -> bool:
    """Whether two quantities are equal.

    A unit that only one of them names says nothing, and two that share no word contradict each other. A
    percent sign may be the unit of a bare gold (50 for 50%) or part of the value (0.5 for 50%).
    """
    if gold.unit and predicted.unit and not gold.unit & predicted.unit:
        return False
    if gold.value == predicted.value:
        return True
    percent = frozenset("%")
    if gold.unit == percent and not predicted.unit:
        return gold.value / 100 == predicted.value
    return predicted.unit == percent and not gold.unit and gold.value == predicted.value / 100
