"""What an update measures, merged over micro-batches, optimizer steps and processes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from rlreason.algorithms import merge_metrics


@dataclass
class UpdateResult:
    """What an update measured.

    `metrics` are the loss's with `entropy_sum`, and `gap_sum` and `gap_max` of sampler and trainer, merged
    over micro-batches and optimizer steps. They and `first_ratio_deviation` stay on the device until
    `record`, as to read one is to wait for it. `logprobs` are those of a sample's first forward pass, by
    `id(sample)`.
    """

    metrics: dict[str, Tensor] = field(default_factory=dict)
    grad_norms: list[float] = field(default_factory=list)
    skipped: int = 0
    lr: float = 0.0
    kl: float | None = None
    first_ratio_deviation: Tensor | None = None
    critic_norms: list[float] = field(default_factory=list)
    logprobs: dict[int, Tensor] = field(default_factory=dict)

    def without_logprobs(self) -> "UpdateResult":
        """For another process: on the CPU, and without what only this one can use."""
        metrics = {name: value.cpu() for name, value in self.metrics.items()}
        first = self.first_ratio_deviation
        deviation = None if first is None else first.cpu()
        return replace(self, metrics=metrics, first_ratio_deviation=deviation, logprobs={})

    def record(self) -> dict[str, float | None]:
        """The update's part of the step's line; None for what had no tokens to be measured on."""
        found = {name: float(value) for name, value in self.metrics.items()}
        tokens, first = found.get("tokens", 0.0), self.first_ratio_deviation

        def share(*names: str) -> float | None:
            return sum(found.get(name, 0.0) for name in names) / tokens if tokens else None

        critic = {}
        if "value_loss" in found:
            critic = {
                "value_loss": found["value_loss"],
                "value_clipped": share("value_clipped"),
                "critic_grad_norm": _mean(self.critic_norms),
            }
        return {
            "loss": found.get("loss", 0.0),
            "grad_norm": _mean(self.grad_norms),
            "lr": self.lr,
            "kl": self.kl,
            "entropy": share("entropy_sum"),
            "clipped": share("clipped_low", "clipped_high", "clipped_dual"),
            "ratio_first_pass": None if first is None else float(first),
            "sampler_gap": share("gap_sum"),
            "sampler_gap_max": found["gap_max"] if tokens else None,
            "skipped_updates": float(self.skipped),
            **critic,
        }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def merged_results(parts: Sequence[UpdateResult], logprobs: dict[int, Tensor]) -> UpdateResult:
    """One result from those of all processes: sums add up, what all of them share is taken once."""
    deviations = [part.first_ratio_deviation for part in parts if part.first_ratio_deviation is not None]
    return replace(
        parts[0],
        metrics=merge_metrics([part.metrics for part in parts]),
        first_ratio_deviation=torch.stack(deviations).max() if deviations else None,
        logprobs=logprobs,
    )
