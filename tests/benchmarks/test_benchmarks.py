"""The benchmarks of a step: what they refuse, its config, and whole runs on a micro model (slow)."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpo_step
import memory
import profile_step
import pytest
import rollout
import scaling
import sft_step
from harness import Bench, SideFailed, parse, parser

BENCHMARKS = Path(grpo_step.__file__).parent


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        (grpo_step, ["--trl-batch", "16"], "'16' is not of the form 16x4"),
        (grpo_step, ["--trl-batch", "16x2"], "a step has 8 x 8 = 64 completions"),
        (grpo_step, ["--group-size", "1"], "--group-size 1: a group of one has no advantage"),
        (grpo_step, ["--prompts", "3"], "24 completions are no whole passes of 16"),
        (memory, ["--trl-batch", "16x4", "32x2"], "memory is measured of one"),
        (rollout, ["--sequences", "60"], "--sequences 60: no multiple of --group-size 8"),
        (rollout, ["--sides", "sglang"], "invalid choice: 'sglang'"),
        (scaling, ["--lengths", "2"], "give 3 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    script: Any,
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [script.__name__, *arguments])
    with pytest.raises(SystemExit):
        script.main()
    assert said in capsys.readouterr().err


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "folder": str(tmp_path),
        "own_folder": str(tmp_path),
        "reward": f"{BENCHMARKS / 'harness.py'}:spread",
        "device": "cpu",
        "dtype": "bfloat16",
        "threads": None,
        "prompts": 8,
        "group_size": 8,
        "prompt_tokens": 55,
        "new_tokens": 56,
        "ours": [],
        **changes,
    }


def test_our_step_is_a_valid_config_with_overrides(tmp_path: Path) -> None:
    config = grpo_step.load_config(settings(tmp_path, ours=["grpo.micro_batch_tokens=4096"]))
    assert (config.grpo.prompts_per_step, config.grpo.group_size) == (8, 8)
    assert config.grpo.micro_batch_tokens == 4096
    assert (config.rollout.max_new_tokens, config.rollout.temperature) == (56, 1.0)
    assert (config.model.precision, config.rollout.precision) == ("bfloat16", "bfloat16")


def test_trl_gets_the_same_workload_and_what_is_asked_for(tmp_path: Path) -> None:
    asked = settings(tmp_path, trl_batch=[16, 4], trl=[["gradient_checkpointing", True]])
    found = grpo_step.trl_options(asked)
    assert found["per_device_train_batch_size"] * found["gradient_accumulation_steps"] == 64
    assert (found["num_generations"], found["max_completion_length"], found["bf16"]) == (8, 56, True)
    assert found["gradient_checkpointing"] is True


def test_sides_that_did_other_work_are_not_compared() -> None:
    options = parse(parser("", new_tokens=4), ["--prompts", "2", "--group-size", "3"])
    bench = Bench(options, "grpo_step.py", new_tokens=4)
    grpo_step.check_results(bench, "TRL", [{"tokens": 24}])
    with pytest.raises(SideFailed, match="23 tokens of 24"):
        grpo_step.check_results(bench, "TRL", [{"tokens": 23}])
    with pytest.raises(SideFailed, match="did not do the same work"):
        grpo_step.check_results(bench, "ours", [{"tokens": 24, "informative": 0.5}])


def test_cold_starts_of_another_loss_or_size_are_not_compared() -> None:
    def took(**changes: Any) -> list[dict[str, Any]]:
        return [{"seconds": 1.0, "tokens": 24, "loss": 2.0, **changes}]

    sft_step.check_results({"ours": took(), "TRL": took(loss=2.001)}, within=1e-3)
    for other in (took(tokens=23), took(loss=2.01)):
        with pytest.raises(SideFailed, match="did not do the same work"):
            sft_step.check_results({"ours": took(), "TRL": other}, within=1e-3)


def test_a_peak_is_shown_also_where_the_other_side_failed() -> None:
    def took(step: float | None, process: float) -> dict[str, Any]:
        return {"memory": {"step": step, "process": process}}

    both = {"ours": [took(1e9, 2e9), took(3e9, 4e9)], "TRL": [took(4e9, 4e9), took(4e9, 6e9)]}
    found = {"length": 56, "rounds": both, "failed": {}}
    every = "ours 1.00 3.00, TRL 4.00 4.00"
    assert memory.row(found, "cpu") == ["56", "2.00", "4.00", "0.50", "3.00", "5.00", "0.60", every]
    alone = {"length": 56, "rounds": {"ours": [took(None, 2e9)]}, "failed": {"TRL": "killed"}}
    assert memory.row(alone, "cpu") == ["56", "2.00", "failed", "-", "2.00", "failed", "-", "ours 2.00"]


def test_the_cases_of_scaling_meet_in_the_middle() -> None:
    made = parser("", new_tokens=64)
    options = parse(made, [])
    options.groups, options.lengths, options.prompt_counts = [2, 64], [256], [8, 1]
    middle, sweeps = scaling.cases_of(options)
    assert middle == (8, 8, 64)
    assert list(sweeps.values()) == [
        [(8, 2, 64), (8, 8, 64), (8, 64, 64)],
        [(8, 8, 64), (8, 8, 256)],
        [(1, 8, 64), (8, 8, 64)],
    ]


def test_limits_of_decoding_count_every_wave() -> None:
    made = parser("", new_tokens=64)
    made.set_defaults(dtype="float32")
    bench = Bench(parse(made, []), "scaling.py", new_tokens=3)
    bench.facts = {
        "model": {"body": 10, "head": 4, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 3},
        "roofline": {"float32": 2.0, "bandwidth": 4.0},
        "prompt_tokens": [3, 5],
    }
    found = scaling.limits(bench, (2, 3, 4), at_once=4)
    # The last two tokens of six sequences: (2 * 14 * 12 + 24 * 12 * (5 + 1)) operations, two a second.
    assert found["arithmetic"] == (336 + 1728) / 2
    # Waves of four and two, of 4 / 3 prompts and one: weights 4 * 14 * 2 each, a position 4 * 2 * 3 = 24.
    # 2 * (4 / 3 * 5 + 4) and 2 * (5 + 2) of them; four bytes a second.
    assert found["bandwidth"] == pytest.approx((2 * 112 + 24 * (64 / 3 + 14)) / 4)


def test_a_part_is_what_is_not_in_a_part_within(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def work(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(profile_step, "synchronized", lambda device: now)
    clock = profile_step.PartClock("cpu")
    inner = {"product": lambda: work(2.0)}
    clock.wrap(inner, "product", "layers")

    def outer() -> None:
        work(1.0)
        inner["product"]()
        work(4.0)

    sampled, updated = (clock.timed(outer, "rest", phase) for phase in ("sample", "update"))
    work(64.0)  # before the step
    clock.reset()
    work(8.0)
    sampled()
    updated()
    inner["product"]()  # in no phase: a part that has no row of its own
    clock.book()
    assert clock.seconds == {
        ("other", "rest"): 8.0 + 2.0,
        ("sample", "rest"): 5.0,
        ("sample", "layers"): 2.0,
        ("update", "rest"): 5.0,
        ("update", "layers"): 2.0,
    }


SMALL = ["--random-config", "micro", "--dtype", "float32", "--threads", "1", "--group-size", "4"]
RUNS = {
    "grpo_step": ["--rounds", "2", "--prompts", "4", "--new-tokens", "8", "--trl-batch", "8x2", "16x1"],
    "memory": ["--prompts", "2", "--lengths", "4"],
    "profile_step": ["--rounds", "2", "--prompts", "4", "--new-tokens", "8"],
    "rollout": ["--rounds", "2", "--sequences", "8", "16", "--new-tokens", "8"],
    "sft_step": ["--rounds", "2", "--prompts", "4", "--new-tokens", "8"],
    "scaling": ["--rounds", "2", "--groups", "2", "8", "--lengths", "4", "--new-tokens", "3"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_whole_run_prints_what_it_found_and_writes_json(name: str, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *SMALL, *RUNS[name], "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("RATIO" in done.stdout) == (name != "profile_step")
    found = json.loads(path.read_text())
    assert found["benchmark"] == name
    if name == "grpo_step":
        assert found["compared"]["ratio"] > 0
        assert found["trials"].keys() == {"8x2", "16x1"}
        assert [len(rounds) for rounds in found["rounds"].values()] == [2, 2]
    elif name == "sft_step":
        (ours, _), (theirs, _) = found["rounds"].values()
        assert ours["tokens"] == theirs["tokens"] > 4 * 8
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    elif name == "memory":
        assert found["lengths"][0]["process"]["ours"] > 1e8
    elif name == "profile_step":
        for side, rounds in found["rounds"].items():
            parts, whole = found["where"][side], [one["seconds"] for one in rounds]
            assert sum(parts.values()) == pytest.approx(sum(whole) / len(whole), rel=0.05)
            assert min(parts["sample / layers"], parts["update / backward"]) > 0
    elif name == "rollout":
        assert {"generate", "engine", "continuous"} <= found["sizes"][1]["compared"].keys()
        assert not found["sizes"][1]["failed"]
    else:
        by_case = {str(list(one["case"].values())): one["token_ratio"] for one in found["cases"]}
        assert by_case["[8, 4, 3]"] == 1.0
