"""The micro run of the stage tests, and how to read what a run left behind."""

import json
from pathlib import Path
from typing import Any

MICRO: dict[str, Any] = {
    "name": "micro",
    "stage": ["sft", "grpo"],
    "threads": 1,
    "model": {
        "precision": "float32",
        "scratch": {
            "hidden_size": 32,
            "layers": 2,
            "heads": 2,
            "kv_heads": 1,
            "intermediate_size": 64,
            "max_positions": 192,
        },
    },
    "task": {"name": "chain_sum", "params": {"min_terms": 2, "max_terms": 3}, "train_size": 40},
    "prompt": {"system": None, "max_tokens": 160},
    "rewards": "random",
    "rollout": {"max_new_tokens": 12, "precision": "float32"},
    "sft": {"size": 8, "batch_size": 4, "optim": {"lr": 1e-3}},
    "grpo": {"steps": 4, "prompts_per_step": 4, "group_size": 4, "optim": {"lr": 1e-3}},
    "ppo": {
        "steps": 4,
        "prompts_per_step": 4,
        "group_size": 4,
        "optim": {"lr": 1e-3},
        "critic": {"optim": {"lr": 1e-3}},
    },
    "eval": {"questions": 6},
    "log": {"sample_every": 0, "checkpoint_every": 2},
}


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, section by section; `...` drops a key."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return {key: value for key, value in result.items() if value is not ...}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_clocks(path: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "time"} for line in lines(path)]
