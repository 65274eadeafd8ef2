"""What is measured of a reward model, by hand."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreason.evaluation.preferences import Judged, best_of, calibration_error, preference_report
from rlreason.evaluation.statistics import cluster_interval


def test_the_report_by_hand() -> None:
    judged = [
        Judged(0, chosen=2.0, rejected=1.0, chosen_tokens=10, rejected_tokens=5),
        Judged(0, chosen=0.0, rejected=1.0, chosen_tokens=9, rejected_tokens=5),
        Judged(1, chosen=1.0, rejected=1.0, chosen_tokens=4, rejected_tokens=4),
        Judged(2, chosen=3.0, rejected=0.0, chosen_tokens=2, rejected_tokens=8),
    ]
    report = preference_report(judged, longer_is_better=True)
    assert report["accuracy"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert report["length_accuracy"] == pytest.approx((1 + 1 + 0.5 + 0) / 4)
    assert (report["n"], report["prompts"]) == (4, 3)
    shorter = preference_report(judged, longer_is_better=False)
    assert shorter["length_accuracy"] == pytest.approx((0 + 0 + 0.5 + 1) / 4)


def test_a_model_that_counts_tokens_is_seen_to() -> None:
    draw = random.Random(0)
    judged = []
    for number in range(200):
        a, b = draw.sample(range(5, 100), 2)
        judged.append(Judged(number, chosen=a / 10, rejected=b / 10, chosen_tokens=a, rejected_tokens=b))
    report = preference_report(judged, longer_is_better=True)
    assert report["length_correlation"] == pytest.approx(1.0)
    assert report["over_length_ci95"] == [0.0, 0.0] or report["over_length_ci95"][0] <= 0


def test_scores_that_do_not_vary_have_no_correlation() -> None:
    assert preference_report([Judged(0, 1.0, 1.0, 3, 4)], longer_is_better=True)["length_correlation"] is None


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no held-out pairs"):
        preference_report([], longer_is_better=True)


def test_the_calibration_error_by_hand() -> None:
    # Chances 0.75 (ln 3), of which half are right: |0.75 - 0.5| = 0.25.
    assert calibration_error([math.log(3), -math.log(3)]) == pytest.approx(0.25)
    # 0.75 right three times in four is calibrated; ties are right half the time, as 0.5 says.
    assert calibration_error([math.log(3)] * 3 + [-math.log(3)]) == pytest.approx(0.0)
    assert calibration_error([0.0, 0.0]) == pytest.approx(0.0)
    assert calibration_error([1e6, 1e6]) == pytest.approx(0.0)


def test_best_of_n_by_hand() -> None:
    found = best_of([[0.1, 0.9], [0.5, 0.5], [3.0, 1.0]], [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    assert (found["n"], found["questions"]) == (2, 3)
    assert found["mean"] == pytest.approx((0.5 + 0.5 + 0.0) / 3)
    assert found["best"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["gain"] == pytest.approx((0.5 + 0.5 + 0.0) / 3)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1), min_size=1, max_size=30))
def test_groups_of_one_have_the_interval_of_their_values(values: list[int]) -> None:
    low, high = cluster_interval([float(value) for value in values], range(len(values)))
    assert -1e-9 <= low <= sum(values) / len(values) + 1e-9
    assert sum(values) / len(values) - 1e-9 <= high <= 1 + 1e-9


def test_one_prompt_proves_nothing() -> None:
    """Wilson's of a half of 1 mark; and, moved from [0, 1] to [-1, 1], of 0.75 of 1 and of a half of 4."""
    assert cluster_interval([0.0, 1.0], "pp") == pytest.approx((0.054621, 0.945379), abs=1e-5)
    assert cluster_interval([1.0, 0.0], "pp", least=-1.0) == pytest.approx((-0.764181, 0.970730), abs=1e-5)
    assert cluster_interval([0.0] * 4, "pqrs", least=-1.0) == pytest.approx((-0.699922, 0.699922), abs=1e-5)


def test_values_that_are_alike_in_a_group_count_once() -> None:
    """Ten copies of each value know no more than the values themselves."""
    values = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    many = [value for value in values for _ in range(10)]
    groups = [number for number in range(8) for _ in range(10)]
    narrow = cluster_interval(many, range(80))
    assert cluster_interval(many, groups) == pytest.approx(cluster_interval(values, range(8)))
    assert narrow[1] - narrow[0] < 0.5 * (
        cluster_interval(many, groups)[1] - cluster_interval(many, groups)[0]
    )
