"""The machine under a benchmark: what it is, what memory is taken, what it could do at best."""

import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "transformers", "trl", "accelerate", "peft", "liger-kernel", "vllm")


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GiB, system."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    allowed = getattr(os, "sched_getaffinity", None)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": name,
        "cores": len(allowed(0)) if allowed else os.cpu_count(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def synchronized(device: str) -> float:
    """The time, in seconds, when all work given to the device is done."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return time.perf_counter()


class Memory:
    """Peaks of this process and of those it has started, in bytes.

    `step` is since the last `reset` (Linux and CUDA only, else None); `process` since the process began.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self._process = self._device = 0

    def reset(self) -> None:
        self._process = max(self._process, peak_rss(os.getpid()))
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        if self._cuda:
            import torch

            self._device = max(self._device, torch.cuda.max_memory_allocated())
            torch.cuda.reset_peak_memory_stats()

    def read(self) -> dict[str, int | None]:
        import psutil

        # Workers that score: each with its own peak, so that the sum is no less than what was ever in use.
        helpers = sum(peak_rss(child.pid) for child in psutil.Process().children(recursive=True))
        step = peak_rss(os.getpid()) + helpers
        resets = Path("/proc/self/clear_refs").exists()
        found: dict[str, int | None] = {
            "step": step if resets else None,
            "process": max(step, self._process + helpers),
            "helpers": helpers,
        }
        if self._cuda:
            import torch

            now = torch.cuda.max_memory_allocated()
            found |= {"cuda_step": now, "cuda_process": max(now, self._device)}
            found["cuda_reserved"] = torch.cuda.max_memory_reserved()  # with what lies between
        return found


def peak_rss(pid: int) -> int:
    """The high-water mark of a process's resident memory; where that is not told, what it holds now."""
    import psutil

    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    if pid == os.getpid():
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def sampling_flops(
    model: Mapping[str, int], *, prompts: int, prompt_tokens: float, sequences: int, new_tokens: int
) -> float:
    """Floating-point operations to sample with no waste: each prompt once, the head for sampled tokens only.

    Two for each weight of a matrix and token, four for each head's width and pair of positions in attention.
    """
    completion = sequences * new_tokens
    matrices = 2 * model["body"] * (prompts * prompt_tokens + completion) + 2 * model["head"] * completion
    pairs = prompts * prompt_tokens**2 / 2 + sequences * new_tokens * (prompt_tokens + new_tokens / 2)
    return matrices + 4 * model["layers"] * model["heads"] * model["head_dim"] * pairs


def step_flops(model: Mapping[str, int], **sizes: Any) -> float:
    """The same of a whole step: sampling, and forward and backward pass, which take three times as much.

    Long beginnings that prompts have in common could save more; those of these benchmarks are short.
    """
    return 4 * sampling_flops(model, **sizes)


def decode_bytes(
    model: Mapping[str, int],
    *,
    prompts: float,
    prompt_tokens: float,
    sequences: int,
    new_tokens: int,
    item: int,
) -> float:
    """Bytes that decoding has to read for every token: all matrices, and the cache so far.

    A prompt is read once for all its completions, and each reads its own tokens. What several prompts begin
    with is counted for each.
    """
    weights = item * (model["body"] + model["head"]) * new_tokens
    positions = new_tokens * (prompts * prompt_tokens + sequences * new_tokens / 2)
    return weights + item * 2 * model["layers"] * model["kv_heads"] * model["head_dim"] * positions
