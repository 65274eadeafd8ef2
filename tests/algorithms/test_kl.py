import math

import pytest
import torch

from rlreason.algorithms import KLEstimator, kl_estimate, rewards_with_kl


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("k1", [1.0, -1.0, 0.0]),  # log p - log p_ref
        ("k2", [0.5, 0.5, 0.0]),  # half its square
        ("k3", [math.exp(-1), math.e - 2, 0.0]),  # e^-1 - 1 + 1; e^1 - 1 - 1
    ],
)
def test_golden(kind: KLEstimator, expected: list[float]) -> None:
    logprobs = torch.tensor([[-1.0, -3.0, -2.0]])
    reference = torch.tensor([[-2.0, -2.0, -2.0]])
    torch.testing.assert_close(kl_estimate(logprobs, reference, kind), torch.tensor([expected]))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="k4"):
        kl_estimate(torch.zeros(1, 1), torch.zeros(1, 1), "k4")  # type: ignore[arg-type]


@pytest.fixture
def two_policies() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits, reference = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), reference.log_softmax(-1)


@pytest.mark.parametrize(("kind", "unbiased"), [("k1", True), ("k2", False), ("k3", True)])
def test_expected_value(
    kind: KLEstimator, unbiased: bool, two_policies: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """The expectation is taken exactly, over all six outcomes."""
    logits, reference = two_policies
    logprobs = logits.log_softmax(-1)
    expectation = (logprobs.exp() * kl_estimate(logprobs, reference, kind)).sum()
    exact = torch.nn.functional.kl_div(reference, logprobs, log_target=True, reduction="sum")
    assert torch.isclose(expectation, exact, rtol=0, atol=1e-12) == unbiased


@pytest.mark.parametrize(("kind", "objective"), [("k1", "nothing"), ("k2", "forward"), ("k3", "reversed")])
def test_expected_gradient(
    kind: KLEstimator, objective: str, two_policies: tuple[torch.Tensor, torch.Tensor]
) -> None:
    """Which divergence each estimator really pulls on, as the docstring says (arXiv 2506.09477)."""
    logits, reference = two_policies
    logprobs = logits.log_softmax(-1)
    sampled = (logprobs.detach().exp() * kl_estimate(logprobs, reference, kind)).sum()
    actual = torch.autograd.grad(sampled, logits)[0]
    logprobs = logits.log_softmax(-1)
    divergence = {
        "nothing": 0.0 * logprobs.sum(),
        "forward": (logprobs.exp() * (logprobs - reference)).sum(),
        "reversed": (reference.exp() * (reference - logprobs)).sum(),
    }[objective]
    expected = torch.autograd.grad(divergence, logits)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_rewards_with_kl_sums_over_the_completion() -> None:
    kl = torch.tensor([[0.5, 0.25, 9.0], [1.0, math.nan, 2.0], [1.0, 1.0, 1.0]], requires_grad=True)
    mask = torch.tensor([[1, 1, 0], [1, 0, 1], [1, 1, 1]])
    rewards = torch.tensor([1.0, 0.0, math.nan])
    # 1 - 0.1 * (0.5 + 0.25) = 0.925; 0 - 0.1 * (1 + 2) = -0.3; an abstention stays one
    actual = rewards_with_kl(rewards, kl, mask, coef=0.1)
    torch.testing.assert_close(actual, torch.tensor([0.925, -0.3, math.nan]), equal_nan=True)
    assert not actual.requires_grad
