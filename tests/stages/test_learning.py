"""The tiny config learns: from under 40% to over 90%, on questions it was never trained on.

Slow, and not passing yet: see docs/log.md, 2026-11-23.
"""

import json
import time
from pathlib import Path

import pytest

from rlreason.config import load

ROOT = Path(__file__).parents[2]


def learn(tmp_path: Path, seed: int) -> None:
    from rlreason.stages import run

    config = load(ROOT / "configs/tiny.yaml", [f"seed={seed}", f"output_dir={tmp_path}"])
    started = time.monotonic()
    run(config)
    seconds = time.monotonic() - started
    result = json.loads((tmp_path / config.name / "eval.json").read_text())
    assert result["before"]["n"] >= 200
    assert result["before"]["accuracy"] < 0.40
    assert result["after"]["accuracy"] > 0.90
    assert result["gain"]["ci95"][0] > 0
    print(f"seed {seed}: {seconds:.0f} s")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_grpo_learns_a_task(tmp_path: Path, seed: int) -> None:
    learn(tmp_path, seed)
