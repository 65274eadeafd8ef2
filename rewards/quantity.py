"""Plain numbers as people and models write them, read exactly.

1,234   1 234   -5.50   1 1/2   \\frac{1}{2}   0.\\overline{3}   3 \\times 10^{8}   $29.00   72 clips   50%
A text has one reading or none. With anything else in it, above all a second number, it has none.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from rewards.words import UNITS, Known, between, may_stand, names

MAX_CHARACTERS = 2000
MAX_DIGITS = 1500  # of a power that is worked out
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
_WORD = re.compile(rf"({_SHORT}|[mghls]|[^\W\d_]{{3,}})(?:/([a-z]+))?(?:\^?\{{?([23])\}}?)?")
_SCALE = re.compile(r"\s*(hundred|thousand|million|billion|trillion)\b", re.IGNORECASE)
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ATTACHED = re.compile(rf"(?:{_SHORT})(?![a-z])")
_GAP = re.compile(r"\A\s*,|,\s*(?:,|\Z)")
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_IN_ALL = re.compile(r"(?<=\s)in (?:total|all)\s*\Z")
_TEMPERATURE = re.compile(r"(?<=degrees)\s*([cfk])(?![a-z])")
_TEMPERATURES = {"c": " celsius", "f": " fahrenheit", "k": " kelvin"}
# A power that is all there is, but for a unit, is a way to write a number.
_POWER = re.compile(
    r"([-+]?\s*)(?P<base>[0-9]{1,4})\s*(?:\^|\*\*)\s*"
    r"(?:\{\s*(-?[0-9]{1,3})\s*\}|\(\s*(-?[0-9]{1,3})\s*\)|(-?[0-9]{1,3}))(?=\s*\Z|\s+[A-Za-z])"
)


@dataclass(frozen=True)
class Quantity:
    """An exact value and its unit as a set of words in the singular; "%" for percent, empty for none.

    `decimal` tells that it was written with a decimal point, and so may be rounded.
    """

    value: Fraction
    unit: frozenset[str]
    decimal: bool = False


def read_quantity(text: str, known: Known = None) -> Quantity | None:
    """Read `text` (as `rewards.text.plain` returns it) as one number, or return None.

    `known` are the words that an answer may have; for a gold answer, None, any are a unit and a power is an
    expression.
    """
    if len(text) > MAX_CHARACTERS:
        return None
    text = text.strip()
    if text[:1] + text[-1:] in ("()", "{}"):
        text = text[1:-1]
    text = _TEX_FRACTION.sub(_slashed, text).lstrip()
    text = _POWER_OF_TEN.sub(lambda m: f"e{m[1] or m[2] or m[3]}", text)
    if known is not None:
        text = _POWER.sub(lambda m: _worked_out(m, known), text, count=1) if _POWER.match(text) else text
    match = _QUANTITY.fullmatch(text)
    if match is None or (match["sign"] and match["sign_behind"]):
        return None
    scale = _SCALE.match(match["tail"])
    unit = read_unit(match["tail"][scale.end() :] if scale else match["tail"], known)
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


def _worked_out(match: re.Match[str], known: frozenset[str]) -> str:
    """Return 2^{10} as 1024; as it is where the question has it, or where it is no more than its base."""
    base, exponent = int(match["base"]), int(match[3] or match[4] or match[5])
    if base < 2 or exponent in (0, 1) or f"{base}^{exponent}" in known:
        return match.group()
    if base == 10:
        return f"{match[1]}1e{exponent}"
    power = str(base ** abs(exponent)) if abs(exponent) * len(str(base)) <= MAX_DIGITS else ""
    return match.group() if not power else f"{match[1]}{power if exponent > 0 else f'1/{power}'}"


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


def read_unit(tail: str, known: Known = None) -> frozenset[str] | None:
    """Return the unit that the text behind a number names, or None if it is more than a unit.

    Every word must be of the closed vocabulary or of `known`; where `known` is None any may be.
    """
    if _GAP.search(tail):  # "12, , cm" and "12, cm" leave something out
        return None
    folded = _TEMPERATURE.sub(lambda m: _TEMPERATURES[m[1]], tail.casefold())
    words = _IN_ALL.sub("total", folded).replace(",", " ").split()
    if not words:
        return frozenset()
    if words in (["%"], ["percent"], ["per", "cent"]):
        return frozenset("%")
    if len(words) == 1 and words[0] in _CURRENCY:
        return frozenset({_CURRENCY[words[0]]})
    attached = not tail[0].isspace() and not _ATTACHED.match(folded)
    if attached or len(words) > 5 or "\n" in tail or between(words[0]) or between(words[-1]):
        return None
    unit: set[str] = set()
    power = ""
    for word in words:
        if between(word):
            continue
        if word in _POWERS and word != words[-1]:
            power = _POWERS[word]
            continue
        match = _WORD.fullmatch(word)
        parts = [part for part in match.groups()[:2] if part] if match else []
        if match is None or not all(may_stand(part, known) for part in parts):
            return None
        power = match[3] or power  # 25 cm^2 and 25 cm^3 share no word
        unit.update(name + power for part in parts for name in names(part))
        power = ""
    return frozenset(unit)


def same_unit(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two units do not contradict each other: measures are the same, else a word is.

    A unit that only one of them names says nothing.
    """
    if not one or not other:
        return True
    measures = [{name for name in unit if name.rstrip("23") in UNITS} for unit in (one, other)]
    return measures[0] == measures[1] if all(measures) else bool(one & other)


def same_quantity(*, gold: Quantity, predicted: Quantity, in_percent: bool = False) -> bool:
    """Whether two quantities are equal, and their units do not contradict each other.

    A percent sign is part of the value (50% for 0.5), and so it is no unit of a bare gold (42% for 42) unless
    it is known that the answer is `in_percent`. That of the gold may be left out: 50 for 50%.
    """
    if not same_unit(gold.unit, predicted.unit):
        return False
    percent = frozenset("%")
    if predicted.unit == percent and not gold.unit:
        # 42 is 42% where percent are asked for, and there 4200% is a hundred times too much.
        value = _equal(gold, predicted, Fraction(100)) and not (in_percent and abs(gold.value) > 1)
        return value or (in_percent and _equal(gold, predicted, Fraction(1)))
    if _equal(gold, predicted, Fraction(1)):
        return True
    return gold.unit == percent and not predicted.unit and _equal(gold, predicted, Fraction(1, 100))


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
