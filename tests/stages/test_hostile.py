"""Input that means harm: pickles, names that climb, escape codes, completions of megabytes."""

import io
import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import MICRO
from rich.console import Console

from rewards import SPECS, parse
from rlreason.cli import main_train
from rlreason.config import load
from rlreason.errors import UserError
from rlreason.report.terminal import View
from rlreason.runs import RunDirectory
from rlreason.scoring import Scorer
from rlreason.tasks import derives
from rlreason.types import Example

Train = Callable[..., Path]
WriteConfig = Callable[..., Path]


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.sprung, "sprung"))


@pytest.fixture
def sprung(tmp_path: Path) -> Path:
    return tmp_path / "sprung"


def test_the_trap_works(sprung: Path) -> None:
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists()


TRAPS = ("pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin")


def trapped(folder: Path, sprung: Path, names: tuple[str, ...] = TRAPS) -> None:
    for name in names:
        (folder / name).write_bytes(pickle.dumps(Trap(sprung)))


def test_pickles_beside_a_model_are_never_loaded(train: Train, sprung: Path) -> None:
    base = train(name="base", stage="sft") / "model"
    trapped(base, sprung, (*TRAPS, "adapter_model.bin", "tokenizer.pkl"))
    train(name="next", stage=["sft", "grpo"], model={"scratch": None, "path": str(base)})
    assert not sprung.exists()


def test_a_model_of_pickles_alone_is_refused(train: Train, sprung: Path) -> None:
    base = train(name="base", stage="sft") / "model"
    for name in ("model.safetensors", "manifest.json"):
        (base / name).unlink()
    trapped(base, sprung)
    with pytest.raises(UserError, match=r"model\.path: no model can be loaded .*safetensors"):
        train(name="next", stage="sft", model={"scratch": None, "path": str(base)})
    assert not sprung.exists()


def test_an_adapter_of_pickles_is_not_loaded(train: Train, sprung: Path) -> None:
    base = train(name="base", stage="sft") / "model"
    adapter = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": None}
    (base / "adapter_config.json").write_text(json.dumps(adapter))
    trapped(base, sprung, ("adapter_model.bin",))
    with pytest.raises(UserError, match=r"model\.path"):
        train(name="next", stage="sft", model={"scratch": None, "path": str(base)})
    assert not sprung.exists()


def test_code_that_a_model_brings_along_is_not_run(
    train: Train, sprung: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where `yes` is at the other end of the terminal."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    base = train(name="base", stage="sft") / "model"
    (base / "manifest.json").unlink()
    (base / "evil.py").write_text(f"open({str(sprung)!r}, 'w').write('sprung')\n")
    config = json.loads((base / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"},
    }
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model\.path"):
        train(name="next", stage="sft", model={"scratch": None, "path": str(base)})
    assert not sprung.exists()


def test_pickles_in_a_checkpoint_are_not_loaded_on_resuming(
    train: Train, sprung: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlreason.stages.exact import ExactTrainer

    settings = {"stage": "sft", "sft": {"size": 16, "epochs": 2}, "log": {"stage_checkpoint_every": 2}}
    whole = ExactTrainer.finish_step

    def die(self: ExactTrainer, control: Any) -> None:
        whole(self, control)
        if self.state.global_step == 5:
            raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(ExactTrainer, "finish_step", die)
        with pytest.raises(SystemExit):
            train(**settings)
    trapped(tmp_path / "runs/micro/checkpoints/sft-step-000004", sprung, (*TRAPS, "rng_state_0.pth"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    train(**settings)
    assert not sprung.exists()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!python/name:os.system", "!!binary"])
def test_yaml_that_would_make_objects_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tag: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"name: {tag} ['touch {tmp_path / 'sprung'}']\nstage: sft\n")
    assert main_train([str(path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "sprung").exists()


def test_a_saved_config_that_would_make_objects_is_refused(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "runs" / "micro"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(f"name: !!python/object/apply:os.system ['touch {tmp_path}/sprung']\n")
    assert main_train([str(write_config())]) == 2
    assert "cannot be read as YAML" in capsys.readouterr().err
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["../../x", "..", "/tmp/x", "a/../../b", "x\0y", ".hidden", "a\nb", ""])
def test_names_that_climb_out_are_refused(
    write_config: WriteConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    config = write_config()
    before = sorted(tmp_path.rglob("*"))
    assert main_train([str(config), f"name={json.dumps(name)}"]) == 2
    assert "name" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_that_is_a_link_elsewhere_is_set_aside_and_its_target_untouched(
    write_config: WriteConfig, tmp_path: Path
) -> None:
    """A manifest whose names climb out reads nothing that is not there: it is damaged."""
    with RunDirectory.open(tmp_path / "run", "name: x\n") as run:
        run.save_checkpoint(1, lambda folder: (folder / "w").write_text("1"))
        run.save_checkpoint(2, lambda folder: (folder / "w").write_text("2"))
    elsewhere = tmp_path / "elsewhere"
    shutil.move(tmp_path / "run/checkpoints/step-000002", elsewhere)
    (elsewhere / "w").write_text("3")
    (tmp_path / "run/checkpoints/step-000002").symlink_to(elsewhere)
    with RunDirectory.open(tmp_path / "run", "name: x\n") as run:
        found = run.latest_checkpoint()
        assert found is not None
        assert found[0] == 1
    assert (elsewhere / "w").read_text() == "3"


ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\x1b[8m hidden \u202e reversed \r over"


@pytest.mark.parametrize("terminal", [True, False])
def test_escape_codes_of_a_completion_do_nothing_on_the_screen(terminal: bool) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, no_color=True, color_system=None, width=100)
    with View(console=console) as view:
        view.sample(ESCAPES, f"<think>{ESCAPES}</think>", {"mine": (1.0, ESCAPES)}, 0.5)
        view.note(ESCAPES)
        view.final({"accuracy": 0.1, "n": 1}, {"accuracy": 0.1, "n": 1}, {}, [ESCAPES])
    shown = out.getvalue()
    assert "owned" in shown  # as text
    own = shown.replace("\x1b[3m", "").replace("\x1b[1m", "").replace("\x1b[0m", "")  # italic, bold
    for code in ("\x1b]", "\x1b[2J", "\x1b[8m", "\x07", "\x9b", "\u202e", "\r"):
        assert code not in own


BIG = {
    "letters": "x" * 10_000_000,
    "working": "<think>" + "1 + 1 = 2\n" * 1_000_000 + "</think><answer>2</answer>",
    "tags": "<think>" * 1_400_000,
    "answers": "<think>a</think>" + "<answer>2</answer>" * 550_000,
    "digits": "<think>a</think><answer>" + "9" * 10_000_000 + "</answer>",
    "brackets": "<" * 10_000_000,
    "line ends": "\n" * 10_000_000,
    "escapes": "\x1b[31m" * 2_000_000,
}


@pytest.mark.parametrize("kind", BIG)
def test_a_completion_of_ten_megabytes_stalls_nothing(tmp_path: Path, kind: str) -> None:
    """Score, record, screen, in seconds; each of these took minutes if it were quadratic in the length."""
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**MICRO, "rewards": {"accuracy": 1.0, "think_format": 0.1}}))
    text = BIG[kind]
    example = Example(prompt=[{"role": "user", "content": "1 + 1 ="}], answer="2")
    began = time.process_time()
    with Scorer(load(path, [])) as scorer:
        (score,) = scorer.score([example], [text], [""], [[1, 2, 3]])
    assert not any(part.failed for part in score.parts.values())
    derives(parse(text, prefill="", spec=SPECS["think_answer"]).think or "")
    with RunDirectory.open(tmp_path / "run", "name: x\n") as run:
        run.append_samples([{"stage": "grpo", "step": 1, "text": text}])
        run.rewind(1, "grpo")
    out = io.StringIO()
    with View(console=Console(file=out)) as view:
        view.sample("1 + 1 =", text, {n: (p.value, p.reason) for n, p in score.parts.items()}, 0.5)
    assert time.process_time() - began < 30
    assert len(out.getvalue()) < 20_000
    assert json.loads((tmp_path / "run/samples.jsonl").read_text())["text"] == text


def test_an_adapter_is_no_model_and_brings_none_along(train: Train) -> None:
    base = train(name="base", stage="sft") / "model"
    (base / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "/etc", "peft_type": "LORA"})
    )
    with pytest.raises(UserError, match=r"model\.path: .*holds an adapter of peft.*merge the two first"):
        train(name="next", stage="sft", model={"scratch": None, "path": str(base)})
