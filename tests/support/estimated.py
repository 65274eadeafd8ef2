"""A config and the shape of a model whose memory is worked out by hand."""

from typing import Any

import torch
from micro import MICRO, merged

from rlreason.config import RunConfig
from rlreason.memory import ModelShape

CPU = torch.device("cpu")
# 10 million parameters, of which 2 million are the embedding, tied to the head.
SHAPE = ModelShape(
    parameters=10_000_000, trainable=10_000_000, embedding=2_000_000, tied=True, layers=4, hidden=200,
    heads=4, kv_heads=2, head_dim=50, intermediate=600, vocabulary=10_000,
)  # fmt: skip


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(merged(MICRO, {"stage": "grpo", **changes}))
