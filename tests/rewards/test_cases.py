"""Every labelled completion of cases.jsonl, one test a line."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from rewards import REWARDS

CASES = [json.loads(line) for line in (Path(__file__).parent / "cases.jsonl").read_text().splitlines()]


def test_all_cases_are_there() -> None:
    assert len(CASES) == 57
    assert {case["reward"] for case in CASES} == {"think_format", "accuracy", "countdown"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(case: dict[str, Any]) -> None:
    columns = {"answer": [case["gold"]], "answer_type": [case.get("answer_type")]}
    columns |= {name: [value] for name, value in case.get("metadata", {}).items()}
    prefill = [case["prefill"]] if "prefill" in case else None
    start = time.perf_counter()
    values = REWARDS[case["reward"]](completions=[case["completion"]], prefill=prefill, **columns)
    assert values == [case["expect"]], case["why"]
    assert time.perf_counter() - start < case.get("max_seconds", 30)
