"""The questions that configs/own_data.yaml trains on."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_questions_are_distinct_and_have_whole_answers() -> None:
    lines = (ROOT / "configs" / "data" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 40
    assert all(set(row) == {"question", "answer"} for row in rows)
    assert len({row["question"] for row in rows}) == 40
    assert all(str(int(row["answer"])) == row["answer"] for row in rows)
