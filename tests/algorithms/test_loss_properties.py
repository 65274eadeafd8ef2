"""What must hold for any input: gradcheck, invariances, and that the losses learn."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlreason.algorithms import (
    KLEstimator,
    LossKind,
    PolicyLossInput,
    RatioLevel,
    group_advantages,
    loss_denominator,
    merge_metrics,
    policy_loss,
    token_logprobs,
)

VARIANTS = [
    *itertools.product(["grpo", "dr_grpo", "dapo", "bnpo"], ["token", "sequence"]),
    ("cispo", "token"),
]
MAX_NEW_TOKENS = 8
FIELDS = ["logprobs_BT", "old_logprobs_BT", "mask_BT", "reference_logprobs_BT", "sampler_weights_BT"]

steady = settings(derandomize=True, deadline=None)


@dataclass(frozen=True)
class Case:
    inputs: PolicyLossInput
    options: dict[str, Any]

    def denominator(self) -> float:
        tokens_B = self.inputs.mask_BT.sum(-1)
        return loss_denominator(self.options["kind"], tokens_B, max_new_tokens=MAX_NEW_TOKENS)


def run(inputs: PolicyLossInput, options: dict[str, Any], denominator: float) -> tuple[Tensor, Tensor, dict]:
    logprobs = inputs.logprobs_BT.detach().clone().requires_grad_()
    output = policy_loss(replace(inputs, logprobs_BT=logprobs), denominator=denominator, **options)
    return output.loss.detach(), torch.autograd.grad(output.loss, logprobs)[0], output.metrics


def same(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Random lengths (0 too), advantages, ratios within and beyond the clip bounds, every option."""
    kind, ratio = draw(st.sampled_from(VARIANTS))
    rows, length = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    logprobs = -normal(rows, length).abs()
    tokens_B = torch.randint(0, length + 1, (rows,), generator=generator)
    inputs = PolicyLossInput(
        logprobs_BT=logprobs,
        old_logprobs_BT=logprobs - 0.5 * normal(rows, length),
        advantages=normal(rows),
        mask_BT=torch.arange(length) < tokens_B[:, None],
        reference_logprobs_BT=logprobs - 0.5 * normal(rows, length),
        sampler_weights_BT=normal(rows, length).exp().clamp(max=2.0),
    )
    options = {
        "kind": kind,
        "ratio": ratio,
        "clip_low": 0.2,
        "clip_high": draw(st.sampled_from([0.2, 0.28])),
        "dual_clip": None if kind == "cispo" else draw(st.sampled_from([None, 1.5])),
        "kl_coef": draw(st.sampled_from([0.0, 0.1])),
        "kl_estimator": draw(st.sampled_from(["k1", "k2", "k3"])),
        "kl_correction": draw(st.booleans()),
    }
    return Case(inputs, options)


@steady
@given(case=cases(), before=st.integers(0, 2), after=st.integers(0, 2))
def test_padding_may_hold_anything(case: Case, before: int, after: int) -> None:
    """trl 2703 and its kin: what stands under the mask, and how much of it, has no influence."""

    def pad(x_BT: Tensor) -> Tensor:
        fill = False if x_BT.dtype == torch.bool else torch.nan
        return torch.nn.functional.pad(x_BT, (before, after), value=fill)

    def poison(x_BT: Tensor) -> Tensor:
        return x_BT if x_BT.dtype == torch.bool else x_BT.masked_fill(~case.inputs.mask_BT, torch.inf)

    padded = replace(case.inputs, **{name: pad(poison(getattr(case.inputs, name))) for name in FIELDS})
    loss, gradient, metrics = run(case.inputs, case.options, case.denominator())
    padded_loss, padded_gradient, padded_metrics = run(padded, case.options, case.denominator())
    same(padded_loss, loss)
    same(padded_gradient, pad(gradient).nan_to_num(nan=0.0))
    same(padded_metrics, metrics)


@steady
@given(case=cases(), order=st.randoms(use_true_random=False))
def test_row_order_does_not_matter(case: Case, order: Any) -> None:
    rows = case.inputs.advantages.shape[0]
    permutation = torch.tensor(order.sample(range(rows), rows))
    shuffled = replace(
        case.inputs,
        **{name: getattr(case.inputs, name)[permutation] for name in [*FIELDS, "advantages"]},
    )
    loss, gradient, metrics = run(case.inputs, case.options, case.denominator())
    shuffled_loss, shuffled_gradient, shuffled_metrics = run(shuffled, case.options, case.denominator())
    same(shuffled_loss, loss)
    same(shuffled_gradient, gradient[permutation])
    same(shuffled_metrics, metrics)


@steady
@given(case=cases(), sizes=st.lists(st.integers(1, 3), min_size=5, max_size=5))
def test_any_split_into_micro_batches_adds_up_to_the_whole(case: Case, sizes: list[int]) -> None:
    """Each part is also cut to its longest row, as a loop that sorts by length does."""
    denominator = case.denominator()
    rows = case.inputs.advantages.shape[0]
    bounds = [min(rows, sum(sizes[:n])) for n in range(6)]
    losses, gradients, metrics = [], [], []
    for start, stop in itertools.pairwise(bounds):
        if start == stop:
            break
        width = int(case.inputs.mask_BT[start:stop].sum(-1).max())
        part = replace(
            case.inputs,
            advantages=case.inputs.advantages[start:stop],
            **{name: getattr(case.inputs, name)[start:stop, :width] for name in FIELDS},
        )
        loss, gradient, metric = run(part, case.options, denominator)
        losses.append(loss)
        gradients.append(torch.nn.functional.pad(gradient, (0, case.inputs.mask_BT.shape[1] - width)))
        metrics.append(metric)
    loss, gradient, metric = run(case.inputs, case.options, denominator)
    same(torch.stack(losses).sum(), loss)
    same(torch.cat(gradients), gradient)
    same(merge_metrics(metrics), metric)


@steady
@given(case=cases())
def test_at_ratio_one_the_gradient_is_reinforce(case: Case) -> None:
    """-A grad log p, with the weight of the kind, for every kind and both ratio levels."""
    on_policy = replace(
        case.inputs,
        old_logprobs_BT=case.inputs.logprobs_BT,
        reference_logprobs_BT=None,
        sampler_weights_BT=None,
    )
    options = case.options | {"kl_coef": 0.0}
    _, gradient, metrics = run(on_policy, options, case.denominator())
    mask = case.inputs.mask_BT.double()
    weights = mask / mask.sum(-1, keepdim=True).clamp(min=1) if options["kind"] == "grpo" else mask
    same(gradient, -case.inputs.advantages[:, None] * weights / case.denominator())
    assert metrics["ratio_max_deviation"] == 0


@steady
@given(case=cases())
def test_same_input_same_bits(case: Case) -> None:
    first, second = (run(case.inputs, case.options, case.denominator()) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize(
    ("estimator", "corrected"), [("k1", False), ("k2", False), ("k3", False), ("k3", True)]
)
@pytest.mark.parametrize(("kind", "ratio"), VARIANTS)
def test_gradcheck(kind: LossKind, ratio: RatioLevel, estimator: KLEstimator, corrected: bool) -> None:
    # Ratios on both sides of each bound, and none within 0.04 of one: tokens 0.5, 0.9, 1.1, 1.6, 4;
    # rows (geometric means) 0.5, 0.994987 = sqrt(0.9 * 1.1), 2.529822 = sqrt(1.6 * 4), and again, A reversed.
    ratios = torch.tensor([[0.5, 0.5], [0.9, 1.1], [1.6, 4.0]] * 2, dtype=torch.float64)
    if kind == "cispo":
        # The weight is a constant of the gradient but not of the value: the two agree where it is capped.
        ratios = 1.6 + ratios
    generator = torch.Generator().manual_seed(0)
    logprobs = -torch.rand(6, 2, generator=generator, dtype=torch.float64) - 0.1
    inputs = PolicyLossInput(
        logprobs_BT=logprobs,
        old_logprobs_BT=logprobs - ratios.log(),
        advantages=torch.tensor([1.0, 0.5, 2.0, -1.0, -0.5, -2.0], dtype=torch.float64),
        mask_BT=torch.tensor([[1, 1]] * 6),
        reference_logprobs_BT=logprobs.flip(0),
        sampler_weights_BT=torch.rand(6, 2, generator=generator, dtype=torch.float64) + 0.5,
    )

    def loss(logprobs: Tensor) -> Tensor:
        return policy_loss(
            replace(inputs, logprobs_BT=logprobs),
            kind=kind,
            denominator=5.0,
            ratio=ratio,
            dual_clip=None if kind == "cispo" else 3.0,
            kl_coef=0.3,
            kl_estimator=estimator,
            kl_correction=corrected,
        ).loss

    assert torch.autograd.gradcheck(loss, (logprobs.clone().requires_grad_(),))


@pytest.mark.parametrize(("kind", "ratio"), VARIANTS)
def test_learns_which_token_is_rewarded(kind: LossKind, ratio: RatioLevel) -> None:
    """A table of 2 prompts x 8 tokens; the rewarded token (3, then 5) goes from 1/8 to above 0.9.

    Two tokens a completion, the second of them without effect; two optimizer passes a batch, so that ratios
    and clipping take part.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.zeros(8, 2, requires_grad=True)
    prompts_B = torch.arange(2).repeat_interleave(16)
    hidden_BTH = torch.eye(2)[prompts_B][:, None].expand(-1, 2, -1)
    optimizer = torch.optim.Adam([weight], lr=0.3)

    def score(tokens_BT: Tensor) -> Tensor:
        return token_logprobs(hidden_BTH.reshape(-1, 2), weight, tokens_BT.flatten(), chunk=16)[0].view(32, 2)

    for _ in range(15):
        probabilities = (hidden_BTH[:, 0] @ weight.t()).softmax(-1).detach()
        tokens_BT = torch.multinomial(probabilities, 2, replacement=True, generator=generator)
        rewards_B = (tokens_BT[:, 0] == torch.tensor([3, 5])[prompts_B]).float()
        old_BT = score(tokens_BT).detach()
        mask_BT = torch.ones(32, 2)
        denominator = loss_denominator(kind, mask_BT.sum(-1), max_new_tokens=2)
        for _ in range(2):
            inputs = PolicyLossInput(
                score(tokens_BT), old_BT, group_advantages(rewards_B, prompts_B, scale="group"), mask_BT
            )
            optimizer.zero_grad()
            policy_loss(inputs, kind=kind, denominator=denominator, ratio=ratio).loss.backward()
            optimizer.step()
    learned = weight.detach().softmax(0)
    assert learned[3, 0] > 0.9
    assert learned[5, 1] > 0.9
