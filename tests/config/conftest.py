"""A valid config on disk, and loading with changes to it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rlreason.config import RunConfig, load
from rlreason.errors import UserError

VALID = """\
name: tryout
stage: [sft, grpo]
task: {name: chain_sum}
"""

Loader = Callable[..., RunConfig]


@pytest.fixture
def load_text(tmp_path: Path) -> Loader:
    """`load_text(yaml, *overrides)`: load a config from text."""

    def load_text(text: str = VALID, *overrides: str) -> RunConfig:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return load(path, list(overrides))

    return load_text


@pytest.fixture
def error_of(load_text: Loader) -> Callable[..., str]:
    """`error_of(yaml, *overrides)`: what loading says is wrong."""

    def error_of(text: str = VALID, *overrides: str) -> str:
        with pytest.raises(UserError) as caught:
            load_text(text, *overrides)
        return str(caught.value)

    return error_of


@pytest.fixture
def refused(error_of: Callable[..., str]) -> Callable[..., list[str]]:
    """`refused(*overrides)`: the mistakes that a valid config with these overrides has, one a line."""

    def refused(*overrides: str) -> list[str]:
        lines = error_of(VALID, *overrides).splitlines()
        return [lines[0].partition(": ")[2]] if len(lines) == 1 else [line.strip() for line in lines[1:]]

    return refused
