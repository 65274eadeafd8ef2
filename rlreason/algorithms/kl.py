"""Estimates of KL(policy || reference) from log-probabilities of sampled tokens.

Shape letters: B completions, T completion tokens.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprobs_BT: Tensor, reference_BT: Tensor, kind: KLEstimator) -> Tensor:
    """Return one estimate a token of KL(policy || reference), (B, T), in nats.

    With d = log p_ref - log p at a token drawn from the policy (Schulman, "Approximating KL divergence",
    http://joschu.net/blog/kl-approx.html, 2020):

    - k1 = -d: unbiased, may be negative, large variance.
    - k2 = d^2 / 2: biased, small variance.
    - k3 = e^d - 1 - d: unbiased, never negative; equation 4 of GRPO (arXiv 2402.03300).

    As a term of a loss it is the gradient that counts, and there the order changes (arXiv 2506.09477): on
    tokens drawn from the policy the gradient of k2 is that of the KL, the gradient of k3 is that of the
    reversed KL(reference || policy), and the gradient of k1 is zero in expectation: k1 belongs in the reward.

    Raises ValueError for an unknown kind.
    """
    gap_BT = reference_BT - logprobs_BT
    if kind == "k1":
        return -gap_BT
    if kind == "k2":
        return gap_BT.square() / 2
    if kind == "k3":
        # expm1 keeps its digits near 0, where a policy and its reference spend most of their time.
        return torch.expm1(gap_BT) - gap_BT
    raise ValueError(f"unknown KL estimator {kind!r}; known: {', '.join(get_args(KLEstimator))}")


def rewards_with_kl(rewards_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, *, coef: float) -> Tensor:
    """Return rewards less `coef` times the KL of the whole completion, (B,): the sum over its tokens.

    Equation 2 of arXiv 1909.08593, where the estimate is k1 under the policy that sampled. No gradient flows
    into the result. An abstention (NaN) stays one.
    """
    penalty_B = kl_BT.detach().masked_fill(~mask_BT.bool(), 0.0).sum(-1)
    return rewards_B - coef * penalty_B.to(rewards_B.dtype)
