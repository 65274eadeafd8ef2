"""Advantages and sampler weights against what TRL 1.16's trainer computes in a real generation step."""

from typing import Any

import pytest
import torch

from rlreason.algorithms import AdvantageScale, gdpo_advantages, group_advantages

PROMPTS = [{"prompt": "w5 w6"}] * 4 + [{"prompt": "w7 w8 w9"}] * 4


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize(
    "rewards",
    [
        [1.0, 0.0, 0.0, 1.0, 0.25, 0.5, 0.75, 1.5],
        [1.0, 0.0, None, 1.0, 0.0, 0.0, 0.5, None],  # None: cannot be scored
        [1.0, 1.0, 1.0, 1.0, 0.0, 2.0, 0.0, 0.0],  # one group without spread
    ],
)
def test_group_advantages(
    trainer: Any, scripted_reward: Any, scale: AdvantageScale, rewards: list[float | None]
) -> None:
    scripted_reward.values = rewards
    trainer.scale_rewards = scale
    theirs = trainer._generate_and_score_completions(PROMPTS)["advantages"]
    rewards_B = torch.tensor([torch.nan if r is None else r for r in rewards])
    ours = group_advantages(rewards_B, torch.tensor([0] * 4 + [1] * 4), scale=scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [1.0, 0.1, -0.5]])
@pytest.mark.parametrize(
    "rewards",
    [
        [[1.0, 1.0, 0.3], [0.0, 1.0, 0.1], [0.0, 0.0, 0.9], [1.0, 1.0, 0.2]] * 2,
        # Without spread in one reward, in all rewards of a group, and a completion that cannot be scored.
        [[1.0, 1.0, 0.3], [0.0, 1.0, 0.1], [None] * 3, [1.0, 1.0, 0.2]] + [[0.5, 0.0, 0.1]] * 4,
        [[10.0, 0.0, 0.25], [0.0, 1.0, 0.5], [5.0, 0.0, 0.5], [0.0, 0.0, 0.125]] + [[0.0, 1.0, 1.0]] * 4,
    ],
)
def test_gdpo_advantages(trainer: Any, rewards: list[list[float | None]], weights: list[float]) -> None:
    columns = list(zip(*rewards, strict=True))
    functions = [lambda column=column, **_: list(column) for column in columns]
    trainer.reward_funcs = functions
    trainer.reward_func_names = ["one", "two", "three"]
    trainer.reward_processing_classes = [None] * 3
    trainer.reward_weights = torch.tensor(weights)
    trainer.multi_objective_aggregation = "normalize_then_sum"
    theirs = trainer._generate_and_score_completions(PROMPTS)["advantages"]
    values_BK = torch.tensor([[torch.nan if r is None else r for r in row] for row in rewards])
    ours = gdpo_advantages(values_BK, torch.tensor([0] * 4 + [1] * 4), weights_K=torch.tensor(weights))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
