"""Worked solutions in words, for the generators whose solutions can be written, and how to recognise one.

A derivation ends with an equation whose right side is the gold answer.
"""

import operator
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

Derivation = Callable[[Mapping[str, Any]], str]
"""The reasoning that leads to the answer of a reasoning-gym item."""


def derives(think: str) -> bool:
    """Whether the reasoning works something out: it holds at least one equation such as "4 + 3 = 7".

    Numbers may carry a sign, a currency, a percent sign or a unit of up to two words, as in
    "3 apples + 4 apples = 7".
    Whether the equation is right does not matter: this describes a way of thinking, it is no reward.
    """
    return _EQUATION.search(think) is not None


_NUMBER = r"[$€£]?[0-9][0-9,]{0,30}(?:\.[0-9]{1,30})?%?(?:[ /][a-z/]{1,20}){0,2}"
_MINUS = r"-\u2212\u2013"  # hyphen, minus sign, dash
_SIGNED = rf"\(?[ ]?[{_MINUS}]?[ ]?{_NUMBER}[ ]?\)?"
# The letter x multiplies in "3 x 4 = 12", but not in "3x - 4 = 12". The code points: times, divided by, dot.
_OPERATOR = rf"(?:[{_MINUS}+*/\u00d7\u00f7\u00b7]|x(?= ?[$€£(0-9])|\\times|\\cdot|\\div)"
# Every repetition is bounded and no match begins inside a number, so that the search is linear in the text.
_EQUATION = re.compile(
    rf"(?<![0-9.,]){_NUMBER}[ ]?\)?[ ]{{0,3}}{_OPERATOR}[ ]{{0,3}}{_SIGNED}[ ]{{0,3}}=[ ]{{0,3}}{_SIGNED}"
)

_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}


def _running_totals(entry: Mapping[str, Any]) -> str:
    """`4 + 3 - 2` as "4 + 3 = 7", "7 - 2 = 5": one line a term, each beginning with the total so far."""
    first, *rest = entry["metadata"]["expression"].split()
    total, lines = _number(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        result = _OPERATIONS[sign](total, _number(term))
        lines.append(f"{_show(total)} {sign} {term} = {_show(result)}")
        total = result
    if not lines:  # a chain of a single term
        start = "1 *" if entry["metadata"]["source_dataset"] == "products" else "0 +"
        lines.append(f"{start} {first} = {_show(total)}")
    return "\n".join(lines)


def _legs(entry: Mapping[str, Any]) -> str:
    """One line an animal: its legs, and the total so far."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    total = 0
    lines: list[str] = []
    for animal, count in entry["metadata"]["animals"].items():
        legs = count * ANIMALS[animal]
        line = f"{animal}: {count} * {ANIMALS[animal]} = {legs}"
        lines.append(f"{line}, {total} + {legs} = {total + legs}" if lines else line)
        total += legs
    return "\n".join(lines)


def _written_solution(entry: Mapping[str, Any]) -> str:
    """The solution that comes with the item, without the answer after its `####`."""
    solution: str = entry["metadata"]["answer_cot"]
    return solution.partition("####")[0].strip()


def _number(text: str) -> int | Decimal:
    return Decimal(text) if "." in text else int(text)


def _show(value: int | Decimal) -> str:
    return format(value, "d" if isinstance(value, int) else "f")


DERIVATIONS: dict[str, Derivation] = {
    "chain_sum": _running_totals,
    "decimal_chain_sum": _running_totals,
    "products": _running_totals,
    "leg_counting": _legs,
    "gsm_symbolic": _written_solution,
}
