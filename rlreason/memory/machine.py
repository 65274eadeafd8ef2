"""What the machine has: the memory of the GPU, or of this machine as far as this process may use it."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

# Where Linux says how much a container may use (cgroup v2, then v1), and how much of it is in use.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Machine:
    """`total` bytes of memory, of which `free` were not in use; `kind` is "GPU" or "memory"."""

    total: int
    free: int
    kind: str


def machine(device: torch.device) -> Machine:
    """The memory that a model on `device` will live in."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        # What this process holds already, here and below, is part of what the run will hold.
        return Machine(total, free + torch.cuda.memory_reserved(device), "GPU")
    memory = psutil.virtual_memory()
    limit = min([memory.total, *_limits()])
    own = psutil.Process().memory_info().rss
    return Machine(limit, min(limit, memory.available + own), "memory")


def _limits() -> list[int]:
    found = []
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            found.append(int(path.read_text()))
    return found
