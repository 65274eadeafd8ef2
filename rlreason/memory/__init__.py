"""How much memory a run will take, part by part, from its config and the shape of its model."""

from rlreason.memory.machine import Machine, machine
from rlreason.memory.passes import Prompts
from rlreason.memory.shape import ModelShape, new_shape, shape_of
from rlreason.memory.stages import Estimate, Part, estimate_online, estimate_run
from rlreason.memory.words import in_gb, parts_text, summary_text, warning_text

__all__ = [
    "Estimate",
    "Machine",
    "ModelShape",
    "Part",
    "Prompts",
    "estimate_online",
    "estimate_run",
    "in_gb",
    "machine",
    "new_shape",
    "parts_text",
    "shape_of",
    "summary_text",
    "warning_text",
]
