"""Numbers of a step that are worked out from its completions."""

from types import SimpleNamespace
from typing import Any

import pytest

from rewards.repetition import repeated_share
from rlreason.stages.record import length_reward


def sample(group: int, tokens: int, reward: float | None) -> Any:
    rollout = SimpleNamespace(completion_ids=[0] * tokens)
    return SimpleNamespace(group=group, rollout=rollout, reward=reward)


def test_length_and_reward_are_held_together_within_groups() -> None:
    # Group 0 is long and earns nothing, group 1 short and earns much: that alone says nothing.
    apart = [sample(0, 100, 0.0), sample(0, 100, 0.0), sample(1, 10, 1.0), sample(1, 10, 1.0)]
    assert length_reward(apart) is None
    # Within groups, from the means: lengths -1 1 -2 2, rewards -.5 .5 .5 -.5.
    mixed = [sample(0, 99, 0.0), sample(0, 101, 1.0), sample(1, 8, 1.0), sample(1, 12, 0.0)]
    # Sum of products: .5 + .5 - 1 - 1 = -1; of squares: 10 and 1.
    assert length_reward(mixed) == pytest.approx(-1 / 10**0.5)


def test_abstentions_have_no_part_in_it() -> None:
    samples = [sample(0, 5, 1.0), sample(0, 9, None), sample(0, 3, 0.0)]
    assert length_reward(samples) == pytest.approx(1.0)
    assert length_reward([sample(0, 5, None)]) is None


def test_rewards_that_differ_by_rounding_alone_are_the_same() -> None:
    assert length_reward([sample(0, 5, 0.1 + 0.2), sample(0, 9, 0.3), sample(0, 7, 0.3)]) is None


def test_share_of_repeated_runs() -> None:
    # Runs of two: 12 23 31 12 23 31 14; three of seven were there before.
    assert repeated_share([1, 2, 3, 1, 2, 3, 1, 4], ngram=2) == pytest.approx(3 / 7)
    assert repeated_share([1, 2], ngram=3) == 0.0
