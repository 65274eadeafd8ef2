import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rlreason.config.training import OptimConfig
from rlreason.policy.optimizer import build_optimizer, learning_rate


def rates(total: int, **options: object) -> list[float]:
    optim = OptimConfig(lr=1.0, **options)  # type: ignore[arg-type]
    return [learning_rate(optim, update, total) for update in range(total)]


def test_the_rate_by_hand() -> None:
    # Two steps of warm-up, then four of the schedule: progress 0, 1/4, 2/4, 3/4.
    assert rates(6, warmup_steps=2, schedule="constant") == [0.5, 1, 1, 1, 1, 1]
    assert rates(6, warmup_steps=2, schedule="linear") == [0.5, 1, 1, 0.75, 0.5, 0.25]
    # (1 + cos(pi p)) / 2 at p = 0, 1/4, 1/2, 3/4, with cos(pi / 4) = 0.707107.
    cosine = [0.5, 1, 1, 0.853553, 0.5, 0.146447]
    assert rates(6, warmup_steps=2, schedule="cosine") == pytest.approx(cosine, abs=1e-6)
    assert rates(4, schedule="linear") == [1, 0.75, 0.5, 0.25]
    assert rates(3, warmup_steps=5, schedule="cosine") == pytest.approx([0.2, 0.4, 0.6])


@given(
    total=st.integers(1, 60),
    warmup=st.integers(0, 80),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
)
def test_the_rate_rises_then_falls_and_stays_in_bounds(total: int, warmup: int, schedule: str) -> None:
    found = rates(total, warmup_steps=warmup, schedule=schedule)
    assert all(0 < rate <= 1 for rate in found)
    rising, falling = found[:warmup], found[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)


def one_step(value: list, optim: OptimConfig) -> torch.Tensor:  # type: ignore[type-arg]
    parameter = nn.Parameter(torch.tensor(value))
    optimizer = build_optimizer({"policy": ({"p": parameter}, optim)})
    parameter.grad = torch.full_like(parameter, 0.5)
    optimizer.step()
    return parameter.detach()


def test_a_step_of_adamw_by_hand() -> None:
    # The first step: m / (1 - beta1) = g = 0.5 and v / (1 - beta2) = g^2, so the update is lr * 1 = 0.1.
    # Decay first takes lr * weight_decay = 0.02 of a matrix: 1 * 0.98 - 0.1 = 0.88; of a vector nothing.
    optim = OptimConfig(lr=0.1, weight_decay=0.2)
    assert float(one_step([[1.0]], optim)) == pytest.approx(0.88, abs=1e-6)
    assert float(one_step([1.0], optim)) == pytest.approx(0.9, abs=1e-6)


def test_the_settings_reach_the_optimizer() -> None:
    # eps = 0.5: the update is 0.1 * 0.5 / (0.5 + 0.5) = 0.05.
    assert float(one_step([[1.0]], OptimConfig(lr=0.1, eps=0.5))) == pytest.approx(0.95, abs=1e-6)
    optim = OptimConfig(beta1=0.8, beta2=0.95, weight_decay=0.3)
    optimizer = build_optimizer({"policy": ({"m": nn.Parameter(torch.zeros(1, 1))}, optim)})
    (group,) = optimizer.param_groups
    assert (group["betas"], group["weight_decay"]) == ((0.8, 0.95), 0.3)


def test_it_converges_on_a_parabola() -> None:
    parameter = nn.Parameter(torch.tensor([[3.0, -2.0]]))
    optimizer = build_optimizer({"policy": ({"p": parameter}, OptimConfig(lr=0.1))})
    for update in range(200):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(OptimConfig(lr=0.1, schedule="cosine"), update, 200)
        loss = (parameter - torch.tensor([[1.0, 1.0]])).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert math.isclose(float(parameter[0, 0]), 1.0, abs_tol=1e-2)
    assert math.isclose(float(parameter[0, 1]), 1.0, abs_tol=1e-2)
