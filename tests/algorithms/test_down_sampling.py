import math
import statistics
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreason.algorithms import informative, max_variance

NAN = math.nan
steady = settings(derandomize=True, deadline=None)
# Few different values, so that there are ties, and any.
values = st.one_of(st.sampled_from([0.0, 0.1, 1.0, 1.1]), st.floats(-100, 100))


def kept(rewards: list[float], groups: list[int], keep: int) -> list[bool]:
    found = max_variance(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), keep=keep)
    return [bool(flag) for flag in found]


@given(st.lists(values, min_size=1, max_size=8), st.integers(2, 8))
@steady
def test_no_subset_of_that_size_varies_more(rewards: list[float], keep: int) -> None:
    flags = kept(rewards, [0] * len(rewards), keep)
    chosen = [reward for reward, flag in zip(rewards, flags, strict=True) if flag]
    assert len(chosen) == min(keep, len(rewards))
    most = max(statistics.pvariance(subset) for subset in combinations(rewards, len(chosen)))
    assert statistics.pvariance(chosen) == pytest.approx(most, rel=1e-6, abs=1e-12)


@given(st.lists(st.tuples(values, st.integers(0, 3)), min_size=1, max_size=20), st.integers(2, 6))
@steady
def test_a_group_that_teaches_something_still_does(rows: list[tuple[float, int]], keep: int) -> None:
    rewards, groups = torch.tensor([r for r, _ in rows]), torch.tensor([g for _, g in rows])
    flags = max_variance(rewards, groups, keep=keep)
    before, after = informative(rewards, groups), informative(rewards[flags], groups[flags])
    assert set(groups[before].tolist()) == set(groups[flags][after].tolist())


@pytest.mark.parametrize(
    ("rewards", "keep", "chosen"),
    [
        ([0, 1, 0, 0, 0, 0, 0, 0], 4, [0, 1, 2, 7]),  # one right answer, and three of the wrong ones
        ([1, 1, 1, 1, 1, 0, 1, 1], 4, [0, 5, 6, 7]),  # one wrong answer, and three of the right ones
        ([0, 1, 1, 0, 1, 0, 1, 0], 4, [0, 3, 4, 6]),  # as many of each
        ([1, 0, 0, 1, 1], 3, [1, 3, 4]),  # 2 of 3 and 1 of 3 vary alike: the odd one is high
        ([0.1, 0.1, 0.0, 1.1, 0.1], 3, [2, 3, 4]),  # of the wrong ones that without the form first
        ([3, 1, 2], 2, [0, 1]),
        ([1e300, 0, -1e300], 2, [0, 2]),  # squares that would overflow
        ([5, 5, 5, 5], 2, [0, 3]),  # nothing to choose by: of equal rewards by their places
    ],
)
def test_which_are_chosen(rewards: list[float], keep: int, chosen: list[int]) -> None:
    flags = kept(rewards, [0] * len(rewards), keep)
    assert [place for place, flag in enumerate(flags) if flag] == chosen


def test_the_rounding_of_equal_variances_does_not_decide() -> None:
    # one of 0.1 and two of 0.3 vary as two of 0.1 and one of 0.3: the odd one is high
    rewards = [0.1, 0.3, 0.1, 0.3, 0.1, 0.3, 0.1, 0.3]
    flags = kept(rewards, [0] * 8, 3)
    assert sum(reward == 0.3 for reward, flag in zip(rewards, flags, strict=True) if flag) == 2


def test_abstentions_fill_up_only_what_is_missing() -> None:
    assert kept([NAN, 0, NAN, 1, 0, 0], [0] * 6, 3) == [False, True, False, True, False, True]
    assert kept([NAN, 0, NAN, 1, NAN], [0] * 5, 3) == [True, True, False, True, False]
    assert kept([NAN, NAN, NAN], [0] * 3, 2) == [True, True, False]


def test_groups_are_chosen_from_apart_and_small_ones_whole() -> None:
    flags = kept([0, 5, 1, 5, 2, 0, 9], [1, 2, 1, 2, 1, 2, 3], 2)
    assert flags == [True, False, False, True, True, True, True]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="keep must be 2 or more"):
        kept([0, 1], [0, 0], 1)
    with pytest.raises(ValueError, match="infinite"):
        kept([0, math.inf], [0, 0], 2)
    with pytest.raises(ValueError, match=r"both be \(B,\)"):
        kept([0, 1], [0], 2)
