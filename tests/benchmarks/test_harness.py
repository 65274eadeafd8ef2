"""What the benchmarks compute from what they measure, and how their sides take turns."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import hardware
import harness
import pytest

MODEL = {"body": 10, "head": 4, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 3}

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
from harness import run_side

def echo(settings, turns):
    print("chatter that must not reach the parent")
    turns.say(word=settings["word"])
    while (case := turns.wait()) is not None:
        if case["number"] < 0:
            sys.exit("below zero")
        turns.say(twice=2 * case["number"])

run_side({{"echo": echo}})
"""


def side(tmp_path: Path) -> harness.Side:
    script, settings = tmp_path / "script.py", tmp_path / "settings.json"
    script.write_text(SCRIPT.format(folder=str(Path(harness.__file__).parent)))
    settings.write_text(json.dumps({"word": "ready"}))
    return harness.Side("echo", [sys.executable, str(script), "--side", "echo", str(settings)], {})


def test_arithmetic_of_sampling_and_of_a_step() -> None:
    # matrices: 2 * 10 * (2 * 4 + 6 * 5) + 2 * 4 * (6 * 5) = 760 + 240 = 1000
    # pairs of positions: 2 * 4^2 / 2 + 6 * 5 * (4 + 5 / 2) = 16 + 195 = 211; each costs 4 * 1 * 2 * 3 = 24
    sizes = {"prompts": 2, "prompt_tokens": 4, "sequences": 6, "new_tokens": 5}
    assert hardware.sampling_flops(MODEL, **sizes) == 1000 + 24 * 211
    assert hardware.step_flops(MODEL, **sizes) == 4 * 6064


def test_bytes_of_decoding() -> None:
    # weights: 2 bytes * 14 * 5 tokens = 140
    # positions: 5 tokens * (2 prompts * 4 + 6 * 5 / 2 of their own) = 115
    # cache: 2 bytes * 2 (key, value) * 1 * 1 * 3 * 115 positions = 1380
    found = hardware.decode_bytes(MODEL, prompts=2, prompt_tokens=4, sequences=6, new_tokens=5, item=2)
    assert found == 140 + 1380


def test_ratio_is_of_the_medians() -> None:
    # medians 2 and 8, ratio 4; by rounds 8 / 1, 9 / 2, 3 / 3
    found = harness.compared([1.0, 2.0, 3.0], [8.0, 9.0, 3.0])
    assert found == {"ours": 2.0, "theirs": 8.0, "ratio": 4.0, "ratios": [8.0, 4.5, 1.0]}


def test_turns_alternate_and_a_failure_ends_one_side_only() -> None:
    calls: list[str] = []

    def ours() -> dict[str, Any]:
        calls.append("ours")
        return {"seconds": float(len(calls))}

    def theirs() -> dict[str, Any]:
        calls.append("theirs")
        if calls.count("theirs") == 2:
            raise harness.SideFailed("out of memory")
        return {"seconds": 0.0}

    results, failed = harness.by_turns({"ours": ours, "theirs": theirs}, 3, settle=0)
    assert calls == ["ours", "theirs", "theirs", "ours", "ours"]
    assert results == {"ours": [{"seconds": 1.0}, {"seconds": 4.0}, {"seconds": 5.0}]}
    assert failed == {"theirs": "out of memory"}


def test_a_side_answers_its_turns_and_says_why_it_ended(tmp_path: Path) -> None:
    one = side(tmp_path)
    assert one.facts == {"word": "ready"}
    assert one.turn(number=3) == {"twice": 6}
    for _ in range(2):  # and again, for whoever asks it once more
        with pytest.raises(harness.SideFailed, match=r"(?s)echo ended with code 1.*below zero"):
            one.turn(number=-1)


def test_a_side_can_be_stopped(tmp_path: Path) -> None:
    one = side(tmp_path)
    one.stop()
    one.stop()
    assert one._process.returncode == -9


def test_the_reward_sets_every_two_completions_apart() -> None:
    completions = [[1, 2], [2, 1], [1, 2, 3], [12]]
    values = harness.spread(completions, prompts=["?"] * 4)
    assert values == harness.spread(completion_ids=completions)
    assert len(set(values)) == 4
    assert all(0 <= value < 1 for value in values)


def test_shapes_by_name_and_by_sizes() -> None:
    assert harness.shape("micro")["vocabulary"] == 512
    own = harness.shape("layers=2,architecture=qwen2")
    assert (own["layers"], own["architecture"], own["hidden_size"]) == (2, "qwen2", 576)
    for wrong in ("huge", "depth=2"):
        with pytest.raises(argparse.ArgumentTypeError):
            harness.shape(wrong)


def test_values_are_read_as_json() -> None:
    assert harness.key_value("gradient_checkpointing=true") == ("gradient_checkpointing", True)
    assert harness.key_value("cache_implementation=static") == ("cache_implementation", "static")
    with pytest.raises(argparse.ArgumentTypeError, match="key=value"):
        harness.key_value("static")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "/no/such/folder"], "--model /no/such/folder: there is no such folder"),
        (["--json", "/no/such/folder/a.json"], "--json /no/such/folder/a.json: its folder does not exist"),
        (["--rounds", "0"], "0 is less than 1"),
        (["--random-config", "huge"], "'huge' is none of micro"),
    ],
)
def test_arguments_are_refused_at_once(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        harness.parse(harness.parser("", new_tokens=8), arguments)
    assert said in capsys.readouterr().err


def test_the_report_says_where_with_what_and_how(tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    options = harness.parse(harness.parser("", new_tokens=8), ["--json", str(path), "--prompts", "2"])
    bench = harness.Bench(options, "rollout.py", new_tokens=8)
    bench.facts = {
        "machine": hardware.machine(),
        "versions": hardware.versions(),
        "roofline": {"float32": 1.0},
        "model": MODEL,
        "prompt_tokens": [55],
    }
    bench.report(sizes=[1])
    found = json.loads(path.read_text())
    assert (found["benchmark"], found["options"]["prompts"], found["sizes"]) == ("rollout", 2, [1])
    assert {"date", "machine", "versions", "roofline", "model", "prompt_tokens"} <= found.keys()
    assert {"processor", "cores", "memory_gib", "system"} <= found["machine"].keys()
    assert {"python", "torch", "transformers", "trl"} <= found["versions"].keys()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the high-water mark")
def test_memory_of_a_step_is_its_own_peak() -> None:
    memory = hardware.Memory("cpu")
    held = bytearray(200_000_000)
    del held
    before = memory.read()
    memory.reset()
    after = memory.read()
    assert after["step"] is not None
    assert before["step"] is not None
    assert after["step"] < before["step"] - 150_000_000
    assert after["process"] is not None
    assert after["process"] >= before["step"]


def test_columns_are_aligned() -> None:
    assert harness.table(["side", "s"], [["ours", "1.5"], ["a", "10"]]) == "side    s\nours  1.5\na      10"
