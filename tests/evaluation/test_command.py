import json
from pathlib import Path

import pytest
from micro import MICRO
from tiny import tiny_model, tiny_tokenizer

from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.evaluation.command import evaluate_command, model_path

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"


@pytest.mark.parametrize("name", ["embedded", "some/hub-name", "/no/such/folder"])
def test_what_is_no_run_stands_for_itself(name: str) -> None:
    assert model_path(name) == name


def test_a_run_stands_for_its_final_model_or_its_newest_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError, match="neither a model nor a checkpoint"):
        model_path(str(tmp_path))
    for name in ("sft", "step-000020", "step-000100", ".step-000120.partial"):
        (tmp_path / "checkpoints" / name).mkdir()
    assert model_path(str(tmp_path)) == str(tmp_path / "checkpoints" / "step-000100")
    (tmp_path / "model").mkdir()
    assert model_path(str(tmp_path)) == str(tmp_path / "model")


def test_a_run_that_got_no_further_than_its_cold_start_stands_for_that(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "sft").mkdir(parents=True)
    assert model_path(str(tmp_path)) == str(tmp_path / "checkpoints" / "sft")


def test_a_model_folder_stands_for_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert model_path(str(tmp_path)) == str(tmp_path)


def config(**changes: object) -> RunConfig:
    model = {"precision": "float32"}
    return RunConfig.model_validate({**MICRO, "stage": ["grpo"], "model": model, **changes})


def test_a_model_is_measured_and_the_numbers_are_the_last_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = tiny_tokenizer(TEMPLATE)
    tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=256).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    evaluate_command(str(tmp_path), config())
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (first["n"], first["samples"]) == (6, 1)
    assert 0 <= first["accuracy"] <= 1
    evaluate_command(str(tmp_path), config())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == first


def test_questions_that_are_all_too_long_are_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(TEMPLATE)
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"prompt\.max_tokens=3"):
        evaluate_command(str(tmp_path), config(prompt={"system": None, "max_tokens": 3}))
