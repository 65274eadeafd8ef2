"""Pairs of a gold answer and another, equal or different by construction: nothing here asks a verifier.

Values are exact fractions and whole numbers; a family writes the same value twice in two spellings, or
changes the value and writes the result. The random numbers of a family depend on its name alone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import gcd

PAIRS = 14  # of each family


@dataclass(frozen=True)
class Pair:
    """One generated pair; `equal` is known from how it was made."""

    family: str
    gold: str
    answer: str
    equal: bool
    answer_type: str = "math"


Draw = random.Random
Spell = Callable[[Draw], tuple[str, str]]


def tex(value: Fraction) -> str:
    """`value` as a LaTeX fraction, sign in front."""
    sign = "-" if value < 0 else ""
    return rf"{sign}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def decimal(value: Fraction, places: int) -> str:
    """`value` with `places` decimals, which must be exact."""
    scaled = value * 10**places
    assert scaled.denominator == 1
    digits = f"{abs(scaled.numerator):0{places + 1}d}"
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"


def polynomial(coefficients: list[int]) -> str:
    """c0 + c1 x + c2 x^2 ... from the highest power down, terms that are 0 left out."""
    terms = []
    for power in reversed(range(len(coefficients))):
        size = abs(coefficients[power])
        if size:
            letter = {0: "", 1: "x"}.get(power, f"x^{power}")
            sign = "-" if coefficients[power] < 0 else "+"
            terms.append(f"{sign}{size if size > 1 or not power else ''}{letter}")
    return "".join(terms).removeprefix("+")


def _nonzero(draw: Draw, limit: int) -> int:
    return draw.choice([-1, 1]) * draw.randint(1, limit)


def _fraction(draw: Draw) -> Fraction:
    """A fraction that is no whole number, of either sign."""
    while True:
        value = Fraction(_nonzero(draw, 60), draw.randint(2, 30))
        if value.denominator > 1:
            return value


def _factored(roots: list[int]) -> tuple[str, list[int]]:
    """(x+a)(x+b) and the coefficients of the product."""
    a, b = roots
    return "".join(f"(x{root:+d})" for root in roots), [a * b, a + b, 1]


def _not_reduced(draw: Draw) -> tuple[str, str]:
    value, factor = _fraction(draw), draw.randint(2, 9)
    sign = "-" if value < 0 else ""
    return tex(value), rf"{sign}\frac{{{abs(value.numerator) * factor}}}{{{value.denominator * factor}}}"


def _slash(draw: Draw) -> tuple[str, str]:
    value = _fraction(draw)
    return tex(value), f"{value.numerator}/{value.denominator}"


def _decimal_of_fraction(draw: Draw) -> tuple[str, str]:
    value = Fraction(_nonzero(draw, 400), draw.choice([8, 16, 20, 40, 125]))
    return f"{value.numerator}/{value.denominator}", decimal(value, 4)


def _zeros_and_separators(draw: Draw) -> tuple[str, str]:
    whole = draw.randint(1000, 10**9)
    return str(whole), f"{whole:,}.{'0' * draw.randint(1, 3)}"


def _mixed(draw: Draw) -> tuple[str, str]:
    bottom = draw.randint(2, 12)
    top = draw.choice([n for n in range(1, bottom) if gcd(n, bottom) == 1])
    whole = draw.randint(1, 20)
    return f"{whole * bottom + top}/{bottom}", rf"{whole}\frac{{{top}}}{{{bottom}}}"


def _percent(draw: Draw) -> tuple[str, str]:
    value = Fraction(draw.randint(1, 4000), 1000)
    return decimal(value, 3), rf"{decimal(value * 100, 1)}\%"


def _scientific(draw: Draw) -> tuple[str, str]:
    digits, power = draw.randint(11, 99), draw.randint(4, 12)
    return str(digits * 10 ** (power - 1)), rf"{digits / 10:.1f} \times 10^{{{power}}}"


def _unit(draw: Draw) -> tuple[str, str]:
    unit = draw.choice(["apples", "km", "dollars", "square meters", "hours", "students", "cm^2"])
    number = draw.randint(2, 5000)
    return str(number), rf"{number}\text{{ {unit}}}"


def _named(draw: Draw) -> tuple[str, str]:
    value = tex(_fraction(draw))
    return value, f"{draw.choice('abcnxyk')} = {value}"


def _wrapped(draw: Draw) -> tuple[str, str]:
    value = tex(_fraction(draw))
    return value, draw.choice([rf"\boxed{{{value}}}", f"${value}$", rf"\({value}\)", f"$${value}$$"])


def _expanded(draw: Draw) -> tuple[str, str]:
    factors, coefficients = _factored([_nonzero(draw, 12), _nonzero(draw, 12)])
    return factors, polynomial(coefficients)


def _root(draw: Draw) -> tuple[str, str]:
    factor, radicand = draw.randint(2, 12), draw.choice([2, 3, 5, 6, 7, 10, 11, 13])
    return rf"{factor}\sqrt{{{radicand}}}", rf"\sqrt{{{factor**2 * radicand}}}"


def _multiple_of_pi(draw: Draw) -> tuple[str, str]:
    value = abs(_fraction(draw))
    return rf"\frac{{{value.numerator}\pi}}{{{value.denominator}}}", rf"{tex(value)}\pi"


def _set_in_another_order(draw: Draw) -> tuple[str, str]:
    numbers = draw.sample(range(-20, 60), draw.randint(2, 5))
    return ", ".join(map(str, numbers)), rf"\{{{', '.join(map(str, sorted(numbers)))}\}}"


def _numerator_off(draw: Draw) -> tuple[str, str]:
    value = _fraction(draw)
    return tex(value), tex(value + Fraction(draw.choice([-1, 1]), value.denominator))


def _last_digit_off(draw: Draw) -> tuple[str, str]:
    places = draw.randint(3, 12)
    value = Fraction(draw.randint(1, 10**places), 10**places)
    return decimal(value, places), decimal(value + Fraction(draw.randint(1, 9), 10**places), places)


def _sign_off(draw: Draw) -> tuple[str, str]:
    value = _fraction(draw)
    return tex(value), tex(-value)


def _turned_over(draw: Draw) -> tuple[str, str]:
    value = _fraction(draw)
    return tex(value), tex(1 / value)


def _power_of_ten_off(draw: Draw) -> tuple[str, str]:
    digits, power = draw.randint(1, 9), draw.randint(2, 12)
    return rf"{digits}\times 10^{{{power}}}", rf"{digits}\times 10^{{{power + draw.choice([-1, 1])}}}"


def _another_unit(draw: Draw) -> tuple[str, str]:
    number, (one, other) = (
        draw.randint(2, 500),
        draw.sample(["km", "cm", "kg", "hours", "seconds", "litres"], 2),
    )
    return rf"{number}\text{{ {one}}}", rf"{number}\text{{ {other}}}"


def _two_numbers(draw: Draw) -> tuple[str, str]:
    numbers = draw.sample(range(2, 200), 2)
    return str(draw.choice(numbers)), rf"{numbers[0]} \text{{ or }} {numbers[1]}"


def _list_with_the_gold(draw: Draw) -> tuple[str, str]:
    numbers = draw.sample(range(2, 200), draw.randint(2, 6))
    return str(numbers[-1]), ", ".join(map(str, numbers))


def _coefficient_off(draw: Draw) -> tuple[str, str]:
    factors, coefficients = _factored([_nonzero(draw, 12), _nonzero(draw, 12)])
    coefficients[draw.randrange(2)] += _nonzero(draw, 3)
    return factors, polynomial(coefficients)


def _radicand_off(draw: Draw) -> tuple[str, str]:
    factor, radicand = draw.randint(2, 12), draw.choice([2, 3, 5, 6, 7, 10, 11, 13])
    return rf"{factor}\sqrt{{{radicand}}}", rf"\sqrt{{{factor**2 * radicand + draw.choice([-1, 1])}}}"


def _rounded(draw: Draw) -> tuple[str, str]:
    value = Fraction(draw.randint(1, 40), draw.choice([7, 9, 11, 13, 17, 19]))
    if value.denominator == 1:
        return _rounded(draw)
    places = draw.randint(4, 8)
    rounded = Fraction(round(value * 10**places), 10**places)
    return f"{value.numerator}/{value.denominator}", decimal(rounded, places)


def _set_off(draw: Draw) -> tuple[str, str]:
    numbers = draw.sample(range(-20, 60), draw.randint(3, 6))
    changed = draw.choice([numbers[1:], [*numbers[1:], 77], [*numbers, 77]])  # 77 is in no gold
    return ", ".join(map(str, numbers)), ", ".join(map(str, changed))


def _repeated(draw: Draw) -> tuple[str, str]:
    number = draw.randint(2, 999)
    return str(number), str(number) * draw.randint(2, 6)


def _not_true(draw: Draw) -> tuple[str, str]:
    a, b = draw.randint(1, 50), draw.randint(1, 50)
    wrong = a + b + _nonzero(draw, 9)
    return str(wrong), f"{a} + {b} = {wrong}"


EQUAL: dict[str, Spell] = {
    "not reduced": _not_reduced,
    "a slash": _slash,
    "an exact decimal": _decimal_of_fraction,
    "zeros and separators": _zeros_and_separators,
    "a mixed number": _mixed,
    "in percent": _percent,
    "in scientific notation": _scientific,
    "with a unit": _unit,
    "with a name": _named,
    "set off": _wrapped,
    "expanded": _expanded,
    "under one root": _root,
    "pi outside the fraction": _multiple_of_pi,
    "a set in another order": _set_in_another_order,
}
DIFFERENT: dict[str, Spell] = {
    "another numerator": _numerator_off,
    "another last digit": _last_digit_off,
    "the sign changed": _sign_off,
    "turned over": _turned_over,
    "ten times more or less": _power_of_ten_off,
    "another unit": _another_unit,
    "two numbers": _two_numbers,
    "a list that ends in the gold": _list_with_the_gold,
    "another coefficient": _coefficient_off,
    "another radicand": _radicand_off,
    "a rounded fraction": _rounded,
    "another set": _set_off,
    "the gold repeated": _repeated,
    "a sum that is not true": _not_true,
}


def generated() -> list[Pair]:
    """PAIRS of every family, the same in every call and on every machine."""
    pairs = []
    for equal, families in ((True, EQUAL), (False, DIFFERENT)):
        for family, spell in families.items():
            draw = random.Random(family)  # a string seeds the same everywhere
            answer_type = "set" if "set" in family.split() and family != "set off" else "math"
            pairs += [Pair(family, *spell(draw), equal, answer_type) for _ in range(PAIRS)]
    return pairs
