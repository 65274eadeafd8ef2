"""Advantages and sampler weights against what TRL 1.16's trainer computes in a real generation step."""

from typing import Any

import pytest
import torch

from rlreason.algorithms import AdvantageScale, group_advantages

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
