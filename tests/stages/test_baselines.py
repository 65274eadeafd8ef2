"""What completions are held against beyond their group: the step (REINFORCE++), a greedy one (ReMax)."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from micro import MICRO, lines, merged

from rewards import RubricScore
from rlreason.config import RunConfig
from rlreason.stages.collect import Sample, greedy_of
from rlreason.stages.grpo import GroupRelative
from rlreason.types import Rollout

Train = Callable[..., Path]


def method(**grpo: Any) -> GroupRelative:
    return GroupRelative(RunConfig.model_validate(merged(MICRO, {"stage": "grpo", "grpo": grpo})))


def sample(group: int, reward: float | None, greedy: Sample | None = None, tokens: int = 1) -> Sample:
    prompt: Any = None
    rollout = Rollout([1], [5] * tokens, [0.0] * tokens, "stop")
    return Sample(group, prompt, rollout, "", RubricScore(reward, {}), reward, greedy=greedy)


def advantages(method: GroupRelative, samples: list[Sample], kl: list[list[float]]) -> dict[str, Any]:
    by_sample = {id(s): torch.tensor(row) for s, row in zip(samples, kl, strict=True)}

    def penalize_kl(samples: list[Sample]) -> None:  # with a weight of 1
        for one in samples:
            one.reward = None if one.reward is None else one.reward - float(by_sample[id(one)].sum())

    updater = SimpleNamespace(penalize_kl=penalize_kl, token_kl=lambda samples: by_sample)
    setup: Any = SimpleNamespace(updater=updater)
    return method.advantage(setup, samples)


def test_a_group_whose_greedy_completion_abstains_is_left_out_and_counted() -> None:
    greedy = [sample(0, 1.0), sample(1, None), sample(2, 0.5)]
    samples = [sample(0, 0.25, greedy[0]), sample(1, 1.0, greedy[1]), sample(2, 0.5, greedy[2])]
    remax = method(baseline="greedy", group_size=1)
    found = advantages(remax, samples, [[0.0]] * 3)
    assert [s.advantage for s in samples] == [-0.75, 0.0, 0.0]
    assert found == {"greedy_reward": 0.75, "without_baseline": 1.0}
    assert remax.signal(samples) == pytest.approx(1 / 3)
    assert remax.informative(samples) == [True, False, False]


def test_kl_from_each_token_on_and_who_has_no_part_in_it() -> None:
    # KL 0.5 + 0.25 is ahead of the first token, 0.25 of the second; the weight is 2
    greedy = [sample(0, 1.0), sample(1, None)]
    samples = [sample(0, 3.0, greedy[0], 2), sample(0, None, greedy[0]), sample(1, 1.0, greedy[1])]
    remax = method(baseline="greedy", group_size=1, kl={"coef": 2.0, "where": "tokens"})
    advantages(remax, samples, [[0.5, 0.25], [1.0], [1.0]])
    first, *others = samples
    assert first.token_advantages is not None
    assert first.token_advantages.tolist() == [2 - 1.5, 2 - 0.5]
    assert first.advantage == 1.0
    assert [(s.token_advantages, s.advantage) for s in others] == [(None, 0.0)] * 2


@pytest.mark.parametrize("where", ["tokens", "reward"])
@pytest.mark.parametrize("rewards", [[1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
def test_a_step_in_vain_is_told_also_where_kl_is_taken_from_rewards(where: str, rewards: list[float]) -> None:
    samples = [sample(place // 2, reward) for place, reward in enumerate(rewards)]
    grpo = method(group_size=2, kl={"coef": 1.0, "where": where})
    advantages(grpo, samples, [[0.5], [0.25], [0.0], [0.125]])
    # group 0: 1 - 0.5 and 1 (or 0) - 0.25, by its rewards alike or not; group 1: 0 - 0 and 0 - 0.125
    assert grpo.signal(samples) == (0.0 if rewards[1] else 0.5)
    if where == "tokens":  # A_i - KL
        first = 0.0 if rewards[1] else 0.5
        assert [s.advantage for s in samples] == [first - 0.5, -first - 0.25, 0.0, -0.125]
    else:  # less the mean of the group: 0.5 and 0.75, or 0.5 and -0.25; 0 and -0.125
        half = -0.125 if rewards[1] else 0.375
        assert [s.advantage for s in samples] == [half, -half, 0.0625, -0.0625]


def test_greedy_completions_count_as_sampled_and_as_nothing_else(train: Train) -> None:
    run = train(
        stage=["sft", "grpo"],
        rewards={"random": 1.0},
        grpo={"steps": 2, "baseline": "greedy", "group_size": 2},
    )
    steps = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    samples = lines(run / "samples.jsonl")
    assert len(samples) == 2 * 4 * 2  # steps x prompts x completions
    for line in steps:
        here = [s for s in samples if s["step"] == line["step"]]
        assert line["reward"] == pytest.approx(sum(s["reward"] for s in here) / 8)
        assert line["greedy_reward"] == pytest.approx(
            sum({s["group"]: s["greedy_reward"] for s in here}.values()) / 4
        )
        assert line["without_baseline"] == 0
        sampled = sum(s["tokens"] for s in here)
        assert sampled + 4 <= line["tokens"] <= sampled + 4 * 12  # four more, of 1 to 12 tokens
        assert all(s["advantage"] == s["reward"] - s["greedy_reward"] for s in here)


def test_each_greedy_completion_is_named_once() -> None:
    one = sample(0, 1.0)
    assert greedy_of([sample(0, 0.0, one), sample(0, 1.0, one), sample(1, 0.0)]) == [one]


@pytest.mark.parametrize(
    "grpo",
    [
        pytest.param(
            {"baseline": "batch", "advantage_scale": "batch", "group_size": 1, "prompts_per_step": 32},
            marks=pytest.mark.slow,
        ),
        {"baseline": "greedy", "group_size": 1, "prompts_per_step": 32},
    ],
    ids=["reinforce++", "remax"],
)
def test_it_learns_what_is_rewarded_from_one_completion_a_question(
    train: Train, tmp_path: Path, grpo: dict[str, Any]
) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "def four(completions, **columns):\n    return [float('4' in c) for c in completions]\n"
    )
    run = train(rewards={f"{source}:four": 1.0}, grpo={"steps": 20, "optim": {"lr": 5e-3}, **grpo})
    values = [line["reward"] for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert sum(values[-5:]) / 5 - sum(values[:5]) / 5 > 0.4
