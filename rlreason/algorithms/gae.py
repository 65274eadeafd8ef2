"""What PPO adds to the policy loss: rewards a token, generalised advantages, and the loss of the values.

Shape letters: B completions (rows), T completion tokens. A mask is 1 on the tokens of a completion, which
stand at the start of its row, and 0 on the padding behind them. Values under a 0 are never read.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_CHANGE = 0.2  # by which the controller of the KL coefficient may change it in one horizon


class ValueLoss(NamedTuple):
    """`loss`: scalar with gradient. `clipped`: tokens whose value is held by the clip."""

    loss: Tensor
    clipped: Tensor


def token_rewards(scores_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, *, coef: float) -> Tensor:
    """Return the reward of each token, (B, T): `-coef * kl`, and the completion's score on its last token.

    Equation 2 of Ziegler et al. (arXiv 1909.08593), a token at a time as InstructGPT does (arXiv 2203.02155,
    section 3.5). No gradient flows into the result; it is 0 under the mask's zeros.

    Raises ValueError for mismatched shapes, a mask with a gap, an empty row, and a score that is not finite.
    """
    lengths_B = _lengths(mask_BT, kl_BT)
    if scores_B.shape != lengths_B.shape:
        raise ValueError(f"scores must be ({len(lengths_B)},), got {tuple(scores_B.shape)}")
    if not scores_B.isfinite().all():
        raise ValueError("scores must be finite: leave out completions that no reward has judged")
    if (lengths_B == 0).any():
        raise ValueError("a completion without tokens has none to carry its score")
    rewards_BT = -coef * kl_BT.detach().masked_fill(~mask_BT.bool(), 0.0)
    last_B1 = (lengths_B - 1)[:, None]
    return rewards_BT.scatter_add(1, last_B1, scores_B[:, None].to(rewards_BT.dtype))


def generalized_advantages(
    rewards_BT: Tensor,
    values_BT: Tensor,
    mask_BT: Tensor,
    *,
    gamma: float = 1.0,
    gae_lambda: float = 0.95,
    bootstrap_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, both (B, T), without gradient, 0 under the mask's zeros.

    Generalised advantage estimation (Schulman et al., arXiv 1506.02438, equation 16):
    delta_t = r_t + gamma V_{t+1} - V_t and A_t = delta_t + gamma lambda A_{t+1}, where `values_BT` holds V_t,
    the value of prompt and completion *before* token t. The return, at which a value is aimed, is A_t + V_t.
    Behind the last token V is 0: the episode has ended. For an episode that was merely cut off, `bootstrap_B`
    gives the value of what would have come.

    Raises ValueError for mismatched shapes or a mask with a gap.
    """
    _lengths(mask_BT, rewards_BT)
    if values_BT.shape != mask_BT.shape:
        raise ValueError(f"values must be {tuple(mask_BT.shape)}, got {tuple(values_BT.shape)}")
    mask_BT = mask_BT.bool()
    rewards_BT = rewards_BT.detach().masked_fill(~mask_BT, 0.0)
    values_BT = values_BT.detach().masked_fill(~mask_BT, 0.0)
    after_B = values_BT.new_zeros(len(values_BT)) if bootstrap_B is None else bootstrap_B.detach()
    advantages_BT = torch.zeros_like(values_BT)
    following_B = torch.zeros_like(after_B)
    for t in reversed(range(values_BT.shape[1])):
        here_B = mask_BT[:, t]
        delta_B = rewards_BT[:, t] + gamma * after_B - values_BT[:, t]
        # Padding hands on what stands behind the last token.
        following_B = torch.where(here_B, delta_B + gamma * gae_lambda * following_B, following_B)
        after_B = torch.where(here_B, values_BT[:, t], after_B)
        advantages_BT[:, t] = torch.where(here_B, following_B, 0.0)
    return advantages_BT, (advantages_BT + values_BT).masked_fill(~mask_BT, 0.0)


def whiten(values_BT: Tensor, mask_BT: Tensor, *, keep_mean: bool = False, eps: float = 1e-8) -> Tensor:
    """Return the values scaled to deviation 1 and, unless `keep_mean`, moved to mean 0, over unmasked tokens.

    (x - mean) / sqrt(variance + eps), with the unbiased variance, as in TRL's `masked_whiten`. 0 under the
    mask's zeros. Fewer than two tokens have no deviation and come back as they are, less their mean.
    """
    mask_BT = mask_BT.bool()
    known = values_BT[mask_BT].double()
    mean = known.mean() if known.numel() else known.new_zeros(())
    scale = (known.var() + eps).rsqrt() if known.numel() > 1 else known.new_ones(())
    whitened_BT = (values_BT.double() - mean) * scale + (mean if keep_mean else 0.0)
    return whitened_BT.to(values_BT.dtype).masked_fill(~mask_BT, 0.0)


def value_loss(
    values_BT: Tensor,
    old_values_BT: Tensor,
    returns_BT: Tensor,
    mask_BT: Tensor,
    *,
    denominator: float,
    clip: float | None = 0.2,
) -> ValueLoss:
    """Return the sum of the tokens' squared errors over `denominator`, halved.

    With a `clip` the error of a token is the larger one of V and of V held within `clip` of what it was when
    the completions were sampled, so that no step moves a value far (OpenAI baselines' ppo2; detail 9 of
    Huang et al., "The 37 Implementation Details of PPO", 2022): max((V - R)^2, (V_clipped - R)^2) / 2.
    """
    # Masked before anything else: 0 times the gradient of a NaN is NaN.
    values_BT, old_BT, returns_BT = (
        each.masked_fill(~mask_BT.bool(), 0.0)
        for each in (values_BT, old_values_BT.detach(), returns_BT.detach())
    )
    errors_BT = (values_BT - returns_BT).square()
    clipped = torch.zeros_like(errors_BT).sum()
    if clip is not None:
        held_BT = old_BT + (values_BT - old_BT).clamp(-clip, clip)
        held_errors_BT = (held_BT - returns_BT).square()
        clipped = (held_errors_BT > errors_BT).sum()
        errors_BT = torch.maximum(errors_BT, held_errors_BT)
    loss = 0.5 * errors_BT.sum() / denominator
    return ValueLoss(loss, clipped.to(loss.dtype))


def explained_variance(values_BT: Tensor, returns_BT: Tensor, mask_BT: Tensor) -> float | None:
    """Return the share of the variance of the returns that the values explain: 1 - Var[R - V] / Var[R].

    1 is a perfect critic, 0 one that knows no more than a constant, below 0 a misleading one; None where the
    returns do not vary.
    """
    mask_BT = mask_BT.bool()
    values, returns = values_BT[mask_BT].double(), returns_BT[mask_BT].double()
    if returns.numel() < 2 or float(returns.var()) < 1e-12:
        return None
    return float(1 - (returns - values).var() / returns.var())


def adapted_coef(coef: float, kl: float, *, target: float, horizon: int, completions: int) -> float:
    """Return the KL coefficient for the next step, from the KL of a completion in this one, in nats.

    The proportional controller of Ziegler et al. (arXiv 1909.08593, section 2.2):
    e = clip((KL - target) / target, -0.2, 0.2) and coef * (1 + e * completions / horizon).
    """
    error = min(max((kl - target) / target, -_CHANGE), _CHANGE)
    return coef * (1 + error * completions / horizon)


def _lengths(mask_BT: Tensor, like_BT: Tensor) -> Tensor:
    """The number of tokens of each row, (B,)."""
    if mask_BT.dim() != 2 or mask_BT.shape != like_BT.shape:
        raise ValueError(
            f"rewards and mask must both be (B, T), got {tuple(like_BT.shape)} and {tuple(mask_BT.shape)}"
        )
    mask_BT = mask_BT.bool()
    if (mask_BT[:, 1:] & ~mask_BT[:, :-1]).any():
        raise ValueError("the mask must be 1 on the first tokens of a row and 0 behind them, without a gap")
    return mask_BT.sum(-1)
