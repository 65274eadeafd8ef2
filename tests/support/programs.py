"""Scoring a program by the reward `code`."""

from typing import Any

import pytest

from rewards import REWARDS, Score
from rewards.sandbox import Limits, run_program

ADD = ["assert add(1, 2) == 3", "assert add(2, 2) == 4"]
SUMS = [{"input": "1 2\n", "output": "3\n"}, {"input": "5 6", "output": "11"}]
RIGHT_ADD = "def add(a, b):\n    return a + b"
RIGHT_SUM = "a, b = map(int, input().split())\nprint(a + b)"


def needs(module: str) -> None:
    """Skip where programs cannot import a module: they see what is installed, not what PYTHONPATH adds."""
    if run_program(f"import {module}", "", Limits(20, 1024)).problem:
        pytest.skip(f"programs cannot import {module} here")


def score(program: str, tests: Any, *, entry_point: str | None = None, **options: Any) -> Score:
    reward = REWARDS["code"].with_options(**options)
    completions = [f"<think>r</think><answer>{program}</answer>"]
    return reward.scores(completions=completions, tests=[tests], entry_point=[entry_point])[0]
