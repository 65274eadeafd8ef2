"""The questions that configs/own_data.yaml trains on, and the worked solutions that it imitates first."""

import json
import operator
import re
from pathlib import Path

import pytest

from rlreason.config import load
from rlreason.tasks import question_key
from rlreason.types import Example

ROOT = Path(__file__).parents[2]
OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def rows_of(name: str) -> list[dict[str, str]]:
    lines = (ROOT / "configs" / "data" / name).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def keys_of(rows: list[dict[str, str]]) -> set[str]:
    return {question_key(Example([{"role": "user", "content": row["question"]}], "")) for row in rows}


@pytest.mark.parametrize(
    ("name", "columns", "count"),
    [
        ("questions.jsonl", {"question", "answer"}, 120),
        ("traces.jsonl", {"question", "think", "answer"}, 48),
    ],
)
def test_questions_are_distinct_and_have_whole_answers(name: str, columns: set[str], count: int) -> None:
    rows = rows_of(name)
    assert len(rows) == count
    assert all(set(row) == columns for row in rows)
    assert len(keys_of(rows)) == count
    assert all(str(int(row["answer"])) == row["answer"] for row in rows)


def test_no_trace_gives_away_a_question() -> None:
    assert not keys_of(rows_of("traces.jsonl")) & keys_of(rows_of("questions.jsonl"))


@pytest.mark.parametrize("row", rows_of("traces.jsonl"), ids=lambda row: row["question"][:30])
def test_trace_is_a_right_derivation_of_its_answer(row: dict[str, str]) -> None:
    lines = row["think"].splitlines()
    assert 1 <= len(lines) <= 3
    assert "<" not in row["think"]
    for line in lines:
        [(left, sign, right, result)] = re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", line)
        assert OPERATIONS[sign](int(left), int(right)) == int(result)
    assert result == row["answer"]


def test_config_fits_the_files() -> None:
    config = load(ROOT / "configs" / "own_data.yaml")
    assert ROOT / config.task.name == ROOT / "configs" / "data" / "questions.jsonl"
    assert ROOT / config.sft.traces == ROOT / "configs" / "data" / "traces.jsonl"
    assert config.sft.size == len(rows_of("traces.jsonl"))
    assert config.task.train_size + config.eval.questions <= len(rows_of("questions.jsonl"))
