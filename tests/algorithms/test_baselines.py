"""Baselines that look beyond the group, and advantages a token: REINFORCE++ and ReMax."""

import math
import random
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreason.algorithms import AdvantageScale, Baseline, group_advantages, informative, token_advantages

NAN = math.nan
steady = settings(derandomize=True, deadline=None, max_examples=50)
rows = st.lists(
    st.tuples(st.one_of(st.just(NAN), st.integers(-8, 8).map(lambda n: n / 4)), st.integers(0, 3)),
    min_size=1,
    max_size=16,
)


def advantages(rewards: list[float], groups: list[int], **options: Any) -> torch.Tensor:
    return group_advantages(torch.tensor(rewards, dtype=torch.float32), torch.tensor(groups), **options)


def greedy(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32)


def test_batch_baseline_subtracts_the_mean_of_all_rewards() -> None:
    # one completion a prompt: mean (0 + 2 + 4 + 6) / 4 = 3, variance (9 + 1 + 1 + 9) / 3 = 20/3
    rewards, one = [0.0, 2, 4, 6], 1 / math.sqrt(20 / 3)
    plain = advantages(rewards, [0, 1, 2, 3], baseline="batch")
    torch.testing.assert_close(plain, torch.tensor([-3.0, -1, 1, 3]))
    scaled = advantages(rewards, [0, 1, 2, 3], baseline="batch", scale="batch", eps=0.0)
    torch.testing.assert_close(scaled, one * plain)


def test_batch_baseline_gives_a_group_of_equal_rewards_its_part() -> None:
    # mean 2/4: a question that is always solved is worth something, where another never is
    actual = advantages([1, 1, 0, 0], [0, 0, 1, 1], baseline="batch")
    torch.testing.assert_close(actual, torch.tensor([0.5, 0.5, -0.5, -0.5]))


def test_greedy_baseline_subtracts_what_the_greedy_completion_earned() -> None:
    # the second group's greedy completion earned more than either sample, the third's abstained
    actual = advantages(
        [1, 0, 0.5, 0, 1, 0, NAN],
        [0, 0, 1, 1, 2, 2, 3],
        baseline="greedy",
        greedy_B=greedy([0.25, 0.25, 1, 1, NAN, NAN, 1]),
    )
    torch.testing.assert_close(actual, torch.tensor([0.75, -0.25, -0.5, -1, 0, 0, 0]))


def test_informative_by_the_greedy_completion() -> None:
    # group 0: equal rewards, another greedy one; 1: all as the greedy one; 2: without a greedy reward
    rewards = torch.tensor([1.0, 1, NAN, 0, 0, 0, 1])
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    found = informative(rewards, groups, greedy_B=greedy([0, 0, 0, 0, 0, NAN, NAN]))
    assert found.tolist() == [True, True, True, False, False, False, False]


@pytest.mark.parametrize(
    "rewards", [[0.1] * 3, [NAN, 0.7, NAN], [NAN, NAN, NAN], []], ids=["equal", "one", "none", "empty"]
)
@pytest.mark.parametrize("scale", ["none", "batch"])
def test_batch_without_spread_is_exactly_zero(rewards: list[float], scale: AdvantageScale) -> None:
    actual = group_advantages(
        torch.tensor(rewards, dtype=torch.float64),
        torch.arange(len(rewards)),
        baseline="batch",
        scale=scale,
    )
    assert torch.equal(actual, torch.zeros(len(rewards), dtype=torch.float64))


@steady
@given(rows=rows, scale=st.sampled_from(["none", "batch"]))
def test_batch_baseline_agrees_with_the_statistics_module(
    rows: list[tuple[float, int]], scale: AdvantageScale
) -> None:
    actual = advantages([r for r, _ in rows], [g for _, g in rows], baseline="batch", scale=scale)
    scored = [r for r, _ in rows if not math.isnan(r)]
    divisor = statistics.stdev(scored) + 1e-4 if scale == "batch" and len(set(scored)) > 1 else 1.0
    for index, (reward, _) in enumerate(rows):
        expected = 0.0 if math.isnan(reward) else (reward - statistics.fmean(scored)) / divisor
        assert actual[index].item() == pytest.approx(expected, abs=1e-5)


OPTIONS: list[tuple[Baseline, AdvantageScale]] = [
    ("mean", "none"),
    ("mean", "group"),
    ("mean", "batch"),
    ("leave_one_out", "none"),
    ("batch", "none"),
    ("batch", "batch"),
    ("greedy", "none"),
]


def tensors(rows: list[tuple[float, int]], baseline: Baseline) -> dict[str, Any]:
    rewards = torch.tensor([r for r, _ in rows], dtype=torch.float64)
    groups = torch.tensor([g for _, g in rows])
    earned = torch.tensor([0.25, -1.0, 0.0, NAN], dtype=torch.float64)
    return {
        "rewards_B": rewards,
        "group_B": groups,
        "greedy_B": earned[groups] if baseline == "greedy" else None,
    }


@steady
@given(rows=rows, options=st.sampled_from(OPTIONS), shift=st.integers(-40, 40).map(lambda n: n / 4))
def test_what_every_completion_earns_alike_does_not_matter(
    rows: list[tuple[float, int]], options: tuple[Baseline, AdvantageScale], shift: float
) -> None:
    baseline, scale = options
    given_ = tensors(rows, baseline)
    straight = group_advantages(**given_, baseline=baseline, scale=scale)
    given_["rewards_B"] = given_["rewards_B"] + shift
    if baseline == "greedy":
        given_["greedy_B"] = given_["greedy_B"] + shift
    shifted = group_advantages(**given_, baseline=baseline, scale=scale)
    torch.testing.assert_close(shifted, straight, rtol=0, atol=1e-9)


@steady
@given(rows=rows, options=st.sampled_from(OPTIONS[4:]), order=st.randoms(use_true_random=False))
def test_baselines_beyond_the_group_do_not_depend_on_the_order_of_the_rows(
    rows: list[tuple[float, int]], options: tuple[Baseline, AdvantageScale], order: random.Random
) -> None:
    baseline, scale = options
    places = order.sample(range(len(rows)), len(rows))
    straight = group_advantages(**tensors(rows, baseline), baseline=baseline, scale=scale)
    shuffled = group_advantages(
        **tensors([rows[place] for place in places], baseline), baseline=baseline, scale=scale
    )
    torch.testing.assert_close(shuffled, straight[torch.tensor(places)], rtol=0, atol=1e-12)


def test_options_that_do_not_fit_a_baseline_are_refused() -> None:
    rewards, groups = torch.tensor([1.0, 0.0]), torch.tensor([0, 0])
    with pytest.raises(ValueError, match="'group' is not for baseline 'batch'; known: none, batch"):
        group_advantages(rewards, groups, baseline="batch", scale="group")
    with pytest.raises(ValueError, match="'batch' is not for baseline 'greedy'"):
        group_advantages(rewards, groups, baseline="greedy", scale="batch", greedy_B=rewards)
    with pytest.raises(ValueError, match="greedy_B belongs"):
        group_advantages(rewards, groups, baseline="greedy")
    with pytest.raises(ValueError, match="greedy_B belongs"):
        group_advantages(rewards, groups, greedy_B=rewards)
    with pytest.raises(ValueError, match=r"greedy_B must be \(2,\)"):
        group_advantages(rewards, groups, baseline="greedy", greedy_B=rewards[:1])


# --- KL from each token on -------------------------------------------------------------------------------

KL = [[0.5, 0.25, -0.25], [1.0, 9.0, 9.0]]
MASK = [[1, 1, 1], [1, 0, 0]]


def by_token(rewards: list[float], groups: list[int], **options: Any) -> torch.Tensor:
    return token_advantages(
        torch.tensor(rewards), torch.tensor(groups), torch.tensor(KL), torch.tensor(MASK), **options
    )


def test_a_token_answers_for_the_kl_from_itself_on() -> None:
    # KL ahead: 0.5 + 0.25 - 0.25 = 0.5, 0.25 - 0.25 = 0, -0.25; and 1. Rewards less their mean: 1, -1.
    actual = by_token([2.0, 0.0], [0, 0], coef=2.0)
    torch.testing.assert_close(actual, torch.tensor([[1 - 1.0, 1 - 0.0, 1 + 0.5], [-1 - 2.0, 0, 0]]))


def test_reinforce_plus_plus_normalises_over_the_tokens() -> None:
    # r - KL ahead: 2 - 0.5, 2 - 0, 2 + 0.25, 0 - 1 = 1.5, 2, 2.25, -1; mean 4.75 / 4 = 1.1875
    returns = [1.5, 2.0, 2.25, -1.0]
    expected = [(x - 1.1875) / statistics.stdev(returns) for x in returns]
    actual = by_token([2.0, 0.0], [0, 1], coef=1.0, baseline="batch", scale="batch", eps=0.0)
    torch.testing.assert_close(actual, torch.tensor([expected[:3], [expected[3], 0, 0]]))


def test_remax_holds_rewards_alone_against_the_greedy_completion() -> None:
    actual = by_token([2.0, 1.0], [0, 1], coef=1.0, baseline="greedy", greedy_B=greedy([1.5, NAN]))
    torch.testing.assert_close(actual, torch.tensor([[0.0, 0.5, 0.75], [0, 0, 0]]))


def test_an_abstention_has_no_part_in_the_tokens() -> None:
    alone = by_token([NAN, 3.0], [0, 1], coef=1.0, baseline="batch")
    assert torch.equal(alone, torch.zeros(2, 3))  # one token is its own mean


@steady
@given(
    rows=rows.filter(lambda rows: len(rows) > 1), options=st.sampled_from([("mean", "none"), *OPTIONS[3:]])
)
def test_without_kl_and_with_equal_lengths_tokens_have_the_advantage_of_their_completion(
    rows: list[tuple[float, int]], options: tuple[Baseline, AdvantageScale]
) -> None:
    baseline, scale = options
    whole = group_advantages(**tensors(rows, baseline), baseline=baseline, scale="none")
    kl = torch.zeros(len(rows), 3, dtype=torch.float64)
    found = token_advantages(
        **tensors(rows, baseline), kl_BT=kl, mask_BT=kl == 0, coef=1.0, baseline=baseline, scale=scale
    )
    if scale == "batch":  # three tokens of each instead of one: the deviation counts n - 1
        scored = whole[~torch.tensor([math.isnan(r) for r, _ in rows])]
        spread = scored.repeat_interleave(3).std() if len(scored) else torch.tensor(1.0)
        whole = whole / (spread + 1e-4)
    torch.testing.assert_close(found, whole[:, None].expand(-1, 3), rtol=0, atol=1e-9)


def test_tokens_refuse_wrong_input() -> None:
    with pytest.raises(ValueError, match="for whole completions"):
        by_token([1.0, 0.0], [0, 0], coef=1.0, scale="group")
    with pytest.raises(ValueError, match=r"must both be \(3, T\), got \(2, 3\) and \(2, 3\)"):
        by_token([1.0, 0.0, 1.0], [0, 0, 1], coef=1.0)
