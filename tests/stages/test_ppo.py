"""PPO: advantages by hand, what the critic's warm-up leaves alone, and what a run records."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from micro import MICRO, lines, merged
from safetensors.torch import load_file
from torch import Tensor

from rewards import RubricScore
from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.stages.collect import Sample
from rlreason.stages.ppo import CriticBased
from rlreason.types import Rollout

Train = Callable[..., Path]


def config(**ppo: Any) -> RunConfig:
    settings = {"whiten_advantages": False, "gae_lambda": 1.0, **ppo}
    return RunConfig.model_validate(merged(MICRO, {"stage": "ppo", "ppo": settings}))


def sample(reward: float | None, tokens: int, *, truncated: bool = False) -> Sample:
    rollout = Rollout([1], [5] * tokens, [0.0] * tokens, "length" if truncated else "stop")
    prompt: Any = None
    return Sample(0, prompt, rollout, "", RubricScore(reward, {}), reward)


class FakeUpdater:
    """Values and log-probs by hand; the reference's log-probs are 0, so that k1 is the policy's."""

    def __init__(self, values: dict[int, Tensor], logprobs: dict[int, Tensor]) -> None:
        self.values = lambda samples: values
        self.logprobs = lambda samples: logprobs
        self.reference_logprobs = lambda samples: {
            key: torch.zeros_like(row) for key, row in logprobs.items()
        }


def advantages(method: CriticBased, samples: list[Sample], values: Any, logprobs: Any) -> dict[str, Any]:
    rows = [
        {id(s): torch.tensor(row) for s, row in zip(samples, given, strict=True) if row is not None}
        for given in (values, logprobs)
    ]
    setup: Any = SimpleNamespace(updater=FakeUpdater(*rows))
    return method.advantage(setup, samples)


def test_advantages_by_hand() -> None:
    """Row 1: rewards -0.05, 1 + 0.05; row 2: 0 - 0.25 for being cut off - 0.1. Lambda 1: the rest less V."""
    method = CriticBased(config(truncation_penalty=0.25, kl={"coef": 0.5}))
    samples = [sample(1.0, 2), sample(0.0, 1, truncated=True)]
    found = advantages(method, samples, [[0.5, 0.25], [0.5]], [[0.1, -0.1], [0.2]])
    first = samples[0].tokens
    one, two = samples[0].token_advantages, samples[1].token_advantages
    assert first is not None
    assert one is not None
    assert two is not None
    assert one.tolist() == pytest.approx([0.5, 0.8])
    assert first.returns.tolist() == pytest.approx([1.0, 1.05])
    assert first.values.tolist() == [0.5, 0.25]
    assert two.tolist() == pytest.approx([-0.85])
    assert samples[0].advantage == pytest.approx(0.65)
    assert found["kl"] == pytest.approx(0.2 / 3)
    assert found["kl_completion"] == pytest.approx(0.1)
    assert found["value"] == pytest.approx(1.25 / 3)
    assert found["kl_coef"] == 0.5


def test_the_coefficient_adapts_and_comes_back_in_a_resumed_run() -> None:
    """KL 0.1 is above the target: a fifth up over a horizon of 16, of which this is 2."""
    settings = config(kl={"coef": 0.5, "target": 0.05, "horizon": 16})
    method = CriticBased(settings)
    advantages(method, [sample(1.0, 2), sample(0.0, 1)], [[0.5, 0.25], [0.5]], [[0.1, -0.1], [0.2]])
    assert method.state() == {"kl_coef": pytest.approx(0.5125)}
    resumed = CriticBased(settings)
    resumed.restore(method.state())
    assert resumed.state() == method.state()


def test_advantages_are_whitened_over_the_tokens_of_the_step() -> None:
    method = CriticBased(config(whiten_advantages=True, kl={"coef": 0.0}))
    samples = [sample(1.0, 2), sample(0.0, 1)]
    advantages(method, samples, [[0.0, 0.0], [0.0]], [None, None])
    flat = torch.cat([s.token_advantages for s in samples if s.token_advantages is not None])
    assert float(flat.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(flat.std()) == pytest.approx(1.0, abs=1e-4)


def test_rewards_are_scaled_and_keep_their_mean() -> None:
    """1 and 0 have mean 0.5 and deviation sqrt(0.5): 0.5 +- 0.5 / sqrt(0.5)."""
    method = CriticBased(config(whiten_rewards=True, kl={"coef": 0.0}))
    samples = [sample(1.0, 1), sample(0.0, 1)]
    advantages(method, samples, [[0.0], [0.0]], [None, None])
    assert [s.advantage for s in samples] == pytest.approx([1.207107, -0.207107], abs=1e-5)


def test_an_abstention_has_no_part() -> None:
    method = CriticBased(config(kl={"coef": 0.0}))
    samples = [sample(None, 2), sample(1.0, 1)]
    advantages(method, samples, [None, [0.5]], [None, None])
    assert samples[0].tokens is None
    assert samples[0].advantage == 0.0
    assert samples[1].advantage == pytest.approx(0.5)
    assert advantages(method, [sample(None, 2)], [None], [None]) == {"kl_coef": 0.0}


def test_being_cut_off_is_a_signal_where_it_costs() -> None:
    samples = [sample(0.0, 2), sample(0.0, 2, truncated=True)]
    assert CriticBased(config()).signal(samples) == 0.0
    assert CriticBased(config(truncation_penalty=0.25)).signal(samples) == 1.0


@pytest.mark.parametrize(
    ("rewards", "signal"), [([1.0, 0.0], 1.0), ([1.0, 1.0], 0.0), ([None, 1.0], 0.0), ([None, None], 0.0)]
)
def test_a_step_of_equal_rewards_is_in_vain(rewards: list[float | None], signal: float) -> None:
    assert CriticBased(config()).signal([sample(reward, 1) for reward in rewards]) == signal


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def test_the_warm_up_trains_the_critic_alone(train: Train) -> None:
    run = train(
        stage=["sft", "ppo"],
        ppo={"critic": {"warmup_steps": 2}, "epochs": 2},
        log={"checkpoint_every": 2, "keep_checkpoints": 9},
    )
    start, warm, end = (run / "checkpoints" / name for name in ("sft", "step-000002", "step-000004"))
    before, after, last = weights(start), weights(warm), weights(end)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(before[name], last[name]) for name in before)
    critic = load_file(warm / "trainer" / "beside.safetensors")
    assert critic["critic.head.weight"].abs().sum() > 0
    steps = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "ppo"]
    assert [line["grad_norm"] is None for line in steps] == [True, True, False, False]


@pytest.mark.parametrize("kind", ["separate", "shared"])
def test_what_a_run_records(train: Train, kind: str) -> None:
    run = train(stage=["sft", "ppo"], ppo={"critic": {"kind": kind}})
    for line in (line for line in lines(run / "metrics.jsonl") if line["stage"] == "ppo"):
        assert line["value_loss"] >= 0
        assert line["critic_grad_norm"] > 0
        assert 0 <= line["value_clipped"] <= 1
        assert line["ratio_first_pass"] < 1e-5
        assert line["kl_coef"] == 0.05
        assert {"value", "return", "explained_variance", "kl", "kl_completion"} <= line.keys()
    first = lines(run / "metrics.jsonl")[-4]
    assert (first["step"], first["value"]) == (1, 0.0)


def test_prompts_of_a_step_may_have_one_completion_each(train: Train) -> None:
    run = train(stage=["sft", "ppo"], ppo={"group_size": 1, "prompts_per_step": 8, "minibatches": 2})
    assert len([line for line in lines(run / "samples.jsonl") if line["step"] == 1]) == 8


@pytest.mark.parametrize("kind", ["critic", "reference"])
def test_what_is_missing_is_refused_before_any_training(train: Train, tmp_path: Path, kind: str) -> None:
    place = {"critic": {"start": "/nowhere"}} if kind == "critic" else {"kl": {"reference": "/nowhere"}}
    name = "critic.start" if kind == "critic" else "kl.reference"
    with pytest.raises(UserError, match=rf"ppo\.{name}: there is no model at '/nowhere'"):
        train(stage=["sft", "ppo"], ppo=place)
    assert not (tmp_path / "runs").exists()


def test_a_critic_that_reads_less_than_the_policy_is_refused(train: Train) -> None:
    short = train(name="short", stage="sft", model={"scratch": {"max_positions": 172}})
    base = train(name="base", stage="sft")
    config = short / "model" / "config.json"
    config.write_text(config.read_text().replace("172", "24"))
    with pytest.raises(UserError, match="and the critic has 24 positions"):
        train(
            stage="ppo",
            model={"scratch": None, "path": str(base / "model")},
            ppo={"critic": {"start": str(short / "model")}},
        )


def test_a_critic_of_other_tokens_is_refused_before_the_first_step(train: Train, tmp_path: Path) -> None:
    other = train(name="other", stage="sft", task={"name": "leg_counting", "params": ...})
    with pytest.raises(UserError, match=r"ppo\.critic\.start: .* reads other tokens than the policy"):
        train(name="this", stage=["sft", "ppo"], ppo={"critic": {"start": str(other / "model")}})
    assert not [
        line for line in lines(tmp_path / "runs" / "this" / "metrics.jsonl") if line["stage"] == "ppo"
    ]
