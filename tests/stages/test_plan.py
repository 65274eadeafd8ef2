"""What the plan says of reward and advantage is what the run computes."""

from typing import Any

import pytest
from micro import MICRO, merged

from rlreason.config import RunConfig
from rlreason.stages.plan import advantage_formula, reward_formula


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(merged(MICRO, changes))


@pytest.mark.parametrize(
    ("changes", "formula"),
    [
        ({"rewards": "accuracy"}, "1 accuracy"),
        (
            {"rewards": {"accuracy": {"gate": "think_format"}, "think_format": 0.1}},
            "1 accuracy [if think_format] + 0.1 think_format",
        ),
        (
            {"rewards": {"accuracy": {"weight": 2.0, "clip": [-0.5, 1]}}},
            "2 clip(accuracy, -0.5, 1)",
        ),
        ({"rewards": "random", "grpo": {"overlong_buffer": 4}}, "1 random + 1 overlong(last 4 tokens)"),
        (
            {"rewards": "random", "grpo": {"kl": {"coef": 0.1, "where": "reward"}}},
            "1 random - 0.1 KL_k3(policy || start)",
        ),
    ],
)
def test_the_reward(changes: dict[str, Any], formula: str) -> None:
    assert reward_formula(config(**changes)) == formula


@pytest.mark.parametrize(
    ("grpo", "formula"),
    [
        ({}, "reward - mean of the group"),
        ({"baseline": "leave_one_out"}, "reward - mean of the others in the group"),
        ({"advantage_scale": "group"}, "reward - mean of the group, / (std of the group + 1e-4)"),
        ({"group_size": 4, "down_sample": 2}, "reward - mean of the chosen of the group"),
        (
            {"combine": "gdpo"},
            "(sum over the terms of the reward of weight x (value - mean of the group) / (std of the group + "
            "1e-4)) / (std of these sums in the batch + 1e-4)",
        ),
    ],
)
def test_the_advantage(grpo: dict[str, Any], formula: str) -> None:
    assert advantage_formula(config(grpo=grpo)) == formula
