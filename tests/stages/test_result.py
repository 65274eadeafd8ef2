"""What an update measured, put together from several processes."""

import torch
from torch import Tensor

from rlreason.stages.result import UpdateResult, merged_results


def metrics(
    tokens: float, loss: float, gap_sum: float, gap_max: float, deviation: float
) -> dict[str, Tensor]:
    values = {
        "tokens": tokens,
        "loss": loss,
        "entropy_sum": 2 * tokens,
        "gap_sum": gap_sum,
        "gap_max": gap_max,
        "ratio_max_deviation": deviation,
        "clipped_low": 1.0,
        "clipped_high": 2.0,
        "clipped_dual": 0.0,
    }
    return {name: torch.tensor(value) for name, value in values.items()}


def test_processes_add_what_are_sums_and_take_the_largest_of_what_are_none() -> None:
    one = UpdateResult(
        metrics(10, 0.5, 0.1, 0.04, 0.3), [1.5], 0, 1e-5, first_ratio_deviation=torch.tensor(0.1)
    )
    other = UpdateResult(
        metrics(30, 0.25, 0.3, 0.02, 0.7), [1.5], 0, 1e-5, first_ratio_deviation=torch.tensor(0.2)
    )
    idle = UpdateResult({}, [1.5], 0, 1e-5)  # it had no micro-batch of its own
    logprobs = {7: torch.zeros(2)}
    merged = merged_results([part.without_logprobs() for part in (one, other, idle)], logprobs)
    assert merged.logprobs is logprobs
    assert float(merged.metrics["ratio_max_deviation"]) == torch.tensor(0.7)
    record = merged.record()
    assert {name: round(value, 6) for name, value in record.items() if value is not None} == {
        "loss": 0.75,
        "grad_norm": 1.5,
        "lr": 1e-5,
        "entropy": 2.0,
        "clipped": 6 / 40,
        "ratio_first_pass": 0.2,
        "sampler_gap": 0.01,
        "sampler_gap_max": 0.04,
        "skipped_updates": 0.0,
    }
    assert record["kl"] is None


def test_where_nothing_was_learned_from_nothing_is_measured() -> None:
    record = merged_results([UpdateResult(lr=1e-5)] * 2, {}).record()
    unknown = {name for name, value in record.items() if value is None}
    assert unknown == {
        *("grad_norm", "kl", "entropy", "clipped"),
        *("ratio_first_pass", "sampler_gap", "sampler_gap_max"),
    }
    assert record["loss"] == 0.0
