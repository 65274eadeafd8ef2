"""Ranges, inequalities, equations, systems and matrices: what is read, and when two are the same."""

import pytest

from rewards import REWARDS
from rewards.relation import read_equation, read_matrix, read_range, read_ranges, read_system


def value(gold: str, answer: str) -> float | None:
    completion = f"<think>r</think>\n<answer>{answer}</answer>"
    return REWARDS["accuracy"](completions=[completion], answer=[gold])[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x > 2", ("()", ["2", r"\infty"])),
        (r"2 \le x", ("[)", ["2", r"\infty"])),
        ("x<3", ("()", [r"-\infty", "3"])),
        (r"1 < t_1 \leq \frac{5}{2}", ("(]", ["1", r"\frac{5}{2}"])),
        ("3 >= x > 1", ("(]", ["1", "3"])),
        ("1 < x > 3", None),
        ("1 = x < 3", None),
        ("x < y", None),  # two unknowns are no interval
        ("x < 2x", None),
        ("x^2 < 4", None),
        ("1 <", None),
        ("2", None),
    ],
)
def test_read_range(text: str, expected: tuple[str, list[str]] | None) -> None:
    assert read_range(text) == expected


def test_read_ranges() -> None:
    halves = [("()", [r"-\infty", "-1"]), ("[)", ["1", r"\infty"])]
    for text in (r"(-\infty, -1) \cup [1, \infty)", r"x < -1 or x \ge 1", r"(-\infty,-1) U [1,\infty)"):
        assert read_ranges(text) == halves
    assert read_ranges("(1, 2, 3)") is None
    assert read_ranges(r"(1, 2) \cup 3") is None
    assert read_ranges("x < 1 or y") is None


def test_read_equation_and_system() -> None:
    assert read_equation("x^2 + y^2 = 1") == ("x^2 + y^2", "=", "1")
    assert read_equation("2x > y") == ("y", "<", "2x")
    assert read_equation("a = b = c") is None
    assert read_system("x = 2, y = 3") == read_system("y = 3 and x = 2") == {"x": "2", "y": "3"}
    for text in ("x = 1, x = 2", "x = 1 or y = 2", "x = 1", "x = 1, y", "x = 1, y < 2"):
        assert read_system(text) is None


def test_read_matrix() -> None:
    assert read_matrix(r"\begin{pmatrix} 1 & 2 \\ \frac12 & x \end{pmatrix}") == [
        ["1", "2"],
        ["\\frac12", "x"],
    ]
    assert read_matrix(r"$\begin{bmatrix}1\\2\\\end{bmatrix}$.") == [["1"], ["2"]]
    for text in (
        r"\begin{pmatrix}1 & 2 \\ 3\end{pmatrix}",
        r"\begin{vmatrix}1\end{vmatrix}",  # a determinant is a number
        r"\begin{pmatrix}1\end{bmatrix}",
        r"\begin{pmatrix}" + "1&" * 100 + r"1\end{pmatrix}",
        "1",
    ):
        assert read_matrix(text) is None


SAME = [
    (r"(-\infty, 3)", "x < 3"),
    (r"x \ge 2", r"[2, \infty)"),
    ("1 < x < 3", "(1, 3)"),
    (r"\frac{1}{2} < x", "x > 0.5"),
    (r"(-\infty,-1)\cup(1,\infty)", r"x < -1 \text{ or } x > 1"),
    (r"(-\infty,-1)\cup(1,\infty)", r"(1,\infty) \cup (-\infty, -1)"),
    ("x^2 + y^2 = 1", "x^2 = 1 - y^2"),
    ("3x + 2y = 6", r"-\frac{x}{2} - \frac{y}{3} = -1"),  # times -1/6
    ("y = 2x + 1", "2x - y + 1 = 0"),
    ("y = 2x + 1", "2x + 1"),
    ("2x + 3y < 6", "6 > 3y + 2x"),
    ("2x + 3y < 6", "-4x - 6y > -12"),
    ("x = 2, y = 3", "y = 3, x = 2"),
    (r"x = \frac{1}{2}, y = 3", "(x, y) = (0.5, 3)"),
    ("(x, y) = (2, 3)", "y = 3, x = 2"),
    ("(x, y) = (2, 3)", "(2, 3)"),
    (r"\begin{pmatrix} 1/2 \\ 2 \end{pmatrix}", r"\begin{bmatrix} 0.5 \\ \frac{4}{2} \end{bmatrix}"),
]
DIFFERENT = [
    (r"(-\infty, 3)", r"x \le 3"),
    ("x > 2", "x < 2"),
    ("x > 2", "2"),
    ("x > 2", "x = 2"),
    (r"(-\infty,-1)\cup(1,\infty)", r"(1,\infty)"),
    (r"(1,2)\cup(3,4)", r"(1,2)\cup(3,4)\cup(5,6)"),
    (r"(1,2)\cup(3,4)", r"(1,2)\cup(1,2)"),
    ("x^2 + y^2 = 1", "1"),
    ("x^2 + y^2 = 1", "x^2 + y^2 = 2"),
    ("x^2 + y^2 = 1", "a^2 + b^2 = 1"),
    ("x^2 + y^2 = 1", "0 = 0"),
    ("x^2 + y^2 = 1", "1 = 2"),
    ("x^2 + y^2 = 1", "x - x = 0"),
    ("x^2 + y^2 = 1", "x^2 + y^2 < 1"),
    ("y = 2x + 1", "x = 2y + 1"),
    ("2x + 3y < 6", "2x + 3y > 6"),
    ("2x + 3y < 6", r"2x + 3y \le 6"),
    (r"x = \sqrt{2}", r"2x = 2\sqrt{2}"),  # still to be solved
    ("x = 2, y = 3", "x = 3, y = 2"),
    ("x = 2, y = 3", "x = 2"),
    ("x = 2, y = 3", "x = 2, y = 3, z = 4"),
    ("x = 2, y = 3", "x = 2 or y = 3"),
    ("(x, y) = (2, 3)", "(3, 2)"),
    ("(x, y) = (2, 3)", "(y, x) = (2, 3)"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 \end{pmatrix}"),
    (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", "1"),
]


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_the_same(gold: str, answer: str) -> None:
    assert value(gold, gold) == 1.0
    assert value(gold, answer) == 1.0


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    assert value(gold, gold) == 1.0
    assert value(gold, answer) == 0.0
