import math
import random
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreason.algorithms import (
    AdvantageScale,
    Baseline,
    decoupled_rewards,
    gdpo_advantages,
    group_advantages,
    informative,
    overlong_penalty,
)

NAN = math.nan
steady = settings(derandomize=True, deadline=None)


def advantages(rewards: list[float], groups: list[int], **options: Any) -> torch.Tensor:
    return group_advantages(torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups), **options)


def test_mean_baseline_subtracts_the_mean_of_the_group() -> None:
    # group 0: mean (1+0+0+0)/4 = 0.25; group 7: mean (1+3)/2 = 2
    actual = advantages([1, 0, 0, 0, 1, 3], [0, 0, 0, 0, 7, 7])
    torch.testing.assert_close(actual, torch.tensor([0.75, -0.25, -0.25, -0.25, -1.0, 1.0]))


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    # 1 - (0+0+0)/3 = 1; 0 - (1+0+0)/3 = -1/3
    actual = advantages([1, 0, 0, 0], [0] * 4, baseline="leave_one_out")
    torch.testing.assert_close(actual, torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3]))


def test_group_scale_divides_by_the_unbiased_deviation() -> None:
    # variance (0.75^2 + 3 * 0.25^2) / (4 - 1) = 0.75 / 3 = 0.25, deviation 0.5
    actual = advantages([1, 0, 0, 0], [0] * 4, scale="group", eps=1e-4)
    expected = [0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001]
    torch.testing.assert_close(actual, torch.tensor(expected))


def test_batch_scale_divides_by_the_deviation_of_all_rewards() -> None:
    # rewards 0, 2, 4, 6: mean 3, variance (9 + 1 + 1 + 9) / 3 = 20/3; group means 1 and 5
    actual = advantages([0, 2, 4, 6], [0, 0, 1, 1], scale="batch", eps=0.0)
    one = 1 / math.sqrt(20 / 3)
    torch.testing.assert_close(actual, torch.tensor([-one, one, -one, one]))


def test_scale_none_keeps_a_small_difference_small() -> None:
    # what turned a 0.1 format reward into a full-sized signal is the division by the deviation
    actual = advantages([0.1, 0.0], [0, 0])
    torch.testing.assert_close(actual, torch.tensor([0.05, -0.05]))


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["none", "group", "batch"])
def test_abstention_has_advantage_0_and_no_part_in_the_baseline(
    baseline: Baseline, scale: AdvantageScale
) -> None:
    with_nan = advantages([1, NAN, 0, 0.5], [3, 3, 3, 3], baseline=baseline, scale=scale)
    without = advantages([1, 0, 0.5], [3, 3, 3], baseline=baseline, scale=scale)
    assert with_nan[1] == 0
    torch.testing.assert_close(with_nan[[0, 2, 3]], without)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["none", "group", "batch"])
@pytest.mark.parametrize(
    ("rewards", "groups"),
    [
        ([0.1] * 3, [0] * 3),  # in float64 (0.1 + 0.1 + 0.1) / 3 is not 0.1
        ([1.0, 2.0, 3.0], [0, 1, 2]),  # one completion a group
        ([1.0, NAN, 2.0, NAN], [0, 0, 1, 1]),  # one scored completion a group
        ([NAN, NAN], [0, 0]),
        ([], []),
    ],
)
def test_no_spread_gives_exactly_zero(
    dtype: torch.dtype, baseline: Baseline, scale: AdvantageScale, rewards: list[float], groups: list[int]
) -> None:
    rewards_B, groups_B = torch.tensor(rewards, dtype=dtype), torch.tensor(groups, dtype=torch.long)
    actual = group_advantages(rewards_B, groups_B, baseline=baseline, scale=scale)
    assert torch.equal(actual, torch.zeros(len(rewards), dtype=dtype))
    assert not informative(rewards_B, groups_B).any()


def test_whole_number_rewards_are_not_rounded() -> None:
    actual = group_advantages(torch.tensor([1, 0]), torch.tensor([0, 0]))
    torch.testing.assert_close(actual, torch.tensor([0.5, -0.5]))


def test_informative_marks_every_row_of_a_group_with_spread() -> None:
    rewards = torch.tensor([1, 0, NAN, 1, 1, 0.5, NAN])
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert informative(rewards, groups).tolist() == [True, True, True, False, False, False, False]


def test_wrong_input_is_refused() -> None:
    rewards, groups = torch.tensor([1.0, 0.0]), torch.tensor([0, 0])
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        group_advantages(rewards, groups[:1])
    with pytest.raises(ValueError, match="infinite"):
        group_advantages(torch.tensor([1.0, math.inf]), groups)
    with pytest.raises(ValueError, match="median"):
        group_advantages(rewards, groups, baseline="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="global"):
        group_advantages(rewards, groups, scale="global")  # type: ignore[arg-type]


rows = st.lists(
    st.tuples(st.one_of(st.just(NAN), st.integers(-8, 8).map(lambda n: n / 4)), st.integers(0, 3)),
    min_size=1,
    max_size=16,
)


@steady
@given(rows=rows, baseline=st.sampled_from(["mean", "leave_one_out"]))
def test_agrees_with_the_statistics_module(rows: list[tuple[float, int]], baseline: Baseline) -> None:
    actual = advantages([r for r, _ in rows], [g for _, g in rows], baseline=baseline, scale="group")
    for index, (reward, group) in enumerate(rows):
        others = [r for j, (r, g) in enumerate(rows) if g == group and j != index and not math.isnan(r)]
        if math.isnan(reward) or not others:
            assert actual[index] == 0
            continue
        center = statistics.fmean(others if baseline == "leave_one_out" else [*others, reward])
        expected = (reward - center) / (statistics.stdev([*others, reward]) + 1e-4)
        assert actual[index].item() == pytest.approx(expected, abs=1e-5)


@steady
@given(
    rows=rows,
    baseline=st.sampled_from(["mean", "leave_one_out"]),
    scale=st.sampled_from(["none", "group", "batch"]),
    order=st.randoms(use_true_random=False),
)
def test_row_order_and_group_names_do_not_matter(
    rows: list[tuple[float, int]], baseline: Baseline, scale: AdvantageScale, order: random.Random
) -> None:
    rewards = torch.tensor([r for r, _ in rows], dtype=torch.float64)
    groups = torch.tensor([g for _, g in rows])
    permutation = torch.tensor(order.sample(range(len(rows)), len(rows)))
    straight = group_advantages(rewards, groups, baseline=baseline, scale=scale)
    shuffled = group_advantages(
        rewards[permutation], 1000 - 7 * groups[permutation], baseline=baseline, scale=scale
    )
    torch.testing.assert_close(shuffled, straight[permutation], rtol=0, atol=1e-12)


# --- GDPO ----------------------------------------------------------------------------------------------


def decoupled(
    values: list[list[float]], groups: list[int], weights: list[float], eps: float = 0.0
) -> torch.Tensor:
    return decoupled_rewards(
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(groups),
        weights_K=torch.tensor(weights),
        eps=eps,
    )


def test_more_rewards_at_once_are_worth_more() -> None:
    # The example of arXiv 2601.05242: two rollouts, two rewards. Of the sums (0, 1) and (0, 2), GRPO makes
    # the same advantages. Each reward alone: mean 0.5, deviation sqrt(2 * 0.25 / 1) = 0.7071, so +-0.7071.
    both = decoupled([[0, 0], [1, 1]], [0, 0], [1, 1])
    one = decoupled([[0, 1], [1, 1]], [0, 0], [1, 1])
    torch.testing.assert_close(both, torch.tensor([-math.sqrt(2), math.sqrt(2)], dtype=torch.float64))
    torch.testing.assert_close(one, torch.tensor([-math.sqrt(0.5), math.sqrt(0.5)], dtype=torch.float64))


def test_gdpo_advantages_by_hand() -> None:
    # group 0: the first reward +-sqrt(1/2), the second without spread 0
    # group 1: the second reward, mean 1, deviation sqrt(2): +-sqrt(1/2), weighted +-sqrt(1/2) / 2
    # the batch: variance (2 * 1/2 + 2 * 1/8) / 3 = 5/12;  sqrt(1/2) / sqrt(5/12) = sqrt(6/5)
    actual = gdpo_advantages(
        torch.tensor([[1.0, 7.0], [0.0, 7.0], [3.0, 2.0], [3.0, 0.0]]),
        torch.tensor([0, 0, 1, 1]),
        weights_K=torch.tensor([1.0, 0.5]),
        eps=0.0,
    )
    large, small = math.sqrt(6 / 5), math.sqrt(6 / 5) / 2
    torch.testing.assert_close(actual, torch.tensor([large, -large, small, -small]))


def test_rewards_that_cancel_out_leave_exactly_nothing() -> None:
    values = [[0.1, 0.7], [0.7, 0.1], [0.4, 0.4]]
    assert torch.equal(decoupled(values, [0] * 3, [1, 1]), torch.zeros(3, dtype=torch.float64))
    actual = gdpo_advantages(torch.tensor(values), torch.tensor([0] * 3), weights_K=torch.tensor([1.0, 1.0]))
    assert torch.equal(actual, torch.zeros(3))


def test_the_size_of_a_reward_does_not_matter_its_weight_does() -> None:
    values = [[1.0, 0.2], [0.0, 0.9], [0.5, 0.0], [0.0, 0.4]]
    straight = decoupled(values, [0, 0, 1, 1], [2.0, 0.5])
    scaled = decoupled([[10 * a + 3, b / 100] for a, b in values], [0, 0, 1, 1], [2.0, 0.5])
    torch.testing.assert_close(scaled, straight, rtol=0, atol=1e-12)
    assert not torch.allclose(decoupled(values, [0, 0, 1, 1], [1.0, 1.0]), straight)


@pytest.mark.parametrize("hole", [[NAN, NAN], [NAN, 1.0], [1.0, NAN]])
def test_gdpo_leaves_abstentions_out_of_everything(hole: list[float]) -> None:
    values = [[1.0, 0.5], [0.0, 0.0], [0.0, 1.0]]
    whole = gdpo_advantages(torch.tensor(values), torch.tensor([0] * 3), weights_K=torch.tensor([1.0, 0.3]))
    holed = gdpo_advantages(
        torch.tensor([values[0], hole, *values[1:]]),
        torch.tensor([0] * 4),
        weights_K=torch.tensor([1.0, 0.3]),
    )
    assert holed[1] == 0
    torch.testing.assert_close(holed[[0, 2, 3]], whole)


@pytest.mark.parametrize(
    "values", [[[1.0, 2.0]], [[1.0, 2.0]] * 3, [[NAN, NAN]] * 2, [[1.0, NAN], [2.0, 1.0]]]
)
def test_gdpo_without_spread_is_exactly_zero(values: list[list[float]]) -> None:
    actual = gdpo_advantages(
        torch.tensor(values), torch.zeros(len(values), dtype=torch.long), weights_K=torch.tensor([1.0, 1.0])
    )
    assert torch.equal(actual, torch.zeros(len(values)))


many = st.lists(
    st.tuples(st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=3, max_size=3), st.integers(0, 3)),
    min_size=2,
    max_size=16,
)
weightings = st.lists(st.integers(-4, 4).map(lambda n: n / 2), min_size=3, max_size=3)


@steady
@given(rows=many, weights=weightings)
def test_gdpo_agrees_with_the_statistics_module(
    rows: list[tuple[list[float], int]], weights: list[float]
) -> None:
    sums = []
    for values, group in rows:
        peers = [v for v, g in rows if g == group]
        total = 0.0
        for k, weight in enumerate(weights):
            column = [v[k] for v in peers]
            spread = statistics.stdev(column) if len(set(column)) > 1 else math.inf
            total += weight * (values[k] - statistics.fmean(column)) / (spread + 1e-4)
        sums.append(total)
    assert statistics.fmean(sums) == pytest.approx(0.0, abs=1e-9)  # what need not be subtracted
    deviation = statistics.stdev(sums)
    actual = gdpo_advantages(
        torch.tensor([v for v, _ in rows], dtype=torch.float64),
        torch.tensor([g for _, g in rows]),
        weights_K=torch.tensor(weights),
    )
    expected = [value / (deviation + 1e-4) if abs(value) >= 1e-6 else 0.0 for value in sums]
    assert actual.tolist() == pytest.approx(expected, abs=1e-6)


@steady
@given(rows=many, weights=weightings, order=st.randoms(use_true_random=False))
def test_gdpo_does_not_depend_on_the_order_of_the_rows(
    rows: list[tuple[list[float], int]], weights: list[float], order: random.Random
) -> None:
    values = torch.tensor([v for v, _ in rows], dtype=torch.float64)
    groups = torch.tensor([g for _, g in rows])
    permutation = torch.tensor(order.sample(range(len(rows)), len(rows)))
    straight = gdpo_advantages(values, groups, weights_K=torch.tensor(weights))
    shuffled = gdpo_advantages(values[permutation], 5 - groups[permutation], weights_K=torch.tensor(weights))
    torch.testing.assert_close(shuffled, straight[permutation], rtol=0, atol=1e-9)


def test_gdpo_refuses_wrong_input() -> None:
    values, groups = torch.zeros(2, 2), torch.tensor([0, 0])
    with pytest.raises(ValueError, match=r"\(2, 2\) and \(3,\)"):
        gdpo_advantages(values, groups, weights_K=torch.ones(3))
    with pytest.raises(ValueError, match=r"\(2,\) and \(1,\)"):
        gdpo_advantages(values, groups[:1], weights_K=torch.ones(2))
    with pytest.raises(ValueError, match="infinite"):
        gdpo_advantages(torch.tensor([[math.inf, 0.0], [0.0, 0.0]]), groups, weights_K=torch.ones(2))


# --- soft overlong punishment ---------------------------------------------------------------------------


def test_overlong_penalty_follows_dapo_equation_13() -> None:
    # limit 100, buffer 20: free up to 80, then ((100 - 20) - length) / 20
    lengths = torch.tensor([10, 80, 85, 90, 100, 130])
    actual = overlong_penalty(lengths, max_new_tokens=100, buffer=20)
    torch.testing.assert_close(actual, torch.tensor([0.0, 0.0, -0.25, -0.5, -1.0, -1.0]))


@pytest.mark.parametrize("buffer", [0, 101])
def test_overlong_buffer_out_of_range_is_refused(buffer: int) -> None:
    with pytest.raises(ValueError, match="buffer"):
        overlong_penalty(torch.tensor([10]), max_new_tokens=100, buffer=buffer)
