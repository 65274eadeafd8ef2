import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlreason.evaluation.statistics import Answered, gain, mean_interval, pass_at_k, summarize, wilson


def answered(
    correct: float | None,
    answer: str | None = None,
    *,
    failed: bool = False,
    well_formed: bool = True,
    derives: bool = False,
    truncated: bool = False,
    tokens: int = 1,
) -> Answered:
    return Answered(correct, well_formed, derives, truncated, tokens, answer, "", failed)


# --- pass@k --------------------------------------------------------------------------------------------


def test_pass_at_k_by_hand() -> None:
    # 1 right of 4, 2 drawn: 3 of the 6 pairs hold it. 2 right of 4: only 1 of 6 pairs holds none.
    assert pass_at_k(4, 1, 2) == pytest.approx(1 / 2)
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(5, 0, 3) == 0.0
    assert pass_at_k(5, 5, 1) == 1.0
    assert pass_at_k(5, 1, 5) == 1.0


@pytest.mark.parametrize("n", range(1, 7))
def test_pass_at_k_equals_the_count_over_all_subsets(n: int) -> None:
    for correct, k in itertools.product(range(n + 1), range(1, n + 1)):
        marks = [True] * correct + [False] * (n - correct)
        subsets = list(itertools.combinations(marks, k))
        assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_of_more_than_there_are_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"pass@{k}"):
        pass_at_k(4, 1, k)


# --- intervals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_equals_the_published_intervals(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)
    # Seen from the wrong answers it is the mirror image.
    assert wilson(1 - right / n, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_without_spread_the_interval_has_a_width_all_the_same() -> None:
    assert mean_interval([0.0] * 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert mean_interval([1.0] * 20) == pytest.approx((0.8389, 1.0), abs=5e-5)


def test_the_bootstrap_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    values = [float(n % 3 == 0) for n in range(90)]
    random.seed(1)
    before = random.getstate()
    assert mean_interval(values) == mean_interval(list(values))
    assert random.getstate() == before


def test_the_bootstrap_is_near_the_normal_interval() -> None:
    # 200 of 400: standard error sqrt(0.25 / 400) = 0.025, so 0.5 -+ 1.96 * 0.025 = 0.451 to 0.549.
    low, high = mean_interval([1.0, 0.0] * 200)
    assert (low, high) == pytest.approx((0.451, 0.549), abs=0.006)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_an_interval_lies_in_the_unit_range_around_the_mean(values: list[float]) -> None:
    low, high = mean_interval(values)
    mean = math.fsum(values) / len(values)
    assert 0 <= low <= mean + 1e-9
    assert mean - 1e-9 <= high <= 1


def test_the_gain_is_paired() -> None:
    # Question by question: +1, +1, 0, -1 and four times +0.5: (1 + 1 + 0 - 1 + 2) / 8 = 0.375.
    before = [0, 0, 1, 1, 0.5, 0.5, 0.5, 0.5]
    after = [1, 1, 1, 0, 1, 1, 1, 1]
    found = gain(before, after)
    assert found["value"] == pytest.approx(0.375)
    assert found["n"] == 8
    low, high = found["ci95"]
    assert -1 <= low < 0.375 < high <= 1
    assert gain(before, after) == found
    turned = gain(after, before)
    assert turned["value"] == pytest.approx(-0.375)


def test_pairing_makes_the_interval_narrow() -> None:
    # Questions are easy or hard, and every one gains 0.1 or 0.2: unpaired, their spread would hide it.
    before = [float(n % 2) * 0.8 for n in range(40)]
    after = [value + (0.1 if n % 4 < 2 else 0.2) for n, value in enumerate(before)]
    low, high = gain(before, after)["ci95"]
    assert 0.13 < low < 0.15 < high < 0.17


def test_a_gain_over_other_questions_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        gain([0.0, 1.0], [1.0])


# --- the summary ---------------------------------------------------------------------------------------


def test_a_summary_by_hand() -> None:
    summary = summarize(
        [
            [
                answered(1, "5", derives=True, tokens=10),
                answered(0, None, well_formed=False, truncated=True, tokens=20),
            ],
            [answered(1, "7", tokens=30), answered(1, "7", derives=True, tokens=40)],
            [answered(0, "1", tokens=1), answered(0, "2", well_formed=False, tokens=1)],
        ],
        pass_at=[1, 2],
    )
    assert summary["accuracy"] == pytest.approx((0.5 + 1 + 0) / 3)
    assert (summary["n"], summary["samples"]) == (3, 2)
    assert summary["format"] == pytest.approx(4 / 6)
    assert summary["accuracy_given_format"] == pytest.approx(3 / 4)
    assert summary["derives"] == pytest.approx(2 / 6)
    assert summary["truncated"] == pytest.approx(1 / 6)
    assert summary["tokens"] == pytest.approx((10 + 20 + 30 + 40 + 1 + 1) / 6)
    # pass@1: 1/2, 1, 0. pass@2: 1, 1, 0.
    assert summary["pass_at"] == {"1": pytest.approx(0.5), "2": pytest.approx(2 / 3)}
    # Majorities: "5" (None is no answer), "7", and "1" which was first: right, right, wrong.
    assert summary["maj_at"] == {"2": pytest.approx(2 / 3)}


def test_what_has_no_mark_is_left_out_and_counted() -> None:
    summary = summarize(
        [
            [answered(1, "5"), answered(None, "7", failed=True), answered(0, "6")],
            [answered(None, "7"), answered(None, "7", failed=True), answered(None, "7")],
            [answered(1, "7"), answered(1, "7"), answered(0, None, failed=True)],  # a time-out has a mark
        ],
        pass_at=[1, 3],
    )
    # Two questions with marks: 1/2 and 2/3.
    assert summary["accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert (summary["n"], summary["samples"]) == (2, 3)
    assert summary["accuracy_given_format"] == pytest.approx(3 / 5)
    assert summary["failed"] == pytest.approx(3 / 9)
    assert summary["abstained"] == pytest.approx(2 / 9)
    # pass@3 has three marks in the last question only. Majorities: "5" is first of the two that have marks.
    assert summary["pass_at"] == {"1": pytest.approx((1 / 2 + 2 / 3) / 2), "3": 1.0}
    assert summary["maj_at"] == {"3": 1.0}


def test_without_any_mark_nothing_is_claimed() -> None:
    summary = summarize([[answered(None, "5", failed=True)]], pass_at=[1])
    assert summary["n"] == 0
    assert summary["failed"] == 1.0
    for name in ("accuracy", "ci95", "accuracy_given_format"):
        assert summary[name] is None
    assert (summary["pass_at"], summary["maj_at"]) == ({"1": None}, {"1": None})


def test_a_gain_is_over_the_questions_that_have_both_marks() -> None:
    # +1 and 0; the second and the third question have one mark only.
    found = gain([0.0, None, 1.0, 0.5], [1.0, 1.0, None, 0.5])
    assert (found["value"], found["n"]) == (0.5, 2)
    assert gain([None, 0.0], [1.0, None]) == {"value": None, "ci95": None, "n": 0}


def test_without_any_well_formed_answer_there_is_no_accuracy_given_format() -> None:
    assert summarize([[answered(0, well_formed=False)]], pass_at=[1])["accuracy_given_format"] is None


def test_half_marks_are_no_pass() -> None:
    summary = summarize([[answered(0.5, "5")]], pass_at=[1])
    assert (summary["accuracy"], summary["pass_at"]["1"]) == (0.5, 0.0)


@pytest.mark.parametrize(
    ("group", "right"),
    [
        ([(0, "3"), (1, "4"), (1, "4")], 1.0),
        ([(1, "4"), (0, "3"), (0, "3")], 0.0),
        ([(1, "4"), (0, "3")], 1.0),  # a tie goes to the answer given first
        ([(0, "3"), (1, "4")], 0.0),
        ([(0, "3"), (1, "4"), (1, "4"), (0, "3")], 0.0),
        ([(0, None), (0, None), (1, "4")], 1.0),  # no answer is no vote
        ([(0, None), (0, None)], 0.0),
    ],
)
def test_the_majority_and_its_ties(group: list[tuple[float, str | None]], right: float) -> None:
    summary = summarize([[answered(*one) for one in group]], pass_at=[1])
    assert summary["maj_at"] == {str(len(group)): right}


@pytest.mark.parametrize("groups", [[], [[]], [[answered(1)], []]])
def test_an_evaluation_of_nothing_is_refused(groups: list[list[Answered]]) -> None:
    with pytest.raises(ValueError, match="at least one completion"):
        summarize(groups, pass_at=[1])
