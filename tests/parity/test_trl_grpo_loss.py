"""Loss and gradient against `GRPOTrainer._compute_loss` of TRL 1.16, through the whole model."""

from typing import Any

import pytest
import torch
from torch import Tensor

from rlreason.algorithms import (
    LossKind,
    PolicyLossInput,
    RatioLevel,
    loss_denominator,
    merge_metrics,
    policy_loss,
    token_logprobs,
)

ROWS, PROMPT, COMPLETION, LIMIT = 6, 3, 5, 6
CLIP_LOW, CLIP_HIGH = 0.2, 0.28
LEVELS = [(kind, level) for kind in ("grpo", "dr_grpo", "dapo", "bnpo") for level in ("token", "sequence")]
TEMPERATURE = 0.7


@pytest.fixture
def batch(trainer: Any) -> dict[str, Tensor]:
    """Completions of every length down to none; old and reference log-probs differ from the current."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 64, (ROWS, PROMPT + COMPLETION), generator=generator)
    mask = torch.arange(COMPLETION) < torch.tensor([5, 3, 1, 0, 5, 4])[:, None]
    batch = {
        "prompt_ids": ids[:, :PROMPT],
        "prompt_mask": torch.tensor([[1] * PROMPT, [0, 1, 1], [0, 0, 1]] * 2),
        "completion_ids": ids[:, PROMPT:],
        "completion_mask": mask.long(),
        "advantages": torch.tensor([1.0, -0.5, 0.75, 2.0, -1.5, 0.25]),
        "num_items_in_batch": mask.sum(),
    }
    with torch.no_grad():
        current = current_logprobs(trainer.model, batch)
    for name, size in (("old_per_token_logps", 0.4), ("ref_per_token_logps", 0.6)):
        batch[name] = current + size * torch.randn(current.shape, generator=generator)
    # whole completions that have grown (row 0, rewarded) or shrunk (row 1, punished) beyond the bounds
    batch["old_per_token_logps"] -= torch.tensor([0.6, -0.6, 0.0, 0.0, 0.0, 0.0])[:, None]
    return batch


def current_logprobs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Our own path: hidden states of the body, then the head in chunks of 7 tokens."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    hidden = model.model(input_ids=ids, attention_mask=attention).last_hidden_state
    logprobs, _ = token_logprobs(
        hidden[:, PROMPT - 1 : -1].flatten(0, 1),
        model.lm_head.weight,
        batch["completion_ids"].flatten(),
        temperature=TEMPERATURE,
        chunk=7,
    )
    return logprobs.view(len(ids), COMPLETION)


def our_inputs(model: Any, batch: dict[str, Tensor], **more: Tensor) -> PolicyLossInput:
    return PolicyLossInput(
        logprobs_BT=current_logprobs(model, batch),
        old_logprobs_BT=batch["old_per_token_logps"],
        advantages=batch["advantages"],
        mask_BT=batch["completion_mask"],
        reference_logprobs_BT=batch["ref_per_token_logps"],
        **more,
    )


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


def configure(trainer: Any, kind: LossKind, level: RatioLevel, beta: float) -> None:
    trainer.loss_type, trainer.importance_sampling_level, trainer.beta = kind, level, beta
    trainer.epsilon_low = CLIP_LOW
    # TRL's CISPO takes the cap itself, the paper (arXiv 2506.13585, equation 5) and we its distance from 1.
    trainer.epsilon_high = 1 + CLIP_HIGH if kind == "cispo" else CLIP_HIGH


def compare(
    trainer: Any, batch: dict[str, Tensor], inputs: PolicyLossInput, **options: Any
) -> dict[str, Tensor]:
    theirs = trainer._compute_loss(trainer.model, batch)
    their_gradients = gradients(trainer.model, theirs)
    tokens_B = batch["completion_mask"].sum(-1)
    denominator = loss_denominator(options["kind"], tokens_B, max_new_tokens=LIMIT)
    ours = policy_loss(inputs, denominator=denominator, clip_low=CLIP_LOW, clip_high=CLIP_HIGH, **options)
    our_gradients = gradients(trainer.model, ours.loss)
    assert max(g.abs().max() for g in their_gradients.values()) > 0.01
    torch.testing.assert_close(ours.loss, theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(our_gradients, their_gradients, rtol=1e-5, atol=1e-6)
    return ours.metrics


@pytest.mark.parametrize(("beta", "corrected"), [(0.0, False), (0.1, False), (0.1, True)])
@pytest.mark.parametrize(("kind", "level"), [*LEVELS, ("cispo", "token")])
def test_loss_and_gradient(
    trainer: Any, batch: dict[str, Tensor], kind: LossKind, level: RatioLevel, beta: float, corrected: bool
) -> None:
    configure(trainer, kind, level, beta)
    trainer.args.use_bias_correction_kl = corrected
    inputs = our_inputs(trainer.model, batch)
    metrics = compare(trainer, batch, inputs, kind=kind, ratio=level, kl_coef=beta, kl_correction=corrected)
    # the comparison is worth something only where clipping takes part
    assert metrics["clipped_high"] > 0
    assert (metrics["clipped_low"] > 0) == (kind != "cispo")


@pytest.mark.parametrize(("kind", "level"), LEVELS)
def test_dual_clip(trainer: Any, batch: dict[str, Tensor], kind: LossKind, level: RatioLevel) -> None:
    """TRL's `delta` bounds the ratio for both signs of the advantage; above the high clip it is the same."""
    configure(trainer, kind, level, beta=0.0)
    trainer.args.delta = 1.3
    # every token of a punished completion has grown by e^0.5 = 1.65
    batch["old_per_token_logps"][4] = current_logprobs(trainer.model, batch)[4].detach() - 0.5
    inputs = our_inputs(trainer.model, batch)
    metrics = compare(trainer, batch, inputs, kind=kind, ratio=level, dual_clip=1.3)
    assert metrics["clipped_dual"] > 0


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(("kind", "level"), [*LEVELS, ("cispo", "token")])
def test_sampler_weights(
    trainer: Any, batch: dict[str, Tensor], kind: LossKind, level: RatioLevel, beta: float
) -> None:
    configure(trainer, kind, level, beta)
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = True
    weights = torch.rand(ROWS, COMPLETION, generator=torch.Generator().manual_seed(1)) * 2
    batch["importance_sampling_ratio"] = weights
    inputs = our_inputs(trainer.model, batch, sampler_weights_BT=weights)
    compare(trainer, batch, inputs, kind=kind, ratio=level, kl_coef=beta, kl_correction=True)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "dapo", "cispo"])
def test_accumulation_over_micro_batches(trainer: Any, batch: dict[str, Tensor], kind: LossKind) -> None:
    """Two micro-batches of three rows: TRL rescales each, we hand both the denominator of the step."""
    configure(trainer, kind, "token", beta=0.0)
    trainer.current_gradient_accumulation_steps = trainer.args.steps_per_generation = 2
    denominator = loss_denominator(kind, batch["completion_mask"].sum(-1), max_new_tokens=LIMIT)
    theirs, ours, metrics = [], [], []
    for rows in (slice(0, 3), slice(3, 6)):
        part = {name: x[rows] if x.dim() else x for name, x in batch.items()}
        theirs.append(trainer._compute_loss(trainer.model, part))
        output = policy_loss(
            our_inputs(trainer.model, part),
            kind=kind,
            denominator=denominator,
            clip_low=CLIP_LOW,
            clip_high=CLIP_HIGH,
        )
        ours.append(output.loss)
        metrics.append(output.metrics)
    torch.testing.assert_close(torch.stack(ours), torch.stack(theirs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(merge_metrics(metrics)["loss"], torch.stack(ours).sum().detach())
    torch.testing.assert_close(
        gradients(trainer.model, torch.stack(ours).sum()),
        gradients(trainer.model, torch.stack(theirs).sum()),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("kind", ["dapo", "bnpo", "cispo"])
def test_two_optimizer_steps_a_batch(trainer: Any, batch: dict[str, Tensor], kind: LossKind) -> None:
    """DAPO and CISPO divide every step by the batch's tokens over the steps, BNPO each by its own tokens."""
    configure(trainer, kind, "token", beta=0.0)
    trainer.args.steps_per_generation = 2
    tokens_B = batch["completion_mask"].sum(-1)
    for rows in (slice(0, 3), slice(3, 6)):
        part = {name: x[rows] if x.dim() else x for name, x in batch.items()}
        theirs = trainer._compute_loss(trainer.model, part)
        index = torch.arange(ROWS)[rows]
        denominator = loss_denominator(kind, tokens_B, max_new_tokens=LIMIT, rows=index)
        ours = policy_loss(
            our_inputs(trainer.model, part),
            kind=kind,
            denominator=denominator,
            clip_low=CLIP_LOW,
            clip_high=CLIP_HIGH,
        ).loss
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_logprobs_and_entropy_of_the_model(trainer: Any, batch: dict[str, Tensor]) -> None:
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    theirs, their_entropy, _ = trainer._get_per_token_logps_and_entropies(
        trainer.model, ids, attention, COMPLETION, compute_entropy=True
    )
    hidden = trainer.model.model(input_ids=ids, attention_mask=attention).last_hidden_state
    ours, our_entropy = token_logprobs(
        hidden[:, PROMPT - 1 : -1].flatten(0, 1),
        trainer.model.lm_head,
        batch["completion_ids"].flatten(),
        temperature=TEMPERATURE,
    )
    mask = batch["completion_mask"].bool()
    torch.testing.assert_close(ours.view_as(theirs)[mask], theirs[mask], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_entropy.view_as(theirs)[mask], their_entropy[mask], rtol=1e-5, atol=1e-5)


def test_a_wrong_clip_bound_would_be_noticed(trainer: Any, batch: dict[str, Tensor]) -> None:
    """The comparison can fail: a high bound of 0.2 against 0.28."""
    configure(trainer, "dapo", "token", beta=0.0)
    trainer.epsilon_high = 0.2
    inputs = our_inputs(trainer.model, batch)
    with pytest.raises(AssertionError, match="close"):
        compare(trainer, batch, inputs, kind="dapo")
