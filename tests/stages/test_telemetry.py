"""Nothing is sent anywhere in a training run that does not ask for it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
NETWORK = ROOT / "tests" / "support" / "network"
# What the tests themselves have switched off, or a CI has, must not do the work of the program.
SWITCHES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY",
            "DISABLE_TELEMETRY", "DO_NOT_TRACK", "CI")  # fmt: skip


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in SWITCHES}
    path = os.pathsep.join([str(NETWORK), *filter(None, [os.environ.get("PYTHONPATH")])])
    home = {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    return {**kept, **home, "PYTHONPATH": path, "NETWORK_RECORD": str(tmp_path / "record"), **more}


def every_trainer(write_config: Callable[..., Path]) -> Path:
    """A config whose run has TRL's trainers, the loop, its evaluation and a reward in a worker."""
    return write_config(
        stage=["sft", "reward_model", "grpo"],
        reward_model={"questions": 6, "samples": 4, "batch_size": 4},
        rewards={"random": 1.0, "learned": 0.1, "reasoning_gym": 0.1},
        eval={"reward": "reasoning_gym"},
        grpo={"steps": 2, "prompts_per_step": 4, "group_size": 4},
    )


def run(config: Path, environment: dict[str, str], *before: str) -> subprocess.CompletedProcess[str]:
    command = [*before, sys.executable, "train.py", str(config)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def record(tmp_path: Path) -> list[str]:
    path = tmp_path / "record"
    return path.read_text().splitlines() if path.exists() else []


def traced(calls: Path) -> tuple[str, ...]:
    """Words before a command that write its calls to a file, also those that are not Python's."""
    if shutil.which("strace") is None:
        return ()
    words = ("strace", "-f", "-qq", "-e", "trace=%network", "-o", str(calls))
    # With the filter in the kernel, only these calls stop a process.
    for tried in ((*words, "--seccomp-bpf"), words):
        if subprocess.run([*tried, "true"], capture_output=True).returncode == 0:
            return tried
    return ()


def test_a_training_run_tries_no_connection(write_config: Callable[..., Path], tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    ran = run(every_trainer(write_config), environment(tmp_path), *traced(calls))
    assert ran.returncode == 0, ran.stderr
    assert record(tmp_path) == []
    # Sockets of the file system (AF_UNIX) stay on this machine: worker processes and the C library use them.
    asked = calls.read_text().splitlines() if calls.exists() else []
    assert [line for line in asked if re.search(r"AF_INET6?\b", line)] == []


def test_the_record_would_show_one(write_config: Callable[..., Path], tmp_path: Path) -> None:
    """TRL's trainers report to the hub where the user asks for it; the run does not mind that it fails."""
    asked = environment(tmp_path, HF_HUB_DISABLE_TELEMETRY="0", DO_NOT_TRACK="0")
    ran = run(write_config(stage=["sft"]), asked)
    assert ran.returncode == 0, ran.stderr
    assert any("huggingface.co" in line for line in record(tmp_path))
