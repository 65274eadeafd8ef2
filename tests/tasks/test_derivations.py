import re
import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreason.tasks import DERIVATIONS, derives
from rlreason.tasks.generated import Generator

# Settings that reach every branch: one term, negative numbers, many digits.
PARAMS = [
    ("chain_sum", {"min_terms": 1, "max_terms": 12, "max_digits": 6}),
    ("chain_sum", {"allow_negation": True}),
    (
        "decimal_chain_sum",
        {"min_terms": 1, "min_decimal_places": 0, "max_decimal_places": 8, "max_digits": 9},
    ),
    ("decimal_chain_sum", {"allow_negation": True}),
    ("products", {"min_terms": 1, "max_terms": 12, "max_digits": 9, "allow_negation": True}),
    ("leg_counting", {"min_animals": 1, "max_animals": 37}),
    ("gsm_symbolic", {}),
]


def value(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


@pytest.mark.parametrize(("name", "params"), PARAMS)
@given(seed=st.integers(0, 2**63))
@settings(max_examples=10, deadline=None)
def test_a_derivation_ends_in_the_gold_answer(name, params, seed):
    stream = Generator(name, params).entries("test", seed)
    for _ in range(20):
        entry = next(stream)
        think = DERIVATIONS[name](entry)
        right_sides = re.findall(r"= *[$€£]?(-?[0-9][0-9,]*(?:\.[0-9]+)?)", think)
        assert value(right_sides[-1]) == value(entry["answer"])
        assert derives(think) or name == "gsm_symbolic"  # of whose hundred kinds one solves for x


@pytest.mark.parametrize(("name", "params"), [p for p in PARAMS if p[0] != "gsm_symbolic"])
@given(seed=st.integers(0, 2**63))
@settings(max_examples=10, deadline=None)
def test_every_equation_of_a_derivation_holds(name, params, seed):
    think = DERIVATIONS[name](next(Generator(name, params).entries("test", seed)))
    for equation in re.split(r"\n|, |: ", think):
        if "=" not in equation:
            continue  # the name of an animal
        left, sign, right, _, result = equation.split()
        a, b = Fraction(left), Fraction(right)
        assert Fraction(result) == {"+": a + b, "-": a - b, "*": a * b}[sign]


@pytest.mark.parametrize(
    ("name", "expression", "think"),
    [
        ("chain_sum", "4 + 3 - 2", "4 + 3 = 7\n7 - 2 = 5"),
        ("chain_sum", "-4 + -3 - 5", "-4 + -3 = -7\n-7 - 5 = -12"),
        ("chain_sum", "8", "0 + 8 = 8"),
        ("decimal_chain_sum", "1.5 + 2.25 - 4", "1.5 + 2.25 = 3.75\n3.75 - 4 = -0.25"),
        ("decimal_chain_sum", "0.00000001 - 0.00000001", "0.00000001 - 0.00000001 = 0.00000000"),
        ("products", "2 * 3 * -4", "2 * 3 = 6\n6 * -4 = -24"),
        ("products", "9", "1 * 9 = 9"),
    ],
)
def test_running_totals_by_hand(name, expression, think):
    entry = {"metadata": {"expression": expression, "source_dataset": name}}
    assert DERIVATIONS[name](entry) == think


def test_legs_by_hand():
    # dogs 4, spiders 8, snakes 0
    entry = {"metadata": {"animals": {"dog": 3, "spider": 2, "snake": 5}}}
    assert DERIVATIONS["leg_counting"](entry) == (
        "dog: 3 * 4 = 12\nspider: 2 * 8 = 16, 12 + 16 = 28\nsnake: 5 * 0 = 0, 28 + 0 = 28"
    )


@pytest.mark.parametrize(
    "think",
    [
        "4 + 3 = 7",
        "So 4+3=7.",
        "First, -4 - -3 = -1",
        "(4 + 3) = 7",
        "4 + (-3) = 1",
        "12 \u00d7 3 = 36",  # times sign
        "12 \u2212 3 = 9",  # minus sign
        "12 x 3 = 36",
        "\\(12 \\times 3 = 36\\)",
        "$1,200.50 + $3 = $1,203.50",
        "20% * 50 = 10",
        "3 apples + 4 apples = 7 apples",
        "He walks 6 km/day * 5 days/week = 30 km/week",
        "4 + 3 - 2 = 5",
        "4 + 3 = 8",  # a way of thinking, be it wrong
    ],
)
def test_thinking_that_derives(think):
    assert derives(think)


@pytest.mark.parametrize(
    "think",
    [
        "",
        "I guess 7.",
        "4 + 3",
        "4 + 3 =",
        "= 7",
        "x = 7",
        "7 = 7",
        "4 and 3 make 7",
        "2x + 3 = 7",
        "3x - 4 = 12",
        "a + b = c",
        "4 + = 7",
        "it costs $7 - a lot",
    ],
)
def test_thinking_that_does_not(think):
    assert not derives(think)


@pytest.mark.parametrize("piece", ["1", "1,", "1 ", "1 +", " ", "(-", "12 + ", "1.1", "1 a", "1 x "])
def test_looking_for_an_equation_takes_linear_time(piece):
    begin = time.perf_counter()
    derives(piece * 100_000)
    assert time.perf_counter() - begin < 2  # quadratic time would take minutes
