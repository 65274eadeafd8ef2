"""AdamW and the learning rate as a function of the step, so that resuming needs no scheduler state."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def build_optimizer(parts: Mapping[str, tuple[Mapping[str, nn.Parameter], Any]]) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101) over the parameters of each part, each with settings of its own (`optim`).

    Decay acts on matrices only, not on norms and biases. A group's key "part" names where it belongs.
    """
    groups: list[dict[str, Any]] = []
    for part, (parameters, optim) in parts.items():
        settings = {"part": part, "lr": optim.lr, "betas": (optim.beta1, optim.beta2), "eps": optim.eps}
        matrices = [p for p in parameters.values() if p.dim() >= 2]
        vectors = [p for p in parameters.values() if p.dim() < 2]
        groups.append({"params": matrices, "weight_decay": optim.weight_decay, **settings})
        groups.append({"params": vectors, "weight_decay": 0.0, **settings})
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)


def learning_rate(optim: Any, update: int, total: int) -> float:
    """The rate of optimizer step `update` (0-based) of `total`: linear warm-up, then the schedule."""
    if update < optim.warmup_steps:
        return float(optim.lr * (update + 1) / optim.warmup_steps)
    if optim.schedule == "constant":
        return float(optim.lr)
    progress = (update - optim.warmup_steps) / max(1, total - optim.warmup_steps)
    if optim.schedule == "linear":
        return float(optim.lr * (1 - progress))
    return float(optim.lr * 0.5 * (1 + math.cos(math.pi * progress)))
