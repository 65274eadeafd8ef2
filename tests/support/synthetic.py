"""Run directories that no model was trained for: drawn by a seed, of any size, as real runs leave them."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from healthy import healthy

from rlreason.runs.jsonl import to_json

GUESS = "I have seen questions like this one before and will answer at once."


def synthetic_run(
    root: Path,
    *,
    seed: int = 0,
    steps: int = 60,
    groups: int = 8,
    group_size: int = 8,
    finished: bool = True,
    words: int = 0,
    lr: float = 1e-5,
) -> Path:
    """Write a run of `steps` x `groups` x `group_size` completions, each to the file as soon as it is made.

    `words` makes each completion that much longer. A run that is not finished has stopped at two thirds.
    """
    root.mkdir(parents=True)
    metrics = healthy(seed, steps=steps, groups=groups, group_size=group_size)
    done = steps if finished else 2 * steps // 3
    config = {
        "name": root.name,
        "stage": ["sft", "grpo"],
        "seed": seed,
        "prompt": {"format": "think_answer"},
        "rewards": {
            "accuracy": {"weight": 1.0, "gate": "think_format"},
            "think_format": {"weight": 0.1, "gate": None},
        },
        "eval": {"reward": "accuracy"},
        "grpo": {"steps": steps, "prompts_per_step": groups, "group_size": group_size, "optim": {"lr": lr}},
    }
    (root / "config.yaml").write_text(yaml.safe_dump(config))
    with (root / "metrics.jsonl").open("w") as file:
        for line in [*_cold_start(), *(_with_clocks(line, seed) for line in metrics[:done])]:
            file.write(to_json(line) + "\n")
    with (root / "samples.jsonl").open("w") as file:
        for record in samples(metrics[:done], seed=seed, groups=groups, group_size=group_size, words=words):
            file.write(to_json(record) + "\n")
    _evaluations(root, metrics[:done], finished=finished)
    return root


def samples(
    metrics: list[dict[str, Any]], *, seed: int, groups: int, group_size: int, words: int = 0
) -> Iterator[dict[str, Any]]:
    """The lines of `samples.jsonl`, one at a time."""
    draw = random.Random(seed)
    for line in metrics:
        for group in range(groups):
            numbers = [draw.randint(1, 20) for _ in range(draw.randint(3, 5))]
            chance = min(max(draw.gauss(line["accuracy"], 0.3), 0), 1)
            members = [_completion(draw, numbers, chance, line["format"], words) for _ in range(group_size)]
            mean = sum(member["reward"] for member in members) / group_size
            for member in members:
                member |= {"step": line["step"], "group": group, "advantage": member["reward"] - mean}
                yield {"stage": "grpo", **member}


def _completion(
    draw: random.Random, numbers: list[int], chance: float, form: float, words: int
) -> dict[str, Any]:
    gold = sum(numbers)
    right, formed = draw.random() < chance, draw.random() < form
    said = gold if right else gold + draw.choice([-10, -3, -1, 1, 2, 10])
    thought = GUESS
    if right or draw.random() < 0.5:
        thought, total = "", numbers[0]
        for place, number in enumerate(numbers[1:], 2):
            next_total = said if place == len(numbers) else total + number
            thought += f"{total} + {number} = {next_total}\n"
            total = next_total
    thought += " ".join(draw.choices(["so", "then", "carry", "wait", "check", "add"], k=words))
    text = f"{thought.strip()}\n</think>\n<answer>{said}</answer>" if formed else thought
    earned = float(right and formed)
    reason = f"{said} equals {gold}" if right else f"{said} is not {gold}"
    return {
        "question": f"What is the result of this sum? {' + '.join(map(str, numbers))} =",
        "answer": str(gold),
        "prefill": "<think>\n",
        "text": text,
        "finish_reason": "stop" if formed else "length",
        "tokens": len(text) // 2,
        "reward": earned + 0.1 * formed,
        "scores": {
            "accuracy": {
                "value": earned,
                "reason": reason if formed else "there is no answer",
                "failed": False,
            },
            "think_format": {
                "value": float(formed),
                "reason": "all tags in place" if formed else "think_unclosed, answer_missing",
                "failed": False,
            },
        },
    }


def _cold_start() -> Iterator[dict[str, Any]]:
    for step in range(9, 91, 9):
        clocks = {"total": 2.0 + step / 90, "left": 0.0}
        loss = 1.6 / (1 + step / 12)
        yield {
            "stage": "sft",
            "step": step,
            "steps": 90,
            "loss": loss,
            "grad_norm": 2.5,
            "lr": 5e-5,
            "time": clocks,
        }


def _with_clocks(line: dict[str, Any], seed: int) -> dict[str, Any]:
    draw = random.Random(1000 * seed + line["step"])
    clocks = {
        "sample": draw.uniform(5, 7),
        "score": draw.uniform(0.1, 0.3),
        "advantage": 0.01,
        "update": draw.uniform(3, 4),
        "record": draw.uniform(0.05, 0.1),
    }
    parts = {"reward/accuracy": line["accuracy"], "reward/think_format": line["format"], "findings": []}
    counts = {"tokens": 4000, "lr": 1e-5, "loss": draw.gauss(0, 1e-3), "derives": line["accuracy"]}
    total = sum(clocks.values())
    return line | parts | counts | {"time": {**clocks, "total": total, "tokens_per_s": 600.0, "left": 0.0}}


def _evaluations(root: Path, metrics: list[dict[str, Any]], *, finished: bool) -> None:
    def summary(line: dict[str, Any]) -> dict[str, Any]:
        share = line["accuracy"]
        bounds = [max(share - 0.06, 0), min(share + 0.06, 1)]
        return {
            "accuracy": share,
            "ci95": bounds,
            "n": 250,
            "samples": 1,
            "format": line["format"],
            "accuracy_given_format": min(share / line["format"], 1),
            "derives": min(0.3 + share, 1),
            "truncated": line["truncated"],
            "tokens": line["length"],
        }

    labels = {"before": metrics[0]} | {f"step-{line['step']:06d}": line for line in metrics[19:-1:20]}
    if finished:
        labels["after"] = metrics[-1]
    for label, line in labels.items():
        folder = root / "evaluations" / label
        folder.mkdir(parents=True)
        (folder / "completions.json").write_text(json.dumps({"summary": summary(line), "completions": []}))
    if finished:
        before, after = summary(metrics[0]), summary(metrics[-1])
        value = after["accuracy"] - before["accuracy"]
        gain = {"value": value, "ci95": [value - 0.07, value + 0.07], "n": 250}
        table = [
            {"name": "sft", "accuracy": before["accuracy"], "ci95": before["ci95"]},
            {"name": "grpo", "accuracy": after["accuracy"], "ci95": after["ci95"]},
        ]
        (root / "model").mkdir()
        evaluation = {"before": before, "after": after, "gain": gain, "steps": table}
        (root / "eval.json").write_text(json.dumps(evaluation))
