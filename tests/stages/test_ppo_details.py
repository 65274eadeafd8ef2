"""Details of PPO that docs/ppo.md lists, where the stage puts them to use: by hand, or seen in a run."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from micro import lines
from torch import nn

from rlreason.config.online import CriticOptimConfig
from rlreason.config.training import OptimConfig
from rlreason.stages.result import UpdateResult
from rlreason.stages.update import Updater

Train = Callable[..., Path]


def test_policy_and_critic_have_a_rate_and_a_norm_each() -> None:
    """(3, 4) of norm 5, cut to 1, times 0.1; (0, 3), cut to 0.5, times 0.01."""
    policy, critic = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    policy.grad, critic.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 3.0])
    groups = [{"params": [policy], "part": "policy"}, {"params": [critic], "part": "critic"}]
    updater: Any = SimpleNamespace(
        _policy=SimpleNamespace(trainable=lambda: {"p": policy}),
        critic_parameters={"c": critic},
        optimizer=torch.optim.SGD(groups, lr=9.0),
        _settings=SimpleNamespace(optim=OptimConfig(lr=0.1, max_grad_norm=1.0)),
        _critic=SimpleNamespace(optim=CriticOptimConfig(lr=0.01, max_grad_norm=0.5)),
        _accelerator=SimpleNamespace(clip_grad_norm_=nn.utils.clip_grad_norm_),
        _values_only=False,
        _of_all_processes=lambda numbers: numbers,
        guard=SimpleNamespace(passed=lambda: None),
        _total_updates=10,
        updates=1,
    )
    result = UpdateResult(lr=0.1)
    assert Updater._step_or_skip(updater, torch.tensor(1.0), torch.tensor(0.0), result) is None
    assert policy.tolist() == pytest.approx([-0.06, -0.08], abs=1e-6)
    assert critic.tolist() == pytest.approx([0.0, -0.005], abs=1e-6)
    assert (result.grad_norms, result.critic_norms) == ([5.0], [3.0])


def step(run: Path) -> dict[str, Any]:
    return next(line for line in lines(run / "metrics.jsonl") if line["stage"] == "ppo")


def test_the_value_loss_is_weighed_and_held(train: Train) -> None:
    def one(name: str, epochs: int = 1, **critic: Any) -> dict[str, Any]:
        return step(
            train(name=name, stage=["sft", "ppo"], ppo={"steps": 1, "epochs": epochs, "critic": critic})
        )

    half, whole = one("half", coef=0.5), one("whole", coef=1.0)
    assert whole["critic_grad_norm"] == pytest.approx(2 * half["critic_grad_norm"], rel=1e-4)
    assert half["value_clipped"] == 0.0
    assert one("held", epochs=2, clip=1e-6)["value_clipped"] > 0.0


def test_divergence_and_ratio_are_at_the_samplers_temperature(train: Train) -> None:
    """The first policy is the reference and the sampler: all three agree, at any temperature."""
    run = train(stage=["sft", "ppo"], ppo={"steps": 1}, rollout={"temperature": 0.5})
    assert step(run)["kl"] == pytest.approx(0.0, abs=1e-6)
    assert step(run)["sampler_gap_max"] < 1e-4


def test_the_sampler_is_corrected_for(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that took every sampled token for half as likely as the sampler did learns half as much."""
    whole = step(train(name="whole", stage=["sft", "ppo"], ppo={"steps": 1}))["grad_norm"]
    monkeypatch.setattr(
        "rlreason.stages.update.sampler_weights", lambda old, sampler, *, cap: torch.full_like(old, 1 / cap)
    )
    half = step(train(name="half", stage=["sft", "ppo"], ppo={"steps": 1, "sampler_correction": 2.0}))
    assert half["grad_norm"] == pytest.approx(whole / 2, rel=1e-3)
