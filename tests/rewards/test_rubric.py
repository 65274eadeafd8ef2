"""Weights, gates and abstentions."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import REWARDS, Response, Rubric, Score, Term
from rewards.base import Reward


def column(name: str) -> Reward:
    """A reward that reads its value from a column, whatever was completed."""

    def score_one(response: Response, **columns: Any) -> Score:
        return Score(columns[name], name)

    def batch(response: Response, *, a: Any = 0.0, b: Any = 0.0, c: Any = 0.0) -> Score:
        return score_one(response, a=a, b=b, c=c)

    return Reward(name, batch)


def totals(terms: list[Term], **columns: list[float | None]) -> list[float | None]:
    count = len(next(iter(columns.values())))
    return [score.total for score in Rubric(terms).score(["x"] * count, columns=columns)]


def test_the_total_is_the_weighted_sum() -> None:
    terms = [Term("a", column("a"), 2.0), Term("b", column("b"), -0.5)]
    # 2 * 1 - 0.5 * 1 = 1.5;  2 * 0.5 - 0.5 * 0 = 1
    assert totals(terms, a=[1.0, 0.5], b=[1.0, 0.0]) == [1.5, 1.0]


def test_a_gated_term_counts_only_at_full_marks_of_its_gate() -> None:
    terms = [Term("a", column("a"), 1.0, gate="b"), Term("b", column("b"), 0.1)]
    # 1 + 0.1;  0.099;  0 + 0.1
    assert totals(terms, a=[1.0, 1.0, 0.0], b=[1.0, 0.99, 1.0]) == pytest.approx([1.1, 0.099, 0.1], abs=1e-12)


def test_a_term_without_weight_can_be_a_gate() -> None:
    terms = [Term("a", column("a"), 1.0, gate="b"), Term("b", column("b"), 0.0)]
    assert totals(terms, a=[1.0, 1.0], b=[1.0, 0.0]) == [1.0, 0.0]


def test_a_closed_gate_closes_those_behind_it() -> None:
    terms = [
        Term("a", column("a")),
        Term("b", column("b"), gate="a"),
        Term("c", column("c"), gate="b"),
    ]
    assert totals(terms, a=[1.0, 0.0], b=[1.0, 1.0], c=[1.0, 1.0]) == [3.0, 0.0]


def test_abstentions() -> None:
    terms = [Term("a", column("a"), gate="b"), Term("b", column("b"), 0.0), Term("c", column("c"), 0.0)]
    # In turn: all speak; a counts and abstains; a abstains behind a closed gate; the gate abstains;
    # c abstains, which has no weight.
    assert totals(
        terms, a=[1.0, None, None, 1.0, 1.0], b=[1.0, 1.0, 0.0, None, 1.0], c=[0.0, 0.0, 0.0, 0.0, None]
    ) == [1.0, None, 0.0, None, 1.0]


@given(
    st.lists(
        st.tuples(
            st.none() | st.floats(-2, 2),
            st.none() | st.sampled_from([0.0, 0.5, 1.0]),
            st.none() | st.floats(-2, 2),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_rows_do_not_touch_each_other(rows: list[tuple[float | None, float | None, float | None]]) -> None:
    terms = [Term("a", column("a"), 0.5, gate="b"), Term("b", column("b"), 0.1), Term("c", column("c"), 2.0)]
    a, b, c = (list(values) for values in zip(*rows, strict=True))
    together = totals(terms, a=a, b=b, c=c)
    apart = [totals(terms, a=[x], b=[y], c=[z])[0] for x, y, z in rows]
    assert together == apart
    assert totals(terms, a=a[::-1], b=b[::-1], c=c[::-1]) == together[::-1]


def test_a_clip_bounds_what_is_weighted_and_not_what_is_reported() -> None:
    terms = [Term("a", column("a"), 2.0, clip=(-1.0, 0.5)), Term("b", column("b"), -1.0, clip=(0.0, 3.0))]
    scores = Rubric(terms).score(["x"] * 3, columns={"a": [4.0, -4.0, 0.25], "b": [-1.0, 9.0, 2.0]})
    # 2 * 0.5 - 0;  2 * -1 - 3;  2 * 0.25 - 2
    assert [score.total for score in scores] == [1.0, -5.0, -1.5]
    assert [score.parts["a"].value for score in scores] == [4.0, -4.0, 0.25]
    assert [score.counted for score in scores] == [
        {"a": 0.5, "b": 0.0},
        {"a": -1.0, "b": 3.0},
        {"a": 0.25, "b": 2.0},
    ]


def test_a_gate_reads_what_the_reward_said_and_not_the_clip() -> None:
    terms = [Term("a", column("a"), gate="b"), Term("b", column("b"), clip=(0.0, 0.5))]
    assert totals(terms, a=[1.0], b=[1.0]) == [1.5]


def test_what_counted_is_0_behind_a_gate_and_none_for_an_abstention() -> None:
    terms = [Term("a", column("a"), gate="b"), Term("b", column("b"), 0.5), Term("c", column("c"), 0.0)]
    scores = Rubric(terms).score(
        ["x"] * 3, columns={"a": [None, 1.0, None], "b": [0.0, None, 1.0], "c": [1.0] * 3}
    )
    assert [score.counted for score in scores] == [
        {"a": 0.0, "b": 0.0},
        {"a": None, "b": None},
        {"a": None, "b": 1.0},
    ]
    assert [score.total for score in scores] == [0.0, None, None]


@pytest.mark.parametrize(
    ("weight", "clip", "total"),
    [
        (1.0, None, 0.0),
        (2.0, (-1.0, 1.0), -2.0),  # a penalty between -1 and 0 would otherwise be avoided by running away
        (2.0, (-1.0, 0.0), -2.0),
        (-2.0, (0.0, 3.0), -6.0),
    ],
)
def test_a_time_out_is_worth_the_worse_end_of_a_clip(
    weight: float, clip: tuple[float, float] | None, total: float
) -> None:
    def late(response: Response) -> Score:
        return Score(0.0, "no value within 1 s", failed=True)

    (score,) = Rubric([Term("late", Reward("late", late), weight, clip=clip)]).score(["x"])
    assert score.total == total
    assert score.parts["late"] == Score(0.0, "no value within 1 s", failed=True)


def test_an_error_is_an_abstention_of_that_completion_alone() -> None:
    def picky(response: Response, *, a: float) -> Score:
        return Score(1 / a, "fine")

    terms = [Term("picky", Reward("picky", picky)), Term("form", REWARDS["think_format"], 0.1)]
    first, second = Rubric(terms).score(["x", "x"], columns={"a": [0.0, 2.0]})
    assert (first.total, second.total) == (None, 0.5)
    assert first.parts["picky"].failed
    assert first.parts["picky"].reason.startswith("ZeroDivisionError: ")
    assert "(test_rubric.py, line" in first.parts["picky"].reason
    with pytest.raises(ValueError, match="needs the column 'a'"):
        Rubric(terms).score(["x", "x"], columns={"b": [0.0, 2.0]})


def test_parts_hold_what_each_reward_said() -> None:
    rubric = Rubric([
        Term("accuracy", REWARDS["accuracy"], 1.0, gate="form"),
        Term("form", REWARDS["think_format"], 0.1),
    ])  # fmt: skip
    scores = rubric.score(
        ["r</think><answer>42</answer>", "<think>r</think> so <answer>42</answer>"],
        prefill=["<think>\n", ""],
        columns={"answer": ["42", "42"], "level": [1, 2]},
    )
    assert [score.total for score in scores] == [1.1, 0.0]
    assert scores[1].parts == {
        "accuracy": Score(1.0, "correct"),
        "form": Score(0.0, "text_outside_tags"),
    }


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ([("a", 1.0, "form")], r"gate 'form' of 'a' is no term"),
        ([("a", 1.0, "b"), ("b", 1.0, "a")], r"a -> b -> a form a circle"),
        ([("a", 1.0, "a")], r"a -> a form a circle"),
        ([("a", 1.0, None), ("a", 2.0, None)], r"2 terms named 'a'"),
        ([("a", float("nan"), None)], r"weight of 'a' is nan"),
    ],
)
def test_a_rubric_that_makes_no_sense_is_refused(
    terms: list[tuple[str, float, str | None]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Rubric([Term(name, column("a"), weight, gate) for name, weight, gate in terms])


@pytest.mark.parametrize("clip", [(1.0, 0.0), (0.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_a_clip_that_makes_no_sense_is_refused(clip: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"clip of 'a' is .*the lower one first"):
        Rubric([Term("a", column("a"), clip=clip)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clip": (0,)}, r"the clip of 'mine' is \(0,\): give two finite numbers"),
        ({"clip": (1, 0)}, r"the clip of 'mine' is \(1, 0\)"),
        ({"clip": 1}, r"the clip of 'mine' is 1"),
        ({"clip": ("0", "1")}, r"the clip of 'mine'"),
        ({"weight": "1"}, r"the weight of 'mine' is '1': give a finite number"),
        ({"weight": None}, r"the weight of 'mine' is None"),
        ({"seconds": -1}, r"the seconds of 'mine' are -1: give a number above 0, or None"),
        ({"seconds": 0}, r"the seconds of 'mine' are 0"),
        ({"seconds": math.nan}, r"the seconds of 'mine' are nan"),
        ({"seconds": "5"}, r"the seconds of 'mine' are '5'"),
    ],
)
def test_a_term_that_makes_no_sense_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Term("mine", REWARDS["think_format"], **wrong)
