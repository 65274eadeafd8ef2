"""countdown: own arithmetic, exact, over the given numbers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import REWARDS
from rewards.countdown import evaluate


def value(answer: str, numbers: object, target: object) -> float | None:
    completion = f"<think>r</think><answer>{answer}</answer>"
    return REWARDS["countdown"](completions=[completion], numbers=[numbers], target=[target])[0]


@pytest.mark.parametrize(
    ("answer", "numbers", "target", "expected"),
    [
        ("(1 + 2) * 3", [1, 2, 3], 9, 1.0),
        ("3 \u00d7 (1 + 2)", [1, 2, 3], 9, 1.0),
        (r"$3 \times (1 + 2) = 9$", [1, 2, 3], 9, 1.0),
        ("**2*3+7**", [2, 3, 7], 13, 1.0),
        ("8 / (3 - 8 / 3)", [3, 3, 8, 8], 24, 1.0),  # 8 / (1/3): exact, floats would miss it
        ("-3 + 16", [3, 16], 13, 1.0),
        ("2*3+7 = 14", [2, 3, 7], 13, 0.0),  # the value that is written out is wrong
        ("2*3+7 = 2*3+7", [2, 3, 7], 13, 0.0),
        ("2*3+7 = 13 = 13", [2, 3, 7], 13, 0.0),
        ("13 = 2*3+7", [2, 3, 7], 13, 0.0),
        ("2*3", [2, 3, 7], 6, 0.0),  # 7 is left over
        ("23 + 7", [2, 3, 7], 30, 0.0),
        ("2.0*3+7", [2, 3, 7], 13, 0.0),
        ("2(3)+7", [2, 3, 7], 13, 0.0),
        ("7/(3-3)", [7, 3, 3], 0, 0.0),
        ("2*3+8", [2, 3, 8], 13, 0.0),
        ("(" * 3000 + "13" + ")" * 3000, [13], 13, 0.0),
        ("(" * 60 + "13" + ")" * 60, [13], 13, 0.0),
        ("9" * 400, [13], 13, 0.0),
        ("2*3+7", None, 13, None),
        ("2*3+7", [2, 3, "7"], 13, None),
        ("2*3+7", [2, 3, 7], None, None),
    ],
)
def test_countdown(answer: str, numbers: object, target: object, expected: float | None) -> None:
    assert value(answer, numbers, target) == expected


def test_numbers_as_tables_give_them() -> None:
    numpy = pytest.importorskip("numpy")
    answer = "2*3+7"
    for target in (13, 13.0, "13", " 13 ", numpy.int64(13), numpy.float32(13)):
        assert value(answer, [2, 3, 7], target) == 1.0
    for numbers in ([2.0, 3.0, 7.0], (2, 3, 7), numpy.array([2, 3, 7]), numpy.array([2.0, 3.0, 7.0])):
        assert value(answer, numbers, 13) == 1.0
    for target in ("13.5", "x", "", 13.5, float("nan"), float("inf"), True, [13], numpy.array([13])):
        assert value(answer, [2, 3, 7], target) is None
    for numbers in ([2.5, 3, 7], [True, 3, 7], "237", numpy.array(7), numpy.array([[2, 3, 7]]), {2: 3}):
        assert value(answer, numbers, 13) is None


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("2*3+7 = 14", "wrong: behind '=' stands '14', not 13"),
        ("2*3+7 = 2*3+7", "wrong: behind '=' stands '2*3+7', not 13"),
        ("2*7+3 = 17", "wrong: '2*7+3' is 17, not 13"),
        ("2*3", "wrong numbers: uses [2, 3], not [2, 3, 7]"),
    ],
)
def test_the_reason_says_what_is_wrong(answer: str, reason: str) -> None:
    completion = f"<think>r</think><answer>{answer}</answer>"
    columns = {"numbers": [[2, 3, 7]], "target": ["13"]}
    assert REWARDS["countdown"].scores(completions=[completion], **columns)[0].reason == reason


expressions = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    max_leaves=8,
)


@given(expressions)
def test_evaluate_agrees_with_python(text: str) -> None:
    import re

    wrapped = re.sub(r"\d+", lambda m: f"Fraction({m.group()})", text)
    try:
        expected = eval(wrapped, {"Fraction": Fraction})
    except ZeroDivisionError:
        assert evaluate(text) is None
        return
    assert evaluate(text) == (expected, [int(number) for number in re.findall(r"\d+", text)])


@given(st.text(alphabet="0123456789+-*/() =", max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    result = evaluate(text)
    assert result is None or isinstance(result[0], Fraction)
