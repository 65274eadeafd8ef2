"""accuracy: what is right, what is wrong, what cannot be read, and that nothing takes long."""

import threading
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import REWARDS, Score
from rewards.symbolic import guard, read_expression


def score(gold: Any, answer: str, answer_type: str | None = None) -> Score:
    completion = f"<think>r</think>\n<answer>{answer}</answer>"
    return REWARDS["accuracy"].scores(completions=[completion], answer=[gold], answer_type=[answer_type])[0]


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("73", "**73**"),
        ("29", "$29.00"),
        ("72", "72 clips, altogether."),
        ("-5", "\u22125"),
        ("-5", "-$5"),
        ("5", r"$\boxed{5}$"),
        ("5", r"\text{5}"),
        ("1000", "1{,}000"),
        ("1000", r"1\,000"),
        ("300000000", r"3 \times 10^8"),
        ("3/2", "1 1/2"),
        ("-3/2", r"-1\frac{1}{2}"),
        ("1/3", r"\frac13"),
        ("90", r"90^\circ"),
        ("0.5", "50%"),
        ("5 km", "5"),
        ("5 inches", "5 inch"),
        ("$5", "5 dollars"),
        ("5", "2 + 3 = 5"),
        ("5", "x = 10/2 = 5"),
        ("42", "The answer is 42"),
        (2, "2"),
        (0.1, "1/10"),
        (r"4\sqrt{2}", r"4\sqrt(2)"),
        (r"4\sqrt{2}", "5.656854"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        (r"\frac{3\pi}{4}", "3\u03c0/4"),
        (r"\sqrt[3]{2}", r"2^{\frac{1}{3}}"),
        ("2x+1", "y = 1 + 2x"),
        ("x^2-1", "(x-1)(x+1)"),
        (r"\sin^2 x + \cos^2 x + x", "x + 1"),
        ("3+4i", "4i+3"),
        ("2^{2024}", "4^{1012}"),
        (r"\log_2 8", "3"),
        (r"\binom{5}{2}", "10"),
        ("|x|", r"\sqrt{x^2}"),
        ("|x - 3|", "|3 - x|"),
        ("x_1 + x_2", "x_{2} + x_{1}"),
        ("N_1", "N_{1}"),
        ("12:00", "12:00"),
        ("yes", "Yes."),
    ],
)
def test_right_answers(gold: Any, answer: str) -> None:
    assert score(gold, answer) == Score(1.0, "correct")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
        ("1:00", "12:00"),
        ("2021", r"\pm 2021"),
        ("4", r"4\sqrt(2)"),
        ("5", "5x"),
        ("5", "5 xy"),
        ("5 km", "5 m"),
        ("$5", "\u20ac5"),
        ("0.5%", "50%"),
        ("7", "4 + 3"),  # the question, copied
        ("8", r"2 \cdot 2^2"),
        ("50", r"50\%"),
        ("72", "72 or so"),
        ("42", "42 is wrong"),
        ("42", "the answer is not 42"),
        ("42", "not x = 42"),
        ("42", "x != 42"),
        ("5", "x <= 5"),
        ("5", "4 = 5"),
        ("1", "x^2 + y^2 = 1"),
        ("5", "**4** or **5**"),
        ("5", r"\boxed{4}, \boxed{5}"),
        ("12", "1 2"),
        ("3", "3.0000001"),
        ("0", "0.0000000001"),
        (r"4\sqrt{2}", "4"),
        (r"4\sqrt{2}", "5.65"),
        (r"\sqrt{x^2}", "x"),  # x may be negative
        ("x^2-1", "(x-1)^2"),
        (r"12\pi", r"\frac12\pi"),
        ("N", "n"),
        ("N_1", "n_1"),
        ("x_1 + x_2", "x_1 - x_2"),
        ("x_1", "x_2"),
        ("x_1", "x"),
        ("x_A", "x_a"),
        ("|x|", "x"),
        (r"\log_2 9", r"\log_3 9"),
        (r"\binom{5}{2}", r"\frac{5}{2}"),
        ("no", "on"),
    ],
)
def test_wrong_answers(gold: Any, answer: str) -> None:
    assert score(gold, answer).value == 0.0


@pytest.mark.parametrize(
    ("gold", "answer_type"),
    [
        (None, None),
        ("", None),
        ("  ", "exact"),
        ("2/0", None),
        (r"\pm 2", None),
        ("1, 2", None),
        ("x^2 + y^2 =", None),
        (r"\frac{x}{0}", None),
        ("9" * 20_000, None),
        ("(1," * 900 + "2" + ")" * 900, None),
        ("x", "number"),
        ("AB", "choice"),
    ],
)
def test_an_unreadable_gold_abstains_whatever_was_answered(gold: Any, answer_type: str | None) -> None:
    for answer in (str(gold), "1", ""):
        assert score(gold, answer, answer_type).value is None


def test_the_reason_tells_no_answer_unreadable_and_wrong_apart() -> None:
    assert score("42", "").reason == "no answer: answer_empty"
    assert score("42", "4 or 5").reason == "unreadable answer: '4 or 5'"
    assert score("42", "43").reason == "wrong: '43', not '42'"


@pytest.mark.parametrize(
    ("gold", "answer", "answer_type", "value"),
    [
        ("(C)", "**c.**", "choice", 1.0),
        ("C", "C or D", "choice", 0.0),
        ("C", "D", "choice", 0.0),
        ("1/2", "0.5", "number", 1.0),
        ("1/2", "0.5", "exact", 0.0),
        ("2", "x", "number", 0.0),
    ],
)
def test_answer_types(gold: str, answer: str, answer_type: str, value: float) -> None:
    assert score(gold, answer, answer_type).value == value


def test_an_unknown_answer_type_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'maths' is not known: did you mean 'math'"):
        score("1", "1", "maths")


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_fractions_are_compared_exactly(gold: Fraction, answer: Fraction) -> None:
    tex = rf"{'-' if answer < 0 else ''}\frac{{{abs(answer.numerator)}}}{{{answer.denominator}}}"
    for text in (str(answer), tex):
        assert score(str(gold), text).value == float(gold == answer)
        assert score(str(answer), text).value == 1.0


@given(st.text(max_size=60) | st.text(alphabet=r"0123456789.,-+*/^!(){}\=xe$% fracsqt", max_size=60))
def test_any_answer_is_scored(answer: str) -> None:
    assert score("17", answer).value in (0.0, 1.0)


BOMBS = [
    "9**9**9**9",
    "9^{9^{9^9}}",
    "((9^{99})^{99})^{99}",
    "(((9)^9)^9)^9)^9",
    "9999!^{999}",
    "(9!)!",
    "9!!!!!",
    "e^{e^{99}}",
    r"\exp(\exp(\exp(99)))",
    "1e999999999",
    "9" * 20_000,
    "(" * 3_000 + "42" + ")" * 3_000,
    r"\boxed{" * 3_000 + "42" + "}" * 3_000,
    r"\sqrt{" * 30 + "2" + "}" * 30,
    " " * 20_000 + "x",
    "*" * 20_000,
    "f(a" + " " * 3_900 + "= 42",
    "\\theta" + " " * 3_900 + "= 43",
    "42 " + "nope " * 790,
    "42 " + "apples " * 560,
    "x = " * 990 + "43",
    "9999^{999} nope",
    "exp(" * 900 + "42",
]


@pytest.fixture(scope="module", autouse=True)
def _symbolic_library_is_loaded() -> None:
    read_expression(r"\sqrt{3}")  # a second or two, once a process


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
@pytest.mark.parametrize("gold", ["42", r"\sqrt{2}"])
def test_bombs_come_back_fast(gold: str, bomb: str) -> None:
    start = time.perf_counter()
    assert score(gold, bomb).value == 0.0
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("heavy", [r"\tan(9^{999})", "(x+y+z+1)^{500}", r"(\frac{x}{\pi})^{x}", "9999!" * 30])
def test_what_passes_the_guard_is_evaluated_fast(heavy: str) -> None:
    start = time.perf_counter()
    assert score(r"\sqrt{2}", heavy).value == 0.0
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "text", ["9^{9}^{9}", "9^9^9", "x^{y^z}", "2^{9999}", "10000!", "x!", r"\int x", "1 2", "f'"]
)
def test_the_guard_refuses(text: str) -> None:
    assert guard(text) is None


def test_exponents_multiply_when_nested_and_not_side_by_side() -> None:
    assert guard("((9^{9})^{9})^{9}") is not None  # 9 * 9 * 9 = 729
    assert guard("(9^{99})^{99}") is None  # 99 * 99 = 9801
    assert guard("x^{9} + y^{9} + x^{9} y^{9} + z^{9}") is not None


def test_off_the_main_thread() -> None:
    values: list[float | None] = []

    def work() -> None:
        values.append(score(r"\sqrt{2}", r"\frac{2}{\sqrt{2}}").value)
        values.append(score(r"\sqrt{5}", "9^{9^{9^9}}").value)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(values, key=str) == [0.0] * 4 + [1.0] * 4
