"""Values and gradients worked out by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlreason.algorithms import (
    KLEstimator,
    LossKind,
    PolicyLossInput,
    PolicyLossOutput,
    loss_denominator,
    merge_metrics,
    policy_loss,
    sampler_weights,
)

# Two completions of three and two tokens. Every log-probability is -1; the old ones make the ratios
#   row 0, A = +1:  1   1.5  0.5
#   row 1, A = -2:  1   0.5  (padding)
# and the bounds are 0.8 and 1.3.
RATIOS = torch.tensor([[1.0, 1.5, 0.5], [1.0, 0.5, 9.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
BOUNDS: dict[str, Any] = {"clip_low": 0.2, "clip_high": 0.3}


def inputs_of(ratios: Tensor, advantages: list[float], mask: Tensor, **more: Tensor) -> PolicyLossInput:
    logprobs = torch.full_like(ratios, -1.0).requires_grad_()
    return PolicyLossInput(
        logprobs_BT=logprobs,
        old_logprobs_BT=logprobs.detach() - ratios.log(),
        advantages=torch.tensor(advantages, dtype=ratios.dtype),
        mask_BT=mask,
        **more,
    )


def golden_inputs(**more: Tensor) -> PolicyLossInput:
    return inputs_of(RATIOS, [1.0, -2.0], MASK, **more)


def gradient(inputs: PolicyLossInput, output: PolicyLossOutput) -> Tensor:
    return torch.autograd.grad(output.loss, inputs.logprobs_BT)[0]


def close(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=actual.dtype), rtol=0, atol=1e-12)


# Terms -min(r A, clip(r) A), and their slopes -r A where the bound does not hold:
#   row 0: -1, -min(1.5, 1.3) = -1.3, -min(0.5, 0.8) = -0.5      sum -2.8    slopes -1, 0, -0.5
#   row 1: 2, -min(-1, -1.6) = 1.6                               sum  3.6    slopes  2, 0
@pytest.mark.parametrize(
    ("kind", "denominator", "loss", "weights"),
    [
        # rows: (-2.8 / 3 + 3.6 / 2) / 2 = 0.43333...
        ("grpo", 2.0, (-2.8 / 3 + 1.8) / 2, (1 / 6, 1 / 4)),
        # rows x limit of 4 tokens: 0.8 / 8
        ("dr_grpo", 8.0, 0.1, (1 / 8, 1 / 8)),
        # tokens: 0.8 / 5
        ("bnpo", 5.0, 0.16, (1 / 5, 1 / 5)),
        ("dapo", 5.0, 0.16, (1 / 5, 1 / 5)),
    ],
)
def test_clipped_kinds(kind: LossKind, denominator: float, loss: float, weights: tuple[float, float]) -> None:
    assert loss_denominator(kind, MASK.sum(-1), max_new_tokens=4) == denominator
    inputs = golden_inputs()
    output = policy_loss(inputs, kind=kind, denominator=denominator, **BOUNDS)
    close(output.loss, loss)
    row_0, row_1 = weights
    close(gradient(inputs, output), [[-row_0, 0, -0.5 * row_0], [2 * row_1, 0, 0]])


def test_cispo_caps_the_weight_and_keeps_every_token() -> None:
    # -min(r, 1.3) A log p with log p = -1: row 0: 1 + 1.3 + 0.5 = 2.8; row 1: -2 (1 + 0.5) = -3; -0.2 / 5
    inputs = golden_inputs()
    output = policy_loss(inputs, kind="cispo", denominator=5.0, **BOUNDS)
    close(output.loss, -0.04)
    # slopes -min(r, 1.3) A
    close(gradient(inputs, output), [[-1 / 5, -1.3 / 5, -0.5 / 5], [2 / 5, 1 / 5, 0]])
    assert output.metrics["clipped_high"] == 1
    assert output.metrics["clipped_low"] == 0


def test_metrics_are_sums_over_tokens() -> None:
    output = policy_loss(golden_inputs(), kind="dapo", denominator=5.0, **BOUNDS)
    expected = {
        "loss": 0.16,
        "tokens": 5,
        "clipped_low": 1,  # 0.5 < 0.8 in row 1; in row 0 the advantage is positive
        "clipped_high": 1,  # 1.5 > 1.3 in row 0
        "clipped_dual": 0,
        "ratio_sum": 4.5,  # 1 + 1.5 + 0.5 + 1 + 0.5
        "ratio_max_deviation": 0.5,
        # r - 1 - ln r: 0, 0.5 - ln 1.5, twice -0.5 + ln 2, 0
        "old_kl_sum": 0.5 - math.log(1.5) + 2 * (math.log(2) - 0.5),
    }
    assert set(output.metrics) == set(expected)
    for name, value in expected.items():
        close(output.metrics[name], value)
        assert not output.metrics[name].requires_grad


def test_sequence_ratio_is_the_geometric_mean() -> None:
    # row 0, A = 1: (2 * 2 * 0.5)^(1/3) = 1.2599 > 1.2, so 1.2. Row 1, A = -1: sqrt(0.81 * 1) = 0.9, inside.
    ratios = torch.tensor([[2.0, 2.0, 0.5], [0.81, 1.0, 7.0]], dtype=torch.float64)
    inputs = inputs_of(ratios, [1.0, -1.0], MASK)
    output = policy_loss(inputs, kind="grpo", denominator=2.0, ratio="sequence")
    close(output.loss, (-1.2 + 0.9) / 2)
    # d 0.9 / d log p_t = 0.9 / 2 for each of the two tokens; half of it by the mean over rows
    close(gradient(inputs, output), [[0, 0, 0], [0.225, 0.225, 0]])
    assert output.metrics["clipped_high"] == 3
    close(output.metrics["ratio_sum"], 3 * 2 ** (1 / 3) + 2 * 0.9)


def test_dual_clip_bounds_the_punishment_of_a_grown_token() -> None:
    ratios = torch.tensor([[5.0, 2.0], [5.0, 0.5]], dtype=torch.float64)
    inputs = inputs_of(ratios, [-1.0, 1.0], torch.ones(2, 2))
    output = policy_loss(inputs, kind="dapo", denominator=1.0, dual_clip=3.0)
    # A < 0: min(5, 3) = 3 and 2; A > 0 as ever: -1.2 and -0.5
    close(output.loss, 3 + 2 - 1.2 - 0.5)
    close(
        gradient(inputs, output),
        [
            [
                0,
                2,
            ],
            [0, -0.5],
        ],
    )
    assert output.metrics["clipped_dual"] == 1


@pytest.mark.parametrize(
    ("estimator", "value", "slope"),
    # log p = -1, log p_ref = -2: k1 = 1, slope 1; k2 = 1/2, slope 1; k3 = e^-1 - 1 + 1, slope 1 - e^-1
    [("k1", 1.0, 1.0), ("k2", 0.5, 1.0), ("k3", math.exp(-1), 1 - math.exp(-1))],
)
def test_kl_in_the_loss(estimator: KLEstimator, value: float, slope: float) -> None:
    reference = torch.full_like(RATIOS, -2.0)
    inputs = replace(golden_inputs(reference_logprobs_BT=reference), advantages=torch.zeros(2).double())
    output = policy_loss(inputs, kind="dapo", denominator=5.0, kl_coef=0.1, kl_estimator=estimator)
    close(output.loss, 0.1 * value)
    close(output.metrics["kl_sum"], 5 * value)
    close(gradient(inputs, output), (MASK.double() * 0.1 * slope / 5).tolist())


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_corrected_kl_has_the_gradient_of_the_kl(estimator: KLEstimator) -> None:
    """The expectation over the old policy is taken exactly, over all six outcomes of one token."""
    generator = torch.Generator().manual_seed(0)
    logits, old, reference = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    old, reference = old.log_softmax(-1), reference.log_softmax(-1)
    logits.requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for token in range(6):
        inputs = PolicyLossInput(
            logprobs_BT=logits.log_softmax(-1)[token].view(1, 1),
            old_logprobs_BT=old[token].view(1, 1),
            advantages=torch.zeros(1),
            mask_BT=torch.ones(1, 1),
            reference_logprobs_BT=reference[token].view(1, 1),
        )
        options: dict[str, Any] = {"kl_coef": 1.0, "kl_estimator": estimator, "kl_correction": True}
        total = total + old[token].exp() * policy_loss(inputs, kind="dapo", denominator=1.0, **options).loss
    logprobs = logits.log_softmax(-1)
    exact = (logprobs.exp() * (logprobs - reference)).sum()
    torch.testing.assert_close(total, exact, rtol=0, atol=1e-12)
    actual, expected = (torch.autograd.grad(value, logits)[0] for value in (total, exact))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_kl_is_measured_when_its_weight_is_zero() -> None:
    with_reference = golden_inputs(reference_logprobs_BT=torch.full_like(RATIOS, -2.0))
    output = policy_loss(with_reference, kind="dapo", denominator=5.0, kl_estimator="k1", **BOUNDS)
    close(output.loss, 0.16)
    close(output.metrics["kl_sum"], 5.0)


def test_sampler_weights_are_truncated() -> None:
    trainer = torch.full((1, 5), -1.0, dtype=torch.float64, requires_grad=True)
    # pi_trainer / pi_sampler: 1, 3 (above the cap of 2), 1/2, unknown, and a token the sampler gave nothing
    log_ratios = torch.tensor([[0.0, math.log(3), -math.log(2), math.nan, math.inf]], dtype=torch.float64)
    actual = sampler_weights(trainer, trainer - log_ratios, cap=2.0)
    close(actual, [[1.0, 2.0, 0.5, 1.0, 2.0]])
    assert not actual.requires_grad


def test_sampler_weights_scale_the_policy_term_and_not_the_kl() -> None:
    weights = torch.tensor([[2.0, 1.0, 0.5], [0.5, 2.0, math.nan]], dtype=torch.float64)
    inputs = golden_inputs(sampler_weights_BT=weights, reference_logprobs_BT=torch.full_like(RATIOS, -2.0))
    output = policy_loss(inputs, kind="dapo", denominator=5.0, kl_coef=0.1, kl_estimator="k1", **BOUNDS)
    # 2 (-1) + 1 (-1.3) + 0.5 (-0.5) + 0.5 (2) + 2 (1.6) = 0.65; KL of 1 a token: 0.65 / 5 + 0.1
    close(output.loss, 0.23)


def test_denominator_of_a_step_within_a_pass() -> None:
    tokens = torch.tensor([3, 5, 0, 8])  # the third completion is masked
    first, second = torch.tensor([0, 1]), torch.tensor([False, False, True, True])
    expected: dict[LossKind, tuple[int, int]] = {
        "grpo": (2, 2),
        "dr_grpo": (20, 20),  # 2 rows x 10 tokens
        "bnpo": (8, 8),
        "dapo": (8, 8),  # 16 tokens over 2 steps
    }
    for kind, values in expected.items():
        actual = tuple(loss_denominator(kind, tokens, max_new_tokens=10, rows=r) for r in (first, second))
        assert actual == values
    uneven = torch.tensor([0, 2])
    assert loss_denominator("bnpo", tokens, max_new_tokens=10, rows=uneven) == 3
    assert loss_denominator("dapo", tokens, max_new_tokens=10, rows=uneven) == 8
    assert loss_denominator("cispo", tokens, max_new_tokens=10, rows=torch.tensor([3])) == 4
    assert loss_denominator("dapo", torch.zeros(2), max_new_tokens=10) == 1
    with pytest.raises(ValueError, match="ppo"):
        loss_denominator("ppo", tokens, max_new_tokens=10)  # type: ignore[arg-type]


def test_a_fully_masked_row_changes_nothing() -> None:
    inputs = golden_inputs()
    masked = replace(inputs, mask_BT=torch.tensor([[1, 1, 1], [0, 0, 0]]))
    for kind in ("grpo", "dapo"):
        output = policy_loss(masked, kind=kind, denominator=1.0, **BOUNDS)
        close(output.loss, -2.8 / 3 if kind == "grpo" else -2.8)
        assert not gradient(masked, output)[1].any()
    nothing = policy_loss(replace(inputs, mask_BT=torch.zeros(2, 3)), kind="grpo", denominator=1.0)
    assert nothing.loss == 0
    assert nothing.metrics["tokens"] == 0


def test_an_absurd_ratio_stays_finite() -> None:
    """exp of 1000 is inf; clipped, it would send 0 * inf = NaN backwards."""
    logprobs = torch.zeros(1, 2, requires_grad=True)
    inputs = PolicyLossInput(logprobs, torch.tensor([[-1000.0, 0.0]]), torch.tensor([1.0]), torch.ones(1, 2))
    output = policy_loss(inputs, kind="dapo", denominator=1.0)
    close(output.loss, -2.2)  # -1.2 - 1
    close(gradient(inputs, output), [[0.0, -1.0]])


def test_bfloat16_logprobs_are_widened() -> None:
    inputs = golden_inputs()
    narrow = replace(inputs, logprobs_BT=inputs.logprobs_BT.detach().bfloat16().requires_grad_())
    assert policy_loss(narrow, kind="dapo", denominator=1.0).loss.dtype == torch.float64
    old = inputs.old_logprobs_BT.bfloat16()
    both = replace(narrow, old_logprobs_BT=old, advantages=torch.tensor([1.0, -2.0]))
    assert policy_loss(both, kind="dapo", denominator=1.0).loss.dtype == torch.float32


def test_merge_adds_all_but_the_maximum() -> None:
    def part(tokens: float, deviation: float) -> dict[str, Tensor]:
        return {"tokens": torch.tensor(tokens), "ratio_max_deviation": torch.tensor(deviation)}

    merged = merge_metrics([part(3, 0.5), part(4, 0.25)])
    assert merged == part(7, 0.5)
    assert merge_metrics([]) == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "ppo"}, "ppo"),
        ({"kind": "grpo", "ratio": "word"}, "word"),
        ({"kind": "cispo", "ratio": "sequence"}, "cispo"),
        ({"kind": "cispo", "dual_clip": 3.0}, "cispo"),
        ({"kind": "grpo", "dual_clip": 0.9}, "dual_clip"),
        ({"kind": "grpo", "kl_coef": 0.1}, "reference_logprobs_BT"),
        (
            {
                "kind": "grpo",
                "kl_coef": 0.1,
                "kl_estimator": "k4",
                "reference_logprobs_BT": torch.zeros(2, 3),
            },
            "k4",
        ),
        ({"kind": "grpo", "mask_BT": torch.ones(2, 2)}, r"\(2, 2\)"),
        ({"kind": "grpo", "advantages": torch.ones(3)}, r"must be \(2,\) or"),
    ],
)
def test_contradictions_are_refused(options: dict[str, Any], message: str) -> None:
    fields = {name: options.pop(name) for name in list(options) if name.endswith(("_BT", "advantages"))}
    with pytest.raises(ValueError, match=message):
        policy_loss(replace(golden_inputs(), **fields), denominator=1.0, **options)


def test_an_advantage_a_token_by_hand() -> None:
    """PPO: rows 1, -1, 2 and -2, 1, with NaN under the 0 of the mask.

    Terms -min(r A, clip(r) A): -1; 1.5, as min(-1.5, -1.3) = -1.5; -1, as min(1, 1.6) = 1. Row 1: 2; -0.5.
    Slopes -r A, none being held but where the clip is the smaller one: -1, 1.5, -1, 2, -0.5.
    """
    advantages = torch.tensor([[1.0, -1.0, 2.0], [-2.0, 1.0, math.nan]], dtype=torch.float64)
    inputs = replace(golden_inputs(), advantages=advantages)
    output = policy_loss(inputs, kind="bnpo", denominator=5.0, **BOUNDS)
    close(output.loss, (-1 + 1.5 - 1 + 2 - 0.5) / 5)
    close(gradient(inputs, output), [[-0.2, 0.3, -0.2], [0.4, -0.1, 0.0]])


def test_one_advantage_for_all_tokens_is_that_of_the_completion() -> None:
    each = replace(golden_inputs(), advantages=torch.tensor([[1.0] * 3, [-2.0] * 3], dtype=torch.float64))
    for kind in ("grpo", "dr_grpo", "bnpo"):
        options: dict[str, Any] = {"kind": kind, "denominator": 3.0, **BOUNDS}
        assert float(policy_loss(each, **options).loss) == float(policy_loss(golden_inputs(), **options).loss)
