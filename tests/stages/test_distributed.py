"""Two processes do what one does: the same samples, and the same gradients up to the order of sums."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import lines
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("grpo", {"dynamic_sampling": 1, "epochs": 2, "down_sample": 3}),
        pytest.param(
            "grpo",
            {"baseline": "batch", "advantage_scale": "batch", "kl": {"coef": 0.1, "where": "tokens"}},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "grpo", {"baseline": "greedy", "group_size": 1, "prompts_per_step": 8}, marks=pytest.mark.slow
        ),
        ("ppo", {"epochs": 2, "kl": {"coef": 0.1}}),
    ],
    ids=["grpo", "batch", "greedy", "ppo"],
)
def test_two_processes_equal_one(
    train: Callable[..., Path],
    write_config: Callable[..., Path],
    tmp_path: Path,
    stage: str,
    settings: dict[str, Any],
) -> None:
    base = train(name="base", stage="sft")
    common: dict[str, Any] = {
        "stage": stage,
        "model": {"scratch": None, "path": str(base / "model")},
        stage: {"steps": 1, "micro_batch_tokens": 128, **settings},
    }
    one = train(name="one", **common)
    config = write_config(name="two", **common)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc_per_node=2",
            "--standalone",  # a free port
            "train.py",
            str(config),
        ],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = tmp_path / "runs" / "two"
    assert [s["text"] for s in lines(one / "samples.jsonl")] == [
        s["text"] for s in lines(two / "samples.jsonl")
    ]
    a, b = (load_file(run / "model" / "model.safetensors") for run in (one, two))
    start = load_file(base / "model" / "model.safetensors")
    moved = [torch.cat([(w[n] - start[n]).flatten() for n in sorted(w)]) for w in (a, b)]
    assert torch.cosine_similarity(*moved, dim=0) > 0.999
    alike = ("loss", "entropy", "reward", "tokens", "informative")
    first, second = lines(one / "metrics.jsonl")[-1], lines(two / "metrics.jsonl")[-1]
    assert [first[name] for name in alike] == pytest.approx(
        [second[name] for name in alike], rel=1e-4, abs=1e-7
    )
