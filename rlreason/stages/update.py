"""Update: from scored completions with advantages to new weights.

Shapes: C completions of a micro-batch, T completion tokens, B completions of a rollout batch.
"""

import math
import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from rlreason.algorithms import (
    PolicyLossInput,
    kl_estimate,
    loss_denominator,
    merge_metrics,
    policy_loss,
    rewards_with_kl,
    sampler_weights,
)
from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.policy.forward import CompletionLogprobs
from rlreason.policy.model import Policy
from rlreason.policy.optimizer import build_optimizer, learning_rate
from rlreason.policy.packing import Completion, Packed, pack
from rlreason.seeds import derive_seed
from rlreason.stages.collect import Sample

# Beyond this many tokens a shared row costs more in attention than it saves in prompt tokens.
_SHARED_ROW_TOKENS = 2048
# Optimizer steps in a row that may be skipped for a gradient that is not finite.
_SKIPS_ALLOWED = 3
# Completions, half of each of two groups or so, on which KL is estimated when it has no weight: enough for a
# trend, and one short forward pass of the reference.
_KL_PROBES = 8


@dataclass
class UpdateResult:
    """What an update measured. `metrics` are the loss's, merged over micro-batches and optimizer steps.

    `logprobs` are those of the first pass, before any change to the weights, by `id(sample)`.
    """

    metrics: dict[str, Tensor] = field(default_factory=dict)
    grad_norms: list[float] = field(default_factory=list)
    skipped: int = 0
    lr: float = 0.0
    kl: float | None = None
    entropy_sum: float = 0.0
    gap_sum: float = 0.0
    gap_max: float = 0.0
    first_ratio_deviation: float | None = None
    logprobs: dict[int, Tensor] = field(default_factory=dict)

    def without_logprobs(self) -> "UpdateResult":
        """For another process: on the CPU, and without what only this one can use."""
        metrics = {name: value.cpu() for name, value in self.metrics.items()}
        return replace(self, metrics=metrics, logprobs={})

    def record(self) -> dict[str, float | None]:
        """The update's part of the step's line; None for what had no tokens to be measured on."""
        tokens = float(self.metrics["tokens"]) if self.metrics else 0.0

        def share(total: float) -> float | None:
            return total / tokens if tokens else None

        clipped = sum(float(self.metrics.get(f"clipped_{side}", 0.0)) for side in ("low", "high", "dual"))
        return {
            "loss": float(self.metrics["loss"]) if self.metrics else 0.0,
            "grad_norm": sum(self.grad_norms) / len(self.grad_norms) if self.grad_norms else None,
            "lr": self.lr,
            "kl": self.kl,
            "entropy": share(self.entropy_sum),
            "clipped": share(clipped),
            "ratio_first_pass": self.first_ratio_deviation,
            "sampler_gap": share(self.gap_sum),
            "sampler_gap_max": self.gap_max if tokens else None,
            "skipped_updates": float(self.skipped),
        }


class Updater:
    """Turns the samples of a step into optimizer steps.

    `updates` counts the optimizer steps so far. Every process of a distributed run calls it with the same
    samples and computes its share of the micro-batches.
    """

    def __init__(
        self,
        config: RunConfig,
        policy: Policy,
        reference: CompletionLogprobs | None,
        forward: Any,
        accelerator: Any,
        *,
        shareable: bool,
    ) -> None:
        self._settings = config.grpo
        self._seed = config.seed
        self._temperature = config.rollout.temperature
        self._max_new_tokens = config.rollout.max_new_tokens
        self._policy = policy
        self._reference = reference
        self._forward = forward
        # Passes without gradient go around DDP, whose forward exchanges buffers: not every rank makes all.
        self._unwrapped = accelerator.unwrap_model(forward)
        self._accelerator = accelerator
        self._share = config.grpo.share_prompt and shareable
        self.optimizer = build_optimizer(policy.trainable(), config.grpo.optim)
        self.updates = 0
        self._total_updates = config.grpo.steps * config.grpo.epochs * config.grpo.minibatches
        self._skips_in_a_row = 0

    # ------------------------------------------------------------------ one step of the loop

    def penalize_kl(self, samples: Sequence[Sample]) -> None:
        """With `kl.where: reward`, subtract coef times the completion's summed KL from its reward."""
        kl = self._settings.kl
        if kl.coef == 0 or kl.where != "reward":
            return
        now, reference = self._logprobs(self._unwrapped, samples), self._reference_logprobs(samples)
        for sample in samples:
            if sample.reward is not None:
                kl_1T = kl_estimate(now[id(sample)], reference[id(sample)], kl.estimator)[None]
                reward_1 = torch.tensor([sample.reward], dtype=torch.float64)
                penalized_1 = rewards_with_kl(reward_1, kl_1T.cpu(), torch.ones(kl_1T.shape), coef=kl.coef)
                sample.reward = float(penalized_1)

    def update(self, samples: Sequence[Sample], step: int) -> UpdateResult:
        """Run `epochs` passes of `minibatches` optimizer steps. Raises UserError after repeated NaNs."""
        settings = self._settings
        result = UpdateResult()
        self._policy.model.train()
        lengths_B = torch.tensor([0 if self._masked(s) else len(s.rollout.completion_ids) for s in samples])
        training = [index for index, sample in enumerate(samples) if self._trains(sample)]
        several = settings.epochs * settings.minibatches > 1
        old = self._logprobs(self._unwrapped, [samples[i] for i in training]) if several else {}
        in_loss = settings.kl.coef > 0 and settings.kl.where == "loss"
        reference = self._reference_logprobs([samples[i] for i in training]) if in_loss else {}
        for epoch in range(settings.epochs):
            for rows in self._minibatches(samples, step, epoch):
                denominator = loss_denominator(
                    settings.loss, lengths_B, max_new_tokens=self._max_new_tokens, rows=torch.tensor(rows)
                )
                chosen = [samples[row] for row in rows if self._trains(samples[row])]
                self._optimizer_step(chosen, denominator, old, reference, result)
        if self._accelerator.num_processes > 1:
            result = _merged(gather_object([result.without_logprobs()]), result.logprobs)
        result.kl = self._kl(samples, result)
        return result

    def _masked(self, sample: Sample) -> bool:
        return self._settings.mask_truncated and sample.truncated

    def _trains(self, sample: Sample) -> bool:
        """Whether the sample's loss has a gradient. One that does not still counts in the denominator."""
        if self._masked(sample):
            return False
        kl = self._settings.kl
        return sample.advantage != 0.0 or (kl.coef > 0 and kl.where == "loss")

    def _minibatches(self, samples: Sequence[Sample], step: int, epoch: int) -> list[list[int]]:
        """Cut whole groups into `minibatches` lists of row numbers, in an order of their own each pass."""
        groups: dict[int, list[int]] = {}
        for row, sample in enumerate(samples):
            groups.setdefault(sample.group, []).append(row)
        order = sorted(groups)
        parts = self._settings.minibatches
        if parts > 1:
            random.Random(derive_seed("minibatches", self._seed, step, epoch)).shuffle(order)
        cut = [[row for group in order[number::parts] for row in groups[group]] for number in range(parts)]
        return [part for part in cut if part]

    # ------------------------------------------------------------------ one optimizer step

    def _optimizer_step(
        self,
        samples: list[Sample],
        denominator: float,
        old: dict[int, Tensor],
        reference: dict[int, Tensor],
        result: UpdateResult,
    ) -> None:
        result.lr = learning_rate(self._settings.optim, self.updates, self._total_updates)
        self.updates += 1
        if not samples:
            return
        processes = self._accelerator.num_processes
        micro_batches = self._pack(samples)
        mine = micro_batches[self._accelerator.process_index :: processes]
        rounds = math.ceil(len(micro_batches) / processes)
        for number in range(rounds):
            # Ranks exchange gradients once an optimizer step, in its last backward pass; one that has run
            # out of micro-batches takes part with a loss of 0.
            with nullcontext() if number == rounds - 1 else self._accelerator.no_sync(self._forward):
                idle = number >= len(mine)
                packed = micro_batches[0] if idle else mine[number]
                loss = self._loss(packed, samples, denominator, old, reference, None if idle else result)
                # DDP averages over ranks what must be summed.
                self._accelerator.backward(loss * (0.0 if idle else float(processes)))
        self._apply(result)

    def _loss(
        self,
        packed: Packed,
        samples: list[Sample],
        denominator: float,
        old: dict[int, Tensor],
        reference: dict[int, Tensor],
        result: UpdateResult | None,
    ) -> Tensor:
        """The loss of one micro-batch; its metrics are added to `result`."""
        settings = self._settings
        chosen = [samples[index] for index in packed.order]
        packed = packed.to(self._policy.device)
        logprobs_CT, entropy_CT = self._forward(packed, self._temperature)
        sampler_CT = _rows([torch.tensor(s.rollout.logprobs) for s in chosen], packed)
        old_CT = _rows([old[id(s)] for s in chosen], packed) if old else logprobs_CT.detach()
        reference_CT = _rows([reference[id(s)] for s in chosen], packed) if reference else None
        weights_CT = None
        if settings.sampler_correction is not None:
            weights_CT = sampler_weights(old_CT, sampler_CT, cap=settings.sampler_correction)
        output = policy_loss(
            PolicyLossInput(
                logprobs_BT=logprobs_CT,
                old_logprobs_BT=old_CT,
                advantages_B=torch.tensor([s.advantage for s in chosen], device=logprobs_CT.device),
                mask_BT=packed.mask_CT,
                reference_logprobs_BT=reference_CT,
                sampler_weights_BT=weights_CT,
            ),
            kind=settings.loss,
            denominator=denominator,
            ratio=settings.ratio,
            clip_low=settings.clip_low,
            clip_high=settings.clip_high,
            dual_clip=settings.dual_clip,
            kl_coef=settings.kl.coef if reference else 0.0,
            kl_estimator=settings.kl.estimator,
            kl_correction=settings.kl.correction,
        )
        if result is not None:
            gap_CT = ((old_CT - sampler_CT) * packed.mask_CT).abs()
            result.gap_sum += float(gap_CT.sum())
            result.gap_max = max(result.gap_max, float(gap_CT.max()))
            result.entropy_sum += float((entropy_CT * packed.mask_CT).sum())
            for row, sample in zip(logprobs_CT.detach(), chosen, strict=True):
                result.logprobs.setdefault(id(sample), row[: len(sample.rollout.completion_ids)])
            result.metrics = merge_metrics([result.metrics, output.metrics])
            if not result.grad_norms and not result.skipped:
                deviation = float(output.metrics["ratio_max_deviation"])
                result.first_ratio_deviation = max(result.first_ratio_deviation or 0.0, deviation)
        return output.loss

    def _apply(self, result: UpdateResult) -> None:
        """Clip the gradient and step; skip the step where the gradient is not finite."""
        parameters = list(self._policy.trainable().values())
        norm = float(self._accelerator.clip_grad_norm_(parameters, self._settings.optim.max_grad_norm))
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = result.lr
            self.optimizer.step()
            result.grad_norms.append(norm)
            self._skips_in_a_row = 0
        else:
            result.skipped += 1
            self._skips_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self._skips_in_a_row > _SKIPS_ALLOWED:
            raise UserError(
                f"{self._skips_in_a_row} optimizer steps in a row had a gradient that is not finite "
                f"(norm {norm}); the weights were not touched by them. Lower grpo.optim.lr or set "
                "model.precision=float32, and start a new run (name=...) from this one's last checkpoint "
                "(stage=grpo model.path=...)."
            )

    # ------------------------------------------------------------------ log-probs without gradient

    def _pack(self, samples: Sequence[Sample]) -> list[Packed]:
        return pack(
            [Completion(s.group, s.prompt.ids, s.rollout.completion_ids) for s in samples],
            share_prompt=self._share,
            budget=self._settings.micro_batch_tokens,
            width=_SHARED_ROW_TOKENS,
            pad_id=self._policy.pad_id,
        )

    @torch.no_grad()
    def _logprobs(self, forward: Any, samples: Sequence[Sample]) -> dict[int, Tensor]:
        """Log-probs of each sample's tokens, by `id(sample)`."""
        found: dict[int, Tensor] = {}
        for packed in self._pack(samples) if samples else []:
            logprobs_CT, _ = forward(packed.to(self._policy.device), self._temperature)
            for row, index in zip(logprobs_CT, packed.order, strict=True):
                found[id(samples[index])] = row[: len(samples[index].rollout.completion_ids)]
        return found

    def _reference_logprobs(self, samples: Sequence[Sample]) -> dict[int, Tensor]:
        if self._reference is not None:
            return self._logprobs(self._reference, samples)
        with self._policy.adapter_off():
            return self._logprobs(self._unwrapped, samples)

    def _kl(self, samples: Sequence[Sample], result: UpdateResult) -> float | None:
        """KL(policy || reference) in nats a token: the loss's own estimate, else one on a few completions.

        The policy is the one that sampled them: its log-probs are at hand from the first pass.
        """
        if "kl_sum" in result.metrics:
            return float(result.metrics["kl_sum"] / result.metrics["tokens"])
        known = [sample for sample in samples if id(sample) in result.logprobs]
        probes = _spread(known or list(samples), _KL_PROBES)
        now = result.logprobs if known else self._logprobs(self._unwrapped, probes)
        reference = self._reference_logprobs(probes)
        kind = self._settings.kl.estimator
        return float(torch.cat([kl_estimate(now[id(s)], reference[id(s)], kind) for s in probes]).mean())


def _merged(parts: Sequence[UpdateResult], logprobs: dict[int, Tensor]) -> UpdateResult:
    """One result from those of all processes: sums add up, what all of them share is taken once."""
    deviations = [part.first_ratio_deviation for part in parts if part.first_ratio_deviation is not None]
    return replace(
        parts[0],
        metrics=merge_metrics([part.metrics for part in parts]),
        entropy_sum=sum(part.entropy_sum for part in parts),
        gap_sum=sum(part.gap_sum for part in parts),
        gap_max=max(part.gap_max for part in parts),
        first_ratio_deviation=max(deviations, default=None),
        logprobs=logprobs,
    )


def _spread(samples: list[Sample], count: int) -> list[Sample]:
    """Up to `count` samples: neighbours, which share prompts, from the start and the middle of the list."""
    half, middle = count // 2, len(samples) // 2
    return samples if len(samples) <= count else [*samples[:half], *samples[middle : middle + half]]


def _rows(rows: Sequence[Tensor], packed: Packed) -> Tensor:
    """Stack rows of different lengths into (C, T), 0 where there is no token."""
    stacked = torch.zeros(packed.mask_CT.shape, device=packed.mask_CT.device)
    for number, row in enumerate(rows):
        stacked[number, : len(row)] = row
    return stacked
