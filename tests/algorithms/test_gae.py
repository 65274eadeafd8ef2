"""PPO's pure functions against sums written out, values by hand, and what must hold of any episode."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlreason.algorithms import (
    adapted_coef,
    explained_variance,
    generalized_advantages,
    token_rewards,
    value_loss,
    whiten,
)

Case = tuple[Tensor, Tensor, Tensor, Tensor]
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])


@st.composite
def episodes(draw: Any) -> Case:
    """Rewards, values, mask and bootstrap values of up to five episodes; NaN wherever nothing may be read."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shape = (len(lengths), max(lengths) + draw(st.integers(0, 3)))
    mask_BT = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    rewards_BT, values_BT = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    ended = torch.tensor(draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    bootstrap_B = torch.randn(len(lengths), generator=generator, dtype=torch.float64).masked_fill(ended, 0.0)
    return (
        rewards_BT.masked_fill(~mask_BT, math.nan),
        values_BT.masked_fill(~mask_BT, math.nan),
        mask_BT,
        bootstrap_B,
    )


def written_out(
    rewards: list[float], values: list[float], bootstrap: float, gamma: float, gae_lambda: float
) -> list[float]:
    """Equation 16 of arXiv 1506.02438, as the sum that it is, for one episode."""
    following = [*values[1:], bootstrap]
    deltas = [r + gamma * after - v for r, v, after in zip(rewards, values, following, strict=True)]
    return [
        sum((gamma * gae_lambda) ** (later - t) * deltas[later] for later in range(t, len(deltas)))
        for t in range(len(deltas))
    ]


@given(episodes(), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_advantages_are_the_sum_of_the_paper(case: Case, gamma: float, gae_lambda: float) -> None:
    rewards_BT, values_BT, mask_BT, bootstrap_B = case
    advantages_BT, returns_BT = generalized_advantages(
        rewards_BT, values_BT, mask_BT, gamma=gamma, gae_lambda=gae_lambda, bootstrap_B=bootstrap_B
    )
    for row, length in enumerate(mask_BT.sum(-1).tolist()):
        rewards, values = rewards_BT[row, :length].tolist(), values_BT[row, :length].tolist()
        expected = written_out(rewards, values, float(bootstrap_B[row]), gamma, gae_lambda)
        assert advantages_BT[row, :length].tolist() == pytest.approx(expected, abs=1e-6)
        sums = [a + v for a, v in zip(expected, values, strict=True)]
        assert returns_BT[row, :length].tolist() == pytest.approx(sums, abs=1e-6)
        assert not advantages_BT[row, length:].any()
        assert not returns_BT[row, length:].any()


@given(episodes(), st.floats(0.5, 1.0))
def test_the_two_ends_of_lambda(case: Case, gamma: float) -> None:
    """Lambda 1: the discounted rest of the episode less the value. Lambda 0: one step ahead."""
    rewards_BT, values_BT, mask_BT, bootstrap_B = case
    whole_BT, rest_BT = generalized_advantages(
        rewards_BT, values_BT, mask_BT, gamma=gamma, gae_lambda=1.0, bootstrap_B=bootstrap_B
    )
    step_BT, _ = generalized_advantages(
        rewards_BT, values_BT, mask_BT, gamma=gamma, gae_lambda=0.0, bootstrap_B=bootstrap_B
    )
    for row, length in enumerate(mask_BT.sum(-1).tolist()):
        rewards = rewards_BT[row, :length].tolist()
        ahead = sum(gamma**t * reward for t, reward in enumerate(rewards)) + gamma**length * float(
            bootstrap_B[row]
        )
        assert float(rest_BT[row, 0]) == pytest.approx(ahead, abs=1e-9)
        assert float(whole_BT[row, 0]) == pytest.approx(ahead - float(values_BT[row, 0]), abs=1e-9)
        last = rewards[-1] + gamma * float(bootstrap_B[row]) - float(values_BT[row, length - 1])
        assert float(step_BT[row, length - 1]) == pytest.approx(last, abs=1e-9)


def test_advantages_by_hand() -> None:
    # gamma 0.5, lambda 0.5. Row 1: deltas 0 + 0.5*2 - 1 = 0, 0 + 0.5*4 - 2 = 0, 8 - 4 = 4.
    # A_3 = 4, A_2 = 0 + 0.25*4 = 1, A_1 = 0 + 0.25*1 = 0.25. Row 2: 3 - 1 = 2.
    rewards_BT = torch.tensor([[0.0, 0.0, 8.0], [3.0, 9.0, 9.0]])
    values_BT = torch.tensor([[1.0, 2.0, 4.0], [1.0, 9.0, 9.0]])
    advantages_BT, returns_BT = generalized_advantages(rewards_BT, values_BT, MASK, gamma=0.5, gae_lambda=0.5)
    assert advantages_BT.tolist() == [[0.25, 1.0, 4.0], [2.0, 0.0, 0.0]]
    assert returns_BT.tolist() == [[1.25, 3.0, 8.0], [3.0, 0.0, 0.0]]


@given(episodes())
def test_a_critic_that_knows_the_rest_leaves_no_advantage(
    case: Case,
) -> None:
    rewards_BT, _, mask_BT, bootstrap_B = case
    known_BT = rewards_BT.nan_to_num(0.0).flip(1).cumsum(1).flip(1) + bootstrap_B[:, None]
    advantages_BT, _ = generalized_advantages(rewards_BT, known_BT, mask_BT, bootstrap_B=bootstrap_B)
    assert advantages_BT.abs().max() < 1e-9


def test_no_gradient_flows_into_advantages_and_returns() -> None:
    values_BT = torch.ones(2, 3, requires_grad=True)
    advantages_BT, returns_BT = generalized_advantages(torch.ones(2, 3), values_BT, MASK)
    assert not advantages_BT.requires_grad
    assert not returns_BT.requires_grad


def test_the_score_comes_with_the_last_token_and_the_divergence_with_each() -> None:
    kl_BT = torch.tensor([[0.5, -0.5, 1.0], [2.0, math.nan, math.nan]])
    rewards_BT = token_rewards(torch.tensor([1.0, -1.0]), kl_BT, MASK, coef=0.1)
    assert rewards_BT.tolist() == [pytest.approx([-0.05, 0.05, 0.9]), pytest.approx([-1.2, 0.0, 0.0])]


@pytest.mark.parametrize(
    ("scores", "mask", "message"),
    [
        ([1.0, math.nan], MASK, "leave out completions that no reward has judged"),
        ([1.0], MASK, r"scores must be \(2,\)"),
        ([1.0, 1.0], torch.tensor([[1, 0, 1], [1, 1, 1]]), "without a gap"),
        ([1.0, 1.0], torch.tensor([[1, 0, 0], [0, 0, 0]]), "a completion without tokens"),
        ([1.0, 1.0], torch.ones(2, 2), r"\(2, 3\) and \(2, 2\)"),
    ],
)
def test_what_makes_no_rewards_is_refused(scores: list[float], mask: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_rewards(torch.tensor(scores), torch.zeros(2, 3), mask, coef=0.1)


def test_values_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"values must be \(2, 3\)"):
        generalized_advantages(torch.zeros(2, 3), torch.zeros(2, 2), MASK)


def test_whitening_by_hand() -> None:
    # 1, 2, 3 and 6: mean 3, unbiased variance (4 + 1 + 0 + 9) / 3 = 14 / 3.
    values_BT = torch.tensor([[1.0, 2.0, 3.0], [6.0, math.nan, math.inf]])
    scale = math.sqrt(3 / 14)
    whitened = whiten(values_BT, MASK)
    assert whitened.tolist() == [
        pytest.approx([-2 * scale, -scale, 0.0], abs=1e-6),
        pytest.approx([3 * scale, 0.0, 0.0], abs=1e-6),
    ]
    assert (whiten(values_BT, MASK, keep_mean=True) - whitened)[MASK.bool()].tolist() == pytest.approx(
        [3.0] * 4
    )


def test_whitening_of_equal_values_makes_no_signal() -> None:
    assert whiten(torch.full((2, 3), 0.3), MASK).abs().max() < 1e-3
    assert float(whiten(torch.tensor([[0.3]]), torch.tensor([[1]]))) == 0.0


def test_the_value_loss_by_hand() -> None:
    # Errors: (0.5 - 1)^2 = 0.25; (1.5 - 1)^2 = 0.25, but held at 0.2 from 0: (0.2 - 1)^2 = 0.64; and
    # (0 - 2)^2 = 4. The token under the 0 of the mask holds NaN.
    values_BT = torch.tensor([[0.5, 1.5], [0.0, math.nan]])
    old_BT = torch.tensor([[0.5, 0.0], [0.0, math.nan]])
    returns_BT = torch.tensor([[1.0, 1.0], [2.0, math.nan]])
    mask_BT = torch.tensor([[1, 1], [1, 0]])
    plain = value_loss(values_BT, old_BT, returns_BT, mask_BT, denominator=3.0, clip=None)
    held = value_loss(values_BT, old_BT, returns_BT, mask_BT, denominator=3.0, clip=0.2)
    assert float(plain.loss) == pytest.approx((0.25 + 0.25 + 4) / 6)
    assert float(held.loss) == pytest.approx((0.25 + 0.64 + 4) / 6)
    assert (float(plain.clipped), float(held.clipped)) == (0.0, 1.0)


@pytest.mark.parametrize("clip", [None, 0.2])
def test_the_gradient_of_the_value_loss(clip: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    values_BT, old_BT, returns_BT = (
        torch.randn((2, 3), generator=generator, dtype=torch.float64) for _ in range(3)
    )
    values_BT.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v: value_loss(v, old_BT, returns_BT, MASK, denominator=4.0, clip=clip).loss, [values_BT]
    )


def test_padding_of_any_kind_has_no_gradient() -> None:
    values_BT = torch.tensor([[0.5, math.nan]], requires_grad=True)
    old_BT = returns_BT = torch.tensor([[0.0, math.inf]])
    value_loss(values_BT, old_BT, returns_BT, torch.tensor([[1, 0]]), denominator=1.0).loss.backward()
    assert values_BT.grad is not None
    assert values_BT.grad.tolist() == [[0.5, 0.0]]


def test_micro_batches_add_up_to_the_whole() -> None:
    generator = torch.Generator().manual_seed(1)
    values_BT, old_BT, returns_BT = (torch.randn((4, 3), generator=generator) for _ in range(3))
    mask_BT = MASK.repeat(2, 1)
    whole = value_loss(values_BT, old_BT, returns_BT, mask_BT, denominator=8.0).loss
    parts = [
        value_loss(values_BT[r], old_BT[r], returns_BT[r], mask_BT[r], denominator=8.0).loss
        for r in (slice(0, 1), slice(1, 4))
    ]
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)


def test_explained_variance() -> None:
    returns_BT = torch.tensor([[1.0, 2.0, 3.0], [6.0, math.nan, math.nan]])
    assert explained_variance(returns_BT, returns_BT, MASK) == pytest.approx(1.0)
    assert explained_variance(torch.full((2, 3), 7.0), returns_BT, MASK) == pytest.approx(0.0)
    assert explained_variance(-returns_BT, returns_BT, MASK) == pytest.approx(-3.0)  # 1 - Var[2R] / Var[R]
    assert explained_variance(returns_BT, torch.ones(2, 3), MASK) is None


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        (6.0, 0.1),  # at the target
        (6.6, 0.1 * (1 + 0.1 * 0.05)),  # a tenth above it
        (60.0, 0.1 * (1 + 0.2 * 0.05)),  # far above: a fifth in a horizon, and no more
        (-1.0, 0.1 * (1 - 0.2 * 0.05)),
    ],
)
def test_the_coefficient_follows_the_divergence(kl: float, expected: float) -> None:
    found = adapted_coef(0.1, kl, target=6.0, horizon=10_000, completions=500)
    assert found == pytest.approx(expected)
