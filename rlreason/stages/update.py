"""Update: from scored completions with advantages to new weights.

Shapes: C completions of a micro-batch, T completion tokens, B completions of a rollout batch.
"""

import math
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import reduce
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from rlreason.algorithms import (
    PolicyLossInput,
    kl_estimate,
    loss_denominator,
    merge_metrics,
    policy_loss,
    rewards_with_kl,
    sampler_weights,
    value_loss,
)
from rlreason.algorithms.gae import ValueLoss
from rlreason.config import RunConfig
from rlreason.policy.critic import ActorCritic
from rlreason.policy.forward import CompletionLogprobs
from rlreason.policy.model import Policy
from rlreason.policy.optimizer import build_optimizer, learning_rate
from rlreason.policy.packing import Completion, Packed, PassSize, Sharing, computed_tokens, pack
from rlreason.policy.transfer import to_device
from rlreason.seeds import derive_seed
from rlreason.stages.collect import Sample
from rlreason.stages.guards import CRITIC_GRADIENT, GRADIENT, FiniteGuard, worst
from rlreason.stages.record import sample_records
from rlreason.stages.result import UpdateResult, merged_results

# Completions of a batch that was left out that are written down, at most, and characters of each.
_DUMPED_ROWS, _DUMPED_TEXT = 64, 20_000
# Completions, half of each of two groups or so, on which KL is estimated when it has no weight: enough for a
# trend, and one short forward pass of the reference.
_KL_PROBES = 8


class Updater:
    """Turns the samples of a step into optimizer steps.

    `updates` counts the optimizer steps so far. Every process of a distributed run calls it with the same
    samples and computes its share of the micro-batches. `forward` is the policy's, or that of policy and
    critic in one; the critic's own parameters then have an optimizer part of their own. `sharing` is what
    all models that read the samples allow to be computed once.
    """

    def __init__(
        self,
        config: RunConfig,
        policy: Policy,
        reference: CompletionLogprobs | None,
        forward: Any,
        accelerator: Any,
        *,
        guard: FiniteGuard,
    ) -> None:
        self.guard = guard
        self._settings = config.online
        self._critic = config.ppo.critic
        self._stage = config.online_stage
        self._seed = config.seed
        self._temperature = config.rollout.temperature
        self._max_new_tokens = config.rollout.max_new_tokens
        self._policy = policy
        self._reference = reference
        self._forward = forward
        # Passes without gradient go around DDP, whose forward exchanges buffers: not every rank makes all.
        self._unwrapped = accelerator.unwrap_model(forward)
        self._accelerator = accelerator
        self._pass_size = PassSize.suited(config.online.micro_batch_tokens, policy.device)
        models = [self._unwrapped] if reference is None else [self._unwrapped, reference]
        self.sharing: Sharing = min(one.sharing for one in models)
        if not config.online.share_prompt:
            self.sharing = Sharing.NOTHING
        self.critic_parameters: dict[str, torch.nn.Parameter] = {}
        parts: dict[str, Any] = {"policy": (policy.trainable(), config.online.optim)}
        if isinstance(self._unwrapped, ActorCritic):
            self.critic_parameters = self._unwrapped.critic.trainable()
            parts["critic"] = (self.critic_parameters, self._critic.optim)
        self.optimizer = build_optimizer(parts)
        self.updates = 0
        online = config.online
        self._total_updates = online.steps * online.epochs * online.minibatches
        self._values_only = False

    # ------------------------------------------------------------------ one step of the loop

    def penalize_kl(self, samples: Sequence[Sample]) -> None:
        """With `kl.where: reward`, subtract coef times the completion's summed KL from its reward."""
        kl = self._settings.kl
        if kl.coef == 0 or kl.where != "reward":
            return
        kl_by_sample = self.token_kl(samples)
        for sample in samples:
            if sample.reward is not None:
                kl_1T = kl_by_sample[id(sample)][None]
                reward_1 = torch.tensor([sample.reward], dtype=torch.float64)
                penalized_1 = rewards_with_kl(reward_1, kl_1T.cpu(), torch.ones(kl_1T.shape), coef=kl.coef)
                sample.reward = float(penalized_1)

    def token_kl(self, samples: Sequence[Sample]) -> dict[int, Tensor]:
        """KL(policy || reference) at each of a sample's tokens, (T,) in nats, by `id(sample)`."""
        now, reference = self.logprobs(samples), self.reference_logprobs(samples)
        kind = self._settings.kl.estimator
        return {key: kl_estimate(now[key], reference[key], kind) for key in now}

    def update(self, samples: Sequence[Sample], step: int) -> UpdateResult:
        """Run `epochs` passes of `minibatches` optimizer steps. Raises UserError after repeated NaNs."""
        settings = self._settings
        result = UpdateResult()
        self._values_only = bool(self.critic_parameters) and step <= self._critic.warmup_steps
        self._policy.model.train()
        lengths_B = torch.tensor([0 if self._masked(s) else len(s.rollout.completion_ids) for s in samples])
        training = [index for index, sample in enumerate(samples) if self._trains(sample)]
        several = settings.epochs * settings.minibatches > 1
        old = self._old_logprobs([samples[i] for i in training]) if several else {}
        in_loss = settings.kl.coef > 0 and settings.kl.where == "loss"
        reference = self.reference_logprobs([samples[i] for i in training]) if in_loss else {}
        for epoch in range(settings.epochs):
            for rows in self._minibatches(samples, step, epoch):
                denominator = loss_denominator(
                    settings.loss, lengths_B, max_new_tokens=self._max_new_tokens, rows=torch.tensor(rows)
                )
                chosen = [samples[row] for row in rows if self._trains(samples[row])]
                self._optimizer_step(chosen, step, denominator, old, reference, result)
        if self._accelerator.num_processes > 1:
            result = merged_results(gather_object([result.without_logprobs()]), result.logprobs)
        result.kl = self._kl(samples, result, old)
        return result

    def _old_logprobs(self, samples: Sequence[Sample]) -> dict[int, Tensor]:
        """Log-probs under the policy before the step: those at hand, else computed now."""
        known = {id(s): s.tokens.logprobs for s in samples if s.tokens and s.tokens.logprobs is not None}
        return known if len(known) == len(samples) else self.logprobs(samples)

    def _masked(self, sample: Sample) -> bool:
        return self._settings.mask_truncated and sample.truncated

    def _trains(self, sample: Sample) -> bool:
        """Whether the sample's loss has a gradient. One that does not still counts in the denominator."""
        if self._masked(sample):
            return False
        if self.critic_parameters:
            return sample.tokens is not None  # a value is learned from every judged completion
        kl = self._settings.kl
        moves = sample.advantage != 0.0 or sample.token_advantages is not None
        return moves or (kl.coef > 0 and kl.where == "loss")

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
        step: int,
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
        # Loss and largest distance of a ratio from 1. Read once: to read a number is to wait for the device.
        total, ratio = torch.zeros((2,), device=self._policy.device).unbind()
        for number in range(rounds):
            # Ranks exchange gradients once an optimizer step, in its last backward pass; one that has run
            # out of micro-batches takes part with a loss of 0.
            with nullcontext() if number == rounds - 1 else self._accelerator.no_sync(self._forward):
                idle = number >= len(mine)
                packed = micro_batches[0] if idle else mine[number]
                loss, deviation = self._loss(
                    packed, samples, denominator, old, reference, None if idle else result
                )
                # DDP averages over ranks what must be summed.
                self._accelerator.backward(loss * (0.0 if idle else float(processes)))
                if not idle:
                    total, ratio = total + loss.detach(), torch.maximum(ratio, deviation)
        numbers = self._step_or_skip(total, ratio, result)
        if numbers is not None:
            records = sample_records(self._stage, step, samples[:_DUMPED_ROWS])
            self.guard.skipped(step, numbers, [_cut(record) for record in records])

    def _loss(
        self,
        packed: Packed,
        samples: list[Sample],
        denominator: float,
        old: dict[int, Tensor],
        reference: dict[int, Tensor],
        result: UpdateResult | None,
    ) -> tuple[Tensor, Tensor]:
        """The loss of one micro-batch, and the largest |ratio - 1|; its metrics are added to `result`."""
        settings = self._settings
        chosen = [samples[index] for index in packed.order]
        packed = packed.to(self._policy.device)
        logprobs_CT, entropy_CT, *values_CT = self._forward(packed, self._temperature)
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
                advantages=_advantages(chosen, packed),
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
        loss, deviation = output.loss, output.metrics["ratio_max_deviation"]
        for critic_CT in values_CT:
            learned = self._value_loss(critic_CT, chosen, packed, denominator)
            output.metrics.update(value_loss=learned.loss.detach(), value_clipped=learned.clipped)
            loss = (0.0 if self._values_only else 1.0) * loss + self._critic.coef * learned.loss
        if result is not None:
            gap_CT = ((old_CT - sampler_CT) * packed.mask_CT).abs()
            output.metrics.update(gap_sum=gap_CT.sum(), gap_max=gap_CT.max(), entropy_sum=entropy_CT.sum())
            for row, sample in zip(logprobs_CT.detach(), chosen, strict=True):
                result.logprobs.setdefault(id(sample), row[: len(sample.rollout.completion_ids)])
            result.metrics = merge_metrics([result.metrics, output.metrics])
            if not result.grad_norms and not result.skipped:
                first = result.first_ratio_deviation
                result.first_ratio_deviation = deviation if first is None else torch.maximum(first, deviation)
        return loss, deviation

    def _value_loss(
        self, values_CT: Tensor, samples: list[Sample], packed: Packed, denominator: float
    ) -> ValueLoss:
        targets = [sample.tokens for sample in samples if sample.tokens is not None]
        return value_loss(
            values_CT,
            _rows([target.values for target in targets], packed),
            _rows([target.returns for target in targets], packed),
            packed.mask_CT,
            denominator=denominator,
            clip=self._critic.clip,
        )

    def _step_or_skip(self, loss: Tensor, ratio: Tensor, result: UpdateResult) -> dict[str, float] | None:
        """Clip the gradients of policy and critic, each by itself, and step.

        Where a number is not finite there is no step, and the numbers are returned.
        """
        policy, critic = list(self._policy.trainable().values()), list(self.critic_parameters.values())
        if self._values_only:
            for parameter in policy:
                parameter.grad = None
        clip = self._accelerator.clip_grad_norm_
        measured = {"loss": loss, GRADIENT: torch.zeros_like(loss), "ratio": ratio}
        if not self._values_only:
            measured[GRADIENT] = clip(policy, self._settings.optim.max_grad_norm)
        if critic:
            measured[CRITIC_GRADIENT] = clip(critic, self._critic.optim.max_grad_norm)
        values = torch.stack([value.to(loss) for value in measured.values()]).tolist()
        own = dict(zip(measured, values, strict=True))
        numbers = self._of_all_processes(own)
        finite = all(map(math.isfinite, numbers.values()))
        if finite:
            critic_lr = learning_rate(self._critic.optim, self.updates - 1, self._total_updates)
            for group in self.optimizer.param_groups:
                group["lr"] = critic_lr if group["part"] == "critic" else result.lr
            self.optimizer.step()
            result.grad_norms += [] if self._values_only else [own[GRADIENT]]
            result.critic_norms += [own[CRITIC_GRADIENT]] if critic else []
            self.guard.passed()
        else:
            result.skipped += 1
        self.optimizer.zero_grad(set_to_none=True)
        return None if finite else numbers

    def _of_all_processes(self, numbers: dict[str, float]) -> dict[str, float]:
        """The worst of each number: all processes take a step, or none does."""
        if self._accelerator.num_processes == 1:
            return numbers
        everywhere = gather_object([numbers])
        return {name: reduce(worst, (one[name] for one in everywhere)) for name in numbers}

    # ------------------------------------------------------------------ log-probs without gradient

    def _pack(self, samples: Sequence[Sample]) -> list[Packed]:
        sequences = [sample.sequence for sample in samples]
        return pack(sequences, share=self.sharing, size=self._pass_size, pad_id=self._policy.pad_id)

    def tokens(self, sequences: Sequence[Completion]) -> int:
        """How many tokens an epoch over these computes, mini-batch by mini-batch, padding included."""
        order = {group: place for place, group in enumerate(dict.fromkeys(one.group for one in sequences))}
        parts = self._settings.minibatches
        dealt = [[one for one in sequences if order[one.group] % parts == number] for number in range(parts)]
        return sum(computed_tokens(part, share=self.sharing, size=self._pass_size) for part in dealt)

    def logprobs(self, samples: Sequence[Sample]) -> dict[int, Tensor]:
        """Log-probs of each sample's tokens under the policy as it is, (T,), by `id(sample)`."""
        actor = self._unwrapped
        return self._logprobs(actor.actor if isinstance(actor, ActorCritic) else actor, samples)

    def reference_logprobs(self, samples: Sequence[Sample]) -> dict[int, Tensor]:
        """The same under the reference. Raises ValueError where there is none."""
        if self._settings.kl.reference == "none":
            raise ValueError("kl.reference is none: there is nothing to measure a divergence from")
        if self._reference is not None:
            return self._logprobs(self._reference, samples)
        with self._policy.adapter_off():
            return self.logprobs(samples)

    def values(self, samples: Sequence[Sample]) -> dict[int, Tensor]:
        """What the critic expects before each of a sample's tokens, (T,), by `id(sample)`."""
        return self._by_sample(self._unwrapped.values, samples)

    def _logprobs(self, forward: Any, samples: Sequence[Sample]) -> dict[int, Tensor]:
        return self._by_sample(lambda packed: forward(packed, self._temperature)[0], samples)

    @torch.no_grad()
    def _by_sample(self, rows: Callable[[Packed], Tensor], samples: Sequence[Sample]) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for packed in self._pack(samples) if samples else []:
            for row, index in zip(rows(packed.to(self._policy.device)), packed.order, strict=True):
                found[id(samples[index])] = row[: len(samples[index].rollout.completion_ids)]
        return found

    def _kl(self, samples: Sequence[Sample], result: UpdateResult, old: dict[int, Tensor]) -> float | None:
        """KL(policy || reference) in nats a token: the loss's own estimate, else one on a few completions.

        None where there is no reference. The policy is the one that sampled them: its log-probs are at hand,
        from before the update where that had several optimizer steps.
        """
        if "kl_sum" in result.metrics:
            return float(result.metrics["kl_sum"] / result.metrics["tokens"])
        if self._settings.kl.reference == "none":
            return None
        at_hand = old or result.logprobs
        known = [sample for sample in samples if id(sample) in at_hand]
        probes = _spread(known or list(samples), _KL_PROBES)
        now = at_hand if known else self.logprobs(probes)
        reference = self.reference_logprobs(probes)
        kind = self._settings.kl.estimator
        return float(torch.cat([kl_estimate(now[id(s)], reference[id(s)], kind) for s in probes]).mean())


def _cut(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "text": record["text"][:_DUMPED_TEXT]}


def _spread(samples: list[Sample], count: int) -> list[Sample]:
    """Up to `count` samples: neighbours, which share prompts, from the start and the middle of the list."""
    half, middle = count // 2, len(samples) // 2
    return samples if len(samples) <= count else [*samples[:half], *samples[middle : middle + half]]


def _advantages(samples: Sequence[Sample], packed: Packed) -> Tensor:
    """One a completion, (C,), or, where each token is judged by itself, one a token, (C, T)."""
    tokens = [sample.token_advantages for sample in samples if sample.token_advantages is not None]
    if tokens:
        return _rows(tokens, packed)
    return to_device(torch.tensor([sample.advantage for sample in samples]), packed.mask_CT.device)


def _rows(rows: Sequence[Tensor], packed: Packed) -> Tensor:
    """Rows of the C completions' lengths as (C, T), 0 where there is no token."""
    return to_device(pad_sequence(list(rows), batch_first=True).float(), packed.mask_CT.device)
