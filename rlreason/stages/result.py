"""What an update measures, merged over micro-batches, optimizer steps and processes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from rlreason.algorithms import merge_metrics


@dataclass
class UpdateResult:
    """What an update measured. `metrics` are the loss's, merged over micro-batches and optimizer steps.

    `logprobs` are those of a sample's first forward pass, by `id(sample)`.
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
    critic_norms: list[float] = field(default_factory=list)
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
        critic = {}
        if "value_loss" in self.metrics:
            critic = {
                "value_loss": float(self.metrics["value_loss"]),
                "value_clipped": share(float(self.metrics["value_clipped"])),
                "critic_grad_norm": _mean(self.critic_norms),
            }
        return {
            "loss": float(self.metrics["loss"]) if self.metrics else 0.0,
            "grad_norm": _mean(self.grad_norms),
            "lr": self.lr,
            "kl": self.kl,
            "entropy": share(self.entropy_sum),
            "clipped": share(clipped),
            "ratio_first_pass": self.first_ratio_deviation,
            "sampler_gap": share(self.gap_sum),
            "sampler_gap_max": self.gap_max if tokens else None,
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
        entropy_sum=sum(part.entropy_sum for part in parts),
        gap_sum=sum(part.gap_sum for part in parts),
        gap_max=max(part.gap_max for part in parts),
        first_ratio_deviation=max(deviations, default=None),
        logprobs=logprobs,
    )
