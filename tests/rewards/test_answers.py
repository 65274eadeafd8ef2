"""What a policy may write as its answer, with the right verdict: answers.jsonl, one gold answer a line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import REWARDS

GOLDS = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text().splitlines()]


def values(gold: str, kind: str, answers: list[str], question: str | None = None) -> dict[str, float | None]:
    count = len(answers)
    asked = {} if question is None else {"prompts": [[{"role": "user", "content": question}]] * count}
    given = REWARDS["accuracy"](
        completions=[f"<think>r</think><answer>{answer}</answer>" for answer in answers],
        answer=[gold] * count,
        answer_type=[kind] * count,
        **asked,
    )
    return dict(zip(answers, given, strict=True))


@pytest.mark.parametrize("case", GOLDS, ids=lambda case: f"{case['type']}-{case['gold']}"[:40])
def test_verdicts(case: dict[str, Any]) -> None:
    gold, kind, question = case["gold"], case["type"], case.get("question")
    if "unreadable" in case:
        assert set(values(gold, kind, [gold, "1"]).values()) == {None}
        return
    missed = [a for a, v in values(gold, kind, [gold, *case["right"]], question).items() if v != 1.0]
    paid = [a for a, v in values(gold, kind, case["wrong"], question).items() if v != 0.0]
    assert (missed, paid) == ([], [])


def test_the_table_is_of_a_size() -> None:
    assert sum(len(case.get("right", [])) for case in GOLDS) > 200
    assert sum(len(case.get("wrong", [])) for case in GOLDS) > 350


NUMBERS = [str(n) for n in (*range(20), 1234, 2345)]
READ_AS = st.sampled_from(
    [
        "{}",
        "{}.",
        "{} {}",
        "{},{}",
        "{}.{}",
        "{}/{}",
        "{} or {}",
        "{}%",
        "({})",
        "{} km",
        "x = {}",
        "{} = {}",
        "{} 1/{}",
    ]
)


@given(READ_AS, st.sampled_from(NUMBERS), st.sampled_from(NUMBERS))
def test_a_text_has_at_most_one_reading(form: str, first: str, second: str) -> None:
    answer = form.format(first, second)
    assert len([gold for gold in NUMBERS if values(gold, "number", [answer])[answer]]) <= 1
