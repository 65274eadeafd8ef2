"""A run so small that it takes seconds: random weights, random rewards, every part of the loop."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from micro import MICRO, merged

from rlreason.config import load


@pytest.fixture(scope="session", autouse=True)
def _imports_are_not_collected() -> None:
    """Every Trainer collects garbage when it ends: 0.4 s, most of it for what the libraries' imports made."""
    import rlreason.stages.grpo
    import rlreason.stages.ppo
    import rlreason.stages.reward_model  # noqa: F401

    gc.freeze()


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Write the micro config with changes, its runs going to a temporary folder."""

    def write(**changes: Any) -> Path:
        config = merged(MICRO, {"output_dir": str(tmp_path / "runs"), **changes})
        path = tmp_path / f"{config['name']}.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write


@pytest.fixture
def train(write_config: Callable[..., Path]) -> Callable[..., Path]:
    """Run the micro config with changes in this process; return its run directory."""

    def run(*overrides: str, **changes: Any) -> Path:
        from rlreason.stages import run as run_stages

        config = load(write_config(**changes), list(overrides))
        run_stages(config)
        return Path(config.output_dir) / config.name

    return run
