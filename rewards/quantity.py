"""Plain numbers as people and models write them, read exactly.

1,234   1 234   -5.50   1 1/2   \\frac{1}{2}   0.\\overline{3}   3 \\times 10^{8}   $29.00   72 clips   50%
A text has one reading or none. With anything else in it, above all a second number, it has none.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARACTERS = 2000
ROUNDED = Fraction(
    1, 10**12
)  # relative: 0.3333333333333333, as a computer prints 1/3, is 1/3; 0.333333 is not

# Digits in groups of three, or in the groups of India. One point is a decimal point, 1.234.567 has none.
_GROUPED = (
    r"[0-9]{1,3}(?:(?:,[0-9]{3})+|(?:[ ][0-9]{3})+|(?:'[0-9]{3})+|(?:_[0-9]{3})+)"
    r"|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}"
)
_N = rf"[0-9]{{1,3}}(?:\.[0-9]{{3}}){{2,}}|(?:{_GROUPED}|[0-9]+)(?![0-9])(?:\.[0-9]*)?|\.[0-9]+"
_ARGUMENT = rf"(?:\{{\s*(-?)\s*({_N})\s*\}}|\s*([0-9]))"
_TEX_FRACTION = re.compile(rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}")
_POWER_OF_TEN = re.compile(
    r"\s*(?:\\times|\\cdot|\*|(?<=[0-9])x|(?<=[0-9]\s)x)\s*10\s*(?:\^|\*\*)\s*"
    r"(?:\{\s*(-?[0-9]{1,3})\s*\}|\(\s*(-?[0-9]{1,3})\s*\)|(-?[0-9]{1,3}))"
)
_REPEATING = (
    r"\\overline\s*(?:\{(?P<repeat>[0-9]{1,50})\}|(?P<repeat_one>[0-9]))|\((?P<repeat_in>[0-9]{1,50})\)"
)
_QUANTITY = re.compile(
    rf"""(?P<sign>[-+]?|(?:negative|minus)\s)\s* (?P<currency>[$€£¥]?)\s* (?P<sign_behind>-?)\s*
    (?P<whole>[0-9]+[ \t]+(?=[0-9]+/))?
    (?P<top>{_N}) (?:(?<=[0-9.]){_REPEATING})? (?:\s*/\s*(?P<minus>-?)(?P<bottom>{_N}))?
    (?:[eE](?P<exponent>[-+]?[0-9]{{1,3}})(?![0-9]))?
    (?P<tail>.*)""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)
_CURRENCY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen"}
# A short word is a unit only if it is one that is known: "5 xy" is a product.
_SHORT = r"mm|cm|km|in|ft|yd|mi|mg|kg|lbs?|oz|ml|hrs?|min|sec|ms|mph|kph|am|pm"
_WORD = re.compile(rf"({_SHORT}|[mghls]|[a-z]{{3,}})(?:/([a-z]+))?(?:\^?\{{?([23])\}}?)?")
_SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion)\b", re.IGNORECASE)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ATTACHED = re.compile(rf"(?:{_SHORT})(?![a-z])")
_GAP = re.compile(r"\A\s*,|,\s*(?:,|\Z)")
# Words that change the value of a number beside them, take it back, hedge it, or add another.
DOUBT = re.compile(
    r"or|and|not?|nor|never|none|neither|cannot|isn|isnt|wrong|incorrect|invalid|false|untrue|opposite|unless|except"
    r"|if|but|either|maybe|perhaps|guess|unsure|unknown|doubt|about|around|approx|almost|nearly|ish|circa|to|than"
    r"|probably|possibly|likely|unlikely|hopefully|supposedly|presumably|roughly|approximately|hardly|(?:wrong|false)ly"
    r"|through|until|between|versus|least|most|more|less|fewer|over|under|above|below|plus|minus|times|divided|by"
    r"|squared|cubed|factorial|mod|modulo|choose|remainder|power|root|percent|negative|positive|hal(?:f|ves)|thirds?"
    r"|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|hundredths?|thousandths?|once|twice|thrice"
    r"|double|triple|zero|one|two|three|four|five|six|seven|eight|nine|tens?|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|twenty|thirty"
    r"|forty|fifty|sixty|seventy|eighty|ninety|hundreds?|thousands?|[mb]illions?|trillions?|dozens?|pi|sqrt|sin|cos|tan"
    r"|cot|sec|csc|log|ln|exp|infinity|infty"
)
_ALIASES = {
    "usd": "dollar", "eur": "euro", "gbp": "pound",
    "in": "inch", "inche": "inch", "feet": "foot", "ft": "foot", "yd": "yard", "mi": "mile", "lb": "pound",
    "oz": "ounce", "hr": "hour", "h": "hour", "min": "minute", "sec": "second", "s": "second",
    "mph": "mile hour", "kph": "km hour", "msec": "ms", "millisecond": "ms",
}  # fmt: skip
_POWERS = {"square": "2", "cubic": "3"}
_METRIC = {"kilo": "k", "centi": "c", "milli": "m", "": ""}
_STEMS = {"meter": "m", "metre": "m", "gram": "g", "liter": "l", "litre": "l"}
_ALIASES |= {p + s: _METRIC[p] + _STEMS[s] for p in _METRIC for s in _STEMS}


@dataclass(frozen=True)
class Quantity:
    """An exact value and its unit as a set of words in the singular; "%" for percent, empty for none.

    `decimal` tells that it was written with a decimal point, and so may be rounded.
    """

    value: Fraction
    unit: frozenset[str]
    decimal: bool = False


def read_quantity(text: str) -> Quantity | None:
    """Read `text` (as `rewards.text.plain` returns it) as one number, or return None."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.strip()
    if text[:1] + text[-1:] in ("()", "{}"):
        text = text[1:-1]
    text = _TEX_FRACTION.sub(_slashed, text).lstrip()
    text = _POWER_OF_TEN.sub(lambda m: f"e{m[1] or m[2] or m[3]}", text)
    match = _QUANTITY.fullmatch(text)
    if match is None or (match["sign"] and match["sign_behind"]):
        return None
    scale = _SCALE.match(match["tail"])
    unit = read_unit(match["tail"][scale.end() :] if scale else match["tail"])
    if unit is None or (unit and match["currency"]):
        return None
    value = _value(match)
    if value is None:
        return None
    if scale:
        value *= _SCALES[scale[1].lower()]
    if match["sign"].strip() not in ("", "+") or match["sign_behind"]:
        value = -value
    unit = frozenset({_CURRENCY[match["currency"]]}) if match["currency"] else unit
    return Quantity(value, unit, decimal="." in match["top"] and not (match["bottom"] or _repeat(match)))


def _slashed(match: re.Match[str]) -> str:
    top, bottom = match[2] or match[3], match[5] or match[6]
    return f" {match[1] or ''}{top}/{match[4] or ''}{bottom}"


def _value(match: re.Match[str]) -> Fraction | None:
    """Return what the digits say, without the sign in front."""
    top, bottom = _digits(match["top"]), _digits(match["bottom"] or "1")
    if repeat := _repeat(match):
        _, point, decimals = match["top"].partition(".")
        if not point or match["bottom"]:  # 5(3) is a product
            return None
        top += Fraction(int(repeat), (10 ** len(repeat) - 1) * 10 ** len(decimals))
    if bottom == 0:
        return None
    value = top / bottom * Fraction(10) ** int(match["exponent"] or 0)
    if match["whole"]:
        if value >= 1 or match["minus"]:  # "2 4/3" is no mixed number
            return None
        value += int(match["whole"])
    return -value if match["minus"] else value


def _repeat(match: re.Match[str]) -> str | None:
    return match["repeat"] or match["repeat_one"] or match["repeat_in"]


def _digits(text: str) -> Fraction:
    if text.count(".") > 1:
        text = text.replace(".", "")
    return Fraction(re.sub("[, '_]", "", text))


def read_unit(tail: str) -> frozenset[str] | None:
    """Return the unit that the text behind a number names, or None if it is more than a unit."""
    if _GAP.search(tail):  # "12, , cm" and "12, cm" leave something out
        return None
    words = tail.casefold().replace(",", " ").split()
    if not words:
        return frozenset()
    if words in (["%"], ["percent"], ["per", "cent"]):
        return frozenset("%")
    if len(words) == 1 and words[0] in _CURRENCY:
        return frozenset({_CURRENCY[words[0]]})
    attached = not tail[0].isspace() and not _ATTACHED.match(tail.casefold())
    if attached or len(words) > 5:
        return None
    unit: set[str] = set()
    power = ""
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None or any(part and DOUBT.fullmatch(part) for part in match.groups()):
            return None
        power = match[3] or power  # 25 cm^2 and 25 cm^3 share no word
        if word in _POWERS and word != words[-1]:
            power = _POWERS[word]
            continue
        unit.update(name + power for part in match.groups()[:2] if part for name in _names(part))
        power = ""
    return frozenset(unit)


def _names(word: str) -> list[str]:
    """Return one spelling for the short and the long name of a unit, and for singular and plural."""
    if len(word) > 2:
        word = word.removesuffix("s")
    words = _ALIASES.get(word, word).split()
    return [name.rstrip("es") if len(name) > 3 else name for name in words]


def same_quantity(*, gold: Quantity, predicted: Quantity) -> bool:
    """Whether two quantities are equal.

    A unit that only one of them names says nothing, and two that share no word contradict each other. A
    percent sign may be the unit of a bare gold (50 for 50%) or part of the value (0.5 for 50%).
    """
    if gold.unit and predicted.unit and not gold.unit & predicted.unit:
        return False
    if _equal(gold, predicted, Fraction(1)):
        return True
    percent = frozenset("%")
    if gold.unit == percent and not predicted.unit:
        return _equal(gold, predicted, Fraction(1, 100))
    return predicted.unit == percent and not gold.unit and _equal(gold, predicted, Fraction(100))


def _equal(gold: Quantity, predicted: Quantity, scale: Fraction) -> bool:
    """Whether the values are equal, or one is the other, which has no end as a decimal, rounded."""
    a, b = gold.value * scale, predicted.value
    if a == b:
        return True
    if gold.decimal == predicted.decimal:
        return False
    exact = predicted.value if gold.decimal else gold.value
    return not _ends(exact) and abs(a - b) <= ROUNDED * max(abs(a), abs(b))


def _ends(value: Fraction) -> bool:
    """Whether a number is a decimal with an end: its denominator divides a power of ten."""
    return pow(10, value.denominator.bit_length(), value.denominator) == 0 or value.denominator == 1
