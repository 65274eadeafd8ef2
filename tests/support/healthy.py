"""Metrics of healthy runs, drawn by a seed: noisy as real ones are, and nothing wrong with them."""

from typing import Any

import numpy as np

Line = dict[str, Any]


def healthy(seed: int, *, steps: int, groups: int = 16, group_size: int = 8) -> list[Line]:
    """The lines of a run that learns: each question has a difficulty, each completion is drawn.

    Accuracy rises by 15 points or more, quickly or slowly, or is above 90% from the start. The policy wavers,
    KL has spikes, entropy falls to between 5% and 60% of what it was, length drifts by up to a third,
    questions with signal run out as they are solved. The learned reward follows accuracy, or rises by itself.
    """
    draw = np.random.default_rng(seed)
    progress = 1 - np.exp(-np.arange(steps) / (steps * draw.uniform(0.02, 0.6)))
    progress /= max(progress[-1], 1e-9)
    if draw.random() < 0.1:
        start = end = 0.99
    else:
        start = draw.uniform(0.02, 0.7)
        end = draw.uniform(start + 0.15, 0.97)
    wavering = np.zeros(steps)
    for step in range(1, steps):
        wavering[step] = 0.7 * wavering[step - 1] + draw.normal(0, 0.08)
    middle = _logit(start + (end - start) * progress) + wavering
    difficulty = draw.normal(0, draw.uniform(0.5, 1.5), (steps, groups))
    right = draw.binomial(group_size, 1 / (1 + np.exp(difficulty - middle[:, None])))
    accuracy = right.mean(1) / group_size
    informative = ((right > 0) & (right < group_size)).mean(1)
    completions = groups * group_size
    form = draw.uniform(0.5, 0.99)
    formed = draw.binomial(completions, form + (0.995 - form) * progress) / completions
    cut = draw.binomial(completions, draw.uniform(0, 0.08), steps) / completions
    entropy = draw.uniform(0.1, 2.0) * (1 + (draw.uniform(0.05, 0.6) - 1) * progress)
    entropy = entropy * draw.lognormal(0, 0.15, steps)
    kl = draw.uniform(0.01, 0.2) * np.sqrt(progress) * draw.lognormal(0, 0.7, steps)
    length = draw.uniform(20, 500) * (1 + draw.uniform(-0.25, 0.33) * progress)
    length = length * draw.normal(1, 0.03, steps)
    pays = draw.normal(draw.uniform(-0.3, 0.4), 0.1, steps)
    follows = accuracy if draw.random() < 0.5 else progress
    learned = draw.uniform(0.5, 2) * follows + draw.normal(0, 0.1, steps)
    gap = 10 ** draw.uniform(-7, -2) * draw.lognormal(0, 0.3, steps)
    clipped = draw.uniform(0, 0.05) * draw.uniform(0, 2, steps)
    repeated = draw.uniform(0, 0.03) * draw.uniform(0, 2, steps)
    columns = {
        "reward": accuracy + 0.1 * formed,
        "accuracy": accuracy,
        "format": formed,
        "informative": informative,
        "truncated": cut,
        "entropy": entropy,
        "kl": kl,
        "length": length,
        "length_reward": pays,
        "reward/learned": learned,
        "sampler_gap": gap,
        "clipped": clipped,
        "repeated": repeated,
        "grad_norm": draw.lognormal(-1, 0.5, steps),
    }
    still = {"failed": 0.0, "abstained": 0.0, "skipped_updates": 0.0, "stage": "grpo", "steps": steps}
    return [
        {"step": step + 1, **still, **{name: float(column[step]) for name, column in columns.items()}}
        for step in range(steps)
    ]


def _logit(share: Any) -> Any:
    return np.log(share / (1 - share))
