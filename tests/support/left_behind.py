"""What runs leave behind, made up: a run directory, and the trainer state of TRL."""

import json
from pathlib import Path
from typing import Any

import yaml
from healthy import Line

from rlreason.runs.jsonl import to_json

CONFIG = {
    "stage": ["sft", "grpo"],
    "grpo": {"prompts_per_step": 16},
    "ppo": {"prompts_per_step": 8},
    "rewards": {"accuracy": {"weight": 1.0}, "learned": {"weight": 0.5}},
    "eval": {"reward": "accuracy"},
}


def written(root: Path, lines: list[Line], config: Any = CONFIG) -> Path:
    root.mkdir()
    (root / "metrics.jsonl").write_text("".join(to_json(line) + "\n" for line in lines))
    (root / "config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return root


def cut(lines: list[Line]) -> list[Line]:
    return [{**line, "truncated": 0.7} for line in lines]


def trl_log(lines: list[Line]) -> list[dict[str, Any]]:
    """The same metrics as TRL 1.16 logs them, with its other entries around them."""
    entries: list[dict[str, Any]] = []
    for line in lines:
        entries.append(
            {
                "loss": 0.01,
                "grad_norm": line["grad_norm"],
                "learning_rate": 1e-6,
                "num_tokens": 1000.0,
                "completions/mean_length": line["length"],
                "completions/clipped_ratio": line["truncated"],
                "rewards/accuracy_reward/mean": line["accuracy"],
                "rewards/accuracy_reward/std": 0.4,
                "rewards/think_format_reward/mean": line["format"],
                "rewards/my-reward-model/mean": line["reward/learned"],
                "reward": line["reward"],
                "reward_std": 0.3,
                "frac_reward_zero_std": 1 - line["informative"],
                "sampling/sampling_logp_difference/mean": line["sampler_gap"],
                "kl": line["kl"],
                "entropy": line["entropy"],
                "clip_ratio/low_mean": 0.0,
                "clip_ratio/region_mean": line["clipped"],
                "epoch": 0.1,
                "step": line["step"],
            }
        )
    entries.append({"eval_reward": 0.4, "eval_loss": 0.0, "step": 5})
    entries.append({"train_runtime": 10.0, "total_flos": 0.0, "step": len(lines)})
    return entries


def state_of(folder: Path, log: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "trainer_state.json"
    path.write_text(json.dumps({"global_step": len(log), "max_steps": len(log), "log_history": log}))
    return path
