"""Learning from the completions of a question whose rewards vary most, and leaving the others out (PODS)."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from micro import MICRO, lines, merged

from rewards import RubricScore, Score
from rlreason.config import RunConfig
from rlreason.stages.collect import Sample
from rlreason.stages.grpo import GroupRelative
from rlreason.types import Rollout

Train = Callable[..., Path]


def method(**grpo: Any) -> GroupRelative:
    rewards = {"accuracy": 1.0, "think_format": 1.0}
    changes = {"stage": "grpo", "grpo": grpo, "rewards": rewards}
    return GroupRelative(RunConfig.model_validate(merged(MICRO, changes)))


def sample(group: int, accuracy: float | None, form: float = 0.0) -> Sample:
    prompt: Any = None
    reward = None if accuracy is None else accuracy + form
    parts = {"accuracy": Score(accuracy, ""), "think_format": Score(form, "")}
    counted = {"accuracy": accuracy, "think_format": form}
    return Sample(
        group, prompt, Rollout([1], [5], [0.0], "stop"), "", RubricScore(reward, parts, counted), reward
    )


def test_advantages_are_held_against_those_chosen_alone() -> None:
    samples = [sample(0, value) for value in (1.0, 0.0, 0.0, 0.5, 0.25, 0.0)]
    samples += [sample(1, value) for value in (0.0, None, 0.5)]
    grpo = method(group_size=6, down_sample=3)
    learned = grpo.select(samples)
    # group 0: two of the lowest and the highest, of mean 1/3; group 1 is smaller than its 3 and whole
    assert [s.reward for s in learned] == [1.0, 0.0, 0.0, 0.0, None, 0.5]
    assert [s.learned for s in samples] == [True, True, True, False, False, False, True, True, True]
    grpo.advantage(SimpleNamespace(), learned)  # type: ignore[arg-type]
    assert [s.advantage for s in learned] == pytest.approx([2 / 3, -1 / 3, -1 / 3, -0.25, 0.0, 0.25])
    assert grpo.signal(samples) == 1.0


def test_a_run_learns_from_those_chosen_and_records_all(train: Train) -> None:
    run = train(
        stage=["sft", "grpo"],
        rewards={"random": 1.0},
        grpo={"steps": 2, "group_size": 4, "down_sample": 2},
    )
    samples = lines(run / "samples.jsonl")
    steps = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert len(samples) == 2 * 4 * 4  # steps x prompts x completions
    for line in steps:
        here = [s for s in samples if s["step"] == line["step"]]
        assert line["reward"] == pytest.approx(sum(s["reward"] for s in here) / 16)
        assert line["tokens"] == sum(s["tokens"] for s in here)
        for group in range(4):
            rewards = {place: s["reward"] for place, s in enumerate(here) if s["group"] == group}
            taught = [place for place in rewards if here[place]["advantage"] is not None]
            # a right and a wrong one, or two alike
            low, high = min(rewards.values()), max(rewards.values())
            assert sorted(rewards[place] for place in taught) == [low, high]
            half = (high - low) / 2
            assert sorted(here[place]["advantage"] for place in taught) == pytest.approx([-half, half])


def test_the_loss_is_divided_by_those_chosen(train: Train) -> None:
    """In the first pass the ratio is 1, so that the loss is minus the sum of advantages over R x L."""
    run = train(
        stage=["sft", "grpo"],
        grpo={"steps": 1, "group_size": 4, "down_sample": 2, "sampler_correction": None},
    )
    (line,) = (line for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo")
    learned = [one for one in lines(run / "samples.jsonl") if one["advantage"] is not None]
    assert len(learned) == 8
    assert line["informative"] > 0
    expected = -sum(one["advantage"] * one["tokens"] for one in learned) / (8 * 12)
    assert expected != 0
    assert line["loss"] == pytest.approx(expected, rel=1e-4)
