"""A whole run, start to end: what it leaves behind, that it repeats, that it goes on."""

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import lines, without_clocks
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlreason.config import load
from rlreason.errors import UserError
from rlreason.policy.packing import Packed, pack
from rlreason.rollout.native import NativeEngine
from rlreason.stages import policies, update
from rlreason.stages.update import Updater

Train = Callable[..., Path]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same_weights(one: Path, other: Path) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_run_directory_holds_all_there_is_to_know(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    run = train()
    assert load(run / "config.yaml", []).name == "micro"
    grpo = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert [line["step"] for line in grpo] == [1, 2, 3, 4]
    samples = lines(run / "samples.jsonl")
    assert len(samples) == 4 * 4 * 4  # steps x prompts x completions
    assert {"question", "answer", "text", "reward", "advantage", "scores", "tokens"} <= samples[0].keys()
    assert samples[0]["scores"]["random"].keys() == {"value", "reason", "failed"}
    evaluation = json.loads((run / "eval.json").read_text())
    for part, number in (("before", "accuracy"), ("after", "accuracy"), ("gain", "value")):
        low, high = evaluation[part]["ci95"]
        assert low <= evaluation[part][number] <= high
        assert evaluation[part]["n"] == 6
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["sft", "step-000002", "step-000004"]
    last = capsys.readouterr().out.strip().splitlines()[-3:]
    assert last[0].startswith("held-out accuracy before GRPO")
    assert last[1].startswith("held-out accuracy after GRPO")
    assert last[2].startswith("gain: ")


def test_final_model_loads_with_its_chat_template(train: Train) -> None:
    run = train()
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "1 + 1 ="}], tokenize=False)
    assert "1 + 1 =" in text
    assert model.config.vocab_size == len(tokenizer)


def test_held_out_questions_are_never_trained_on(train: Train) -> None:
    run = train()
    asked = {sample["question"] for sample in lines(run / "samples.jsonl")}
    measured = json.loads((run / "evaluations/after/completions.json").read_text())
    assert asked.isdisjoint({record["question"] for record in measured["completions"]})


def test_same_seed_gives_the_same_metrics_but_for_times(train: Train) -> None:
    one, two = train(name="one"), train(name="two")
    assert without_clocks(one / "metrics.jsonl") == without_clocks(two / "metrics.jsonl")
    assert lines(one / "samples.jsonl") == lines(two / "samples.jsonl")
    assert same_weights(one, two)


def test_another_seed_gives_another_run(train: Train) -> None:
    one, two = train(name="one"), train(name="two", seed=1)
    assert lines(one / "samples.jsonl") != lines(two / "samples.jsonl")


@pytest.mark.parametrize(
    ("stage", "section"),
    [
        ("grpo", {}),
        ("grpo", {"baseline": "greedy", "group_size": 1, "kl": {"coef": 0.1, "where": "tokens"}}),
        ("ppo", {"kl": {"coef": 0.1, "target": 0.01, "horizon": 64}, "critic": {"warmup_steps": 1}}),
        ("ppo", {"critic": {"kind": "shared"}}),
    ],
)
def test_steps_straight_equal_steps_with_a_resume_between(
    train: Train, monkeypatch: pytest.MonkeyPatch, stage: str, section: dict[str, Any]
) -> None:
    """Killed after step 3, one step past the last checkpoint; two epochs of two minibatches a step."""
    settings: dict[str, Any] = {
        "stage": ["sft", stage],
        stage: {"epochs": 2, "minibatches": 2, **section},
    }
    straight = train(name="straight", **settings)
    from rlreason.stages import loop

    whole = loop.record

    def record_then_die(context: Any, setup: Any, *rest: Any) -> None:
        whole(context, setup, *rest)
        if setup.step == 3:
            raise SystemExit("killed")

    monkeypatch.setattr(loop, "record", record_then_die)
    with pytest.raises(SystemExit):
        train(name="cut", **settings)
    monkeypatch.setattr(loop, "record", whole)
    resumed = train(name="cut", **settings)
    assert without_clocks(straight / "metrics.jsonl") == without_clocks(resumed / "metrics.jsonl")
    assert lines(straight / "samples.jsonl") == lines(resumed / "samples.jsonl")
    assert same_weights(straight, resumed)


def test_finished_run_is_refused_and_left_as_it_was(train: Train) -> None:
    run = train()
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="name"):
        train()
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_another_config_does_not_go_on_with_a_run(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlreason.stages import loop

    def stop(*_: Any) -> None:
        raise SystemExit

    monkeypatch.setattr(loop, "sample_and_score", stop)
    with pytest.raises(SystemExit):
        train()
    with pytest.raises(UserError, match=r"grpo\.group_size"):
        train(grpo={"group_size": 8})


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "grpo", "advantage_scale": "group"},
        {"loss": "dapo", "clip_high": 0.28, "dynamic_sampling": 2},
        {"loss": "bnpo", "baseline": "leave_one_out"},
        {"loss": "cispo", "clip_high": 4.0},
        {"loss": "grpo", "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
        {"dual_clip": 3.0, "epochs": 2},
        {"kl": {"coef": 0.1}},
        {"kl": {"coef": 0.1, "where": "reward", "estimator": "k1"}},
        {"kl": {"coef": 0.1, "where": "tokens", "estimator": "k1"}, "advantage_scale": "batch", "epochs": 2},
        {"baseline": "batch", "advantage_scale": "batch", "group_size": 1},
        {"baseline": "greedy", "group_size": 2, "dynamic_sampling": 1},
        {"down_sample": 2, "dynamic_sampling": 1},
        {"mask_truncated": True},
        {"overlong_buffer": 6},
        {"advantage_scale": "batch", "minibatches": 2},
        {"share_prompt": False, "sampler_correction": None},
        {"micro_batch_tokens": 64},
    ],
    ids=lambda settings: ",".join(f"{key}={value}" for key, value in settings.items()),
)
def test_every_option_runs_and_changes_the_weights(train: Train, settings: dict[str, Any]) -> None:
    run = train(grpo={"steps": 2, **settings})
    steps = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert all(math.isfinite(line["loss"]) for line in steps)
    assert max(line["grad_norm"] or 0.0 for line in steps) > 0
    start = load_file(run / "checkpoints" / "sft" / "model.safetensors")
    assert any(not torch.equal(start[name], tensor) for name, tensor in weights(run).items())


@pytest.mark.parametrize("system", [None, "Add up what you are told to add up. Then say what comes out."])
def test_micro_batches_and_prompt_sharing_change_no_result(
    train: Train, system: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One step, so that rounding has no second step to grow in; float32 sums differ in their order."""
    packs: list[Packed] = []

    def recorded(*args: Any, **options: Any) -> list[Packed]:
        made = pack(*args, **options)
        packs.extend(made)
        return made

    monkeypatch.setattr(update, "pack", recorded)
    prompt = {"system": system}
    one = train(name="one", prompt=prompt, grpo={"steps": 1})
    groups = [batch.blocks.prompt_GP.shape[0] for batch in packs if batch.blocks is not None]
    rows = [batch.ids_NW.shape[0] for batch in packs if batch.blocks is not None]
    assert groups
    assert (groups != rows) == (system is not None)  # behind a system prompt a row holds several groups
    changes = {"steps": 1, "micro_batch_tokens": 64, "share_prompt": False}
    two = train(name="two", prompt=prompt, grpo=changes)
    a, b = weights(one), weights(two)
    start = load_file(one / "checkpoints" / "sft" / "model.safetensors")
    step_a = torch.cat([(a[name] - start[name]).flatten() for name in sorted(a)])
    step_b = torch.cat([(b[name] - start[name]).flatten() for name in sorted(a)])
    assert torch.cosine_similarity(step_a, step_b, dim=0) > 0.999


@pytest.mark.parametrize("stage", ["grpo", "ppo"])
def test_without_a_reference_only_its_divergence_is_missing(
    train: Train, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(line: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in line.items() if name != "kl"}

    loaded: list[str] = []
    load = policies.load_policy
    monkeypatch.setattr(policies, "load_policy", lambda *a, **b: loaded.append(stage) or load(*a, **b))
    one = train(name="one", stage=["sft", stage], **{stage: {"kl": {"coef": 0}}})
    with_reference = len(loaded)
    two = train(name="two", stage=["sft", stage], **{stage: {"kl": {"coef": 0, "reference": "none"}}})
    measured, bare = (
        [line for line in without_clocks(run / "metrics.jsonl") if line["stage"] == stage]
        for run in (one, two)
    )
    assert len(loaded) - with_reference == with_reference - 1
    assert all(line["kl"] is not None for line in measured)
    assert [line["kl"] for line in bare] == [None] * len(bare)
    assert [other(line) for line in bare] == [other(line) for line in measured]
    assert same_weights(one, two)


def test_kl_is_that_of_the_policy_that_sampled_also_where_a_step_has_several_updates(train: Train) -> None:
    """In the first step that is the reference itself, however far the first update goes."""
    optim = {"lr": 0.1, "schedule": "constant", "warmup_steps": 0}
    run = train(grpo={"steps": 1, "minibatches": 2, "optim": optim, "kl": {"coef": 0}})
    (line,) = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert line["grad_norm"] > 0
    assert abs(line["kl"]) < 1e-6


def test_the_sampler_gives_its_weights_back_for_the_time_of_the_update(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def watch(owner: Any, name: str) -> None:
        own = getattr(owner, name)

        def tells(*arguments: Any) -> Any:
            told.append(name)
            return own(*arguments)

        monkeypatch.setattr(owner, name, tells)

    watch(NativeEngine, "release")
    watch(Updater, "update")
    watch(NativeEngine, "refresh")
    train(grpo={"steps": 2})
    assert told == ["release", "update", "refresh"] * 2


def test_ratio_is_one_and_sampler_agrees_on_the_first_pass(train: Train) -> None:
    run = train()
    for line in lines(run / "metrics.jsonl"):
        if line["stage"] == "grpo":
            assert line["ratio_first_pass"] == 0.0
            assert line["sampler_gap"] < 1e-4


def test_kl_is_reported_when_it_has_no_weight_and_starts_at_zero(train: Train) -> None:
    run = train()
    kl = [line["kl"] for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
    assert all(value is not None and math.isfinite(value) for value in kl)
    assert kl[-1] > 0  # the weights have moved


def test_random_rewards_leave_the_held_out_measure_at_accuracy(train: Train) -> None:
    run = train()
    step = next(line for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo")
    assert step["accuracy"] == 0.0  # an untrained model is never right
    assert 0.0 < step["reward"] < 1.0  # while the control pays


def test_stops_and_names_the_cause_when_nothing_can_be_learned(train: Train) -> None:
    with pytest.raises(UserError, match=r"stop_after_uninformative: 2 steps.*max_new_tokens|nothing can"):
        train(rewards="accuracy", grpo={"steps": 5, "stop_after_uninformative": 2})


def test_reward_of_a_user_and_of_trl_style_runs(train: Train, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "def batch(completions, answer, **kwargs):\n"
        "    return [None if i == 0 else float(len(c) % 2) for i, c in enumerate(completions)]\n"
    )
    run = train(rewards={f"{source}:batch": 1.0}, grpo={"steps": 2})
    samples = lines(run / "samples.jsonl")
    assert samples[0]["reward"] is None  # an abstention, kept apart from 0
    assert samples[0]["advantage"] == 0.0
    assert {sample["reward"] for sample in samples[1:16]} <= {0.0, 1.0}


def test_lora_trains_the_adapter_and_saves_a_plain_model(train: Train) -> None:
    base = train(name="base", stage="sft")
    run = train(
        name="lora",
        stage="grpo",
        model={"scratch": None, "path": str(base / "model"), "lora": {"rank": 2}},
        grpo={"kl": {"coef": 0.1, "reference": "adapter_off"}},
    )
    assert not (run / "model" / "adapter_config.json").exists()
    before, after = weights(base), weights(run)
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed
    assert all(re.search(r"_proj\.weight$", name) for name in changed)


def test_lora_resumes_to_the_same_weights(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    base = train(name="base", stage="sft")
    settings: dict[str, Any] = {
        "stage": "grpo",
        "model": {"scratch": None, "path": str(base / "model"), "lora": {"rank": 2}},
    }
    straight = train(name="straight", **settings)
    from rlreason.stages import loop

    whole = loop.sample_and_score

    def die_in_step_four(context: Any, setup: Any, step: int, clock: Any) -> Any:
        if step == 4:
            raise SystemExit
        return whole(context, setup, step, clock)

    monkeypatch.setattr(loop, "sample_and_score", die_in_step_four)
    with pytest.raises(SystemExit):
        train(name="cut", **settings)
    monkeypatch.setattr(loop, "sample_and_score", whole)
    assert same_weights(straight, train(name="cut", **settings))


def test_rewards_of_trl_run_in_the_loop(train: Train) -> None:
    run = train(rewards={"random": 1.0, "trl.rewards:think_format_reward": 0.5}, grpo={"steps": 1})
    samples = lines(run / "samples.jsonl")
    assert {s["scores"]["trl.rewards:think_format_reward"]["value"] for s in samples} == {0.0}


def test_loop_learns_what_is_rewarded_and_the_control_does_not(train: Train, tmp_path: Path) -> None:
    """From random weights: the share of one character in a completion, which no cold start has shown."""
    source = tmp_path / "mine.py"
    source.write_text(
        "def fours(completions, **columns):\n"
        "    return [c.count('4') / max(1, len(c)) for c in completions]\n"
    )
    grpo = {"steps": 30, "prompts_per_step": 4, "group_size": 8, "optim": {"lr": 5e-3}}
    paid = {f"{source}:fours": 1.0}
    learned = train(name="paid", rewards=paid, grpo=grpo)
    control = train(name="control", rewards={"random": 1.0, f"{source}:fours": 0.0}, grpo=grpo)
    for run, gain_at_least, gain_at_most in ((learned, 0.5, 1.0), (control, -0.1, 0.2)):
        key = f"reward/{source}:fours"
        values = [line[key] for line in lines(run / "metrics.jsonl") if line["stage"] == "grpo"]
        gain = sum(values[-5:]) / 5 - sum(values[:5]) / 5
        assert gain_at_least < gain < gain_at_most, (run.name, gain)


def test_gradient_that_is_not_finite_is_skipped_and_then_refused(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlreason.stages.update import Updater

    whole = Updater._loss
    broken = iter([False, True, False, False])

    def poisoned(self: Updater, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        loss, deviation = whole(self, *arguments)
        return loss * (math.nan if next(broken, True) else 1.0), deviation

    monkeypatch.setattr(Updater, "_loss", poisoned)
    with pytest.raises(UserError, match="4 optimizer steps in a row had a gradient that is not finite"):
        train(grpo={"steps": 12})
    metrics = lines(tmp_path / "runs" / "micro" / "metrics.jsonl")
    skipped = [line["skipped_updates"] for line in metrics if line["stage"] == "grpo"]
    assert skipped == [0, 1, 0, 0, 1, 1, 1]  # the fourth in a row ends the run before it is recorded
