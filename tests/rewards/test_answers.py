"""What a policy may write as its answer, with the right verdict: answers.jsonl, one gold answer a line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import REWARDS
from rewards.text import plain
from rewards.words import may_stand

GOLDS = [json.loads(line) for line in (Path(__file__).parent / "answers.jsonl").read_text().splitlines()]


def values(gold: str, kind: str, answers: list[str], question: str | None = None) -> dict[str, float | None]:
    count = len(answers)
    asked: dict[str, Any] = (
        {} if question is None else {"prompts": [[{"role": "user", "content": question}]] * count}
    )
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


# Scales are words too, and change the value; a letter may be a unit.
WORDS = st.text(st.characters(categories=["L"]), min_size=1, max_size=20) | st.sampled_from(
    ["nope", "falsch", "nicht", "oder", "wait", "\u043d\u0435\u0442", "\u4e0d", "percents", "mln", "xliii"]
)
GOLD_VALUES = ["42", "-5", "0.5", r"4\sqrt{2}", "x", "2x+1", "(1, 2)", "Monday", "x = 5", "50%"]


@given(st.sampled_from(GOLD_VALUES), WORDS, st.sampled_from([" ", ", ", "\n", "  "]))
def test_a_word_that_is_no_unit_takes_the_value_away(gold: str, word: str, gap: str) -> None:
    if may_stand(plain(word).casefold(), frozenset()) and gap != "\n":
        return
    answer = f"{gold}{gap}{word}"
    assert values(gold, "math", [answer])[answer] == 0.0


@given(st.sampled_from(GOLD_VALUES), st.sampled_from(["nope", "wrong", "doubled", "nicht", "falsch", "high"]))
def test_a_question_brings_its_own_words_and_no_doubt(gold: str, word: str) -> None:
    answers = [f"{gold} {word}", f"{word} = {gold}"]
    assert set(values(gold, "math", answers, "How many zorbs are there?").values()) == {0.0}
    if word in ("wrong", "doubled", "high"):
        assert set(values(gold, "math", answers, f"Is it {word} or not?").values()) == {0.0}


def test_a_question_is_a_text_or_messages() -> None:
    messages = [
        {"role": "system", "content": "You speak of glorps."},
        {"role": "user", "content": [{"type": "text", "text": "How many zorbs?"}]},
    ]
    completions = [f"<think>r</think><answer>42 {word}</answer>" for word in ("zorbs", "zorb", "glorps")]
    for prompt in (messages, "How many zorbs?"):
        given = REWARDS["accuracy"](completions=completions, answer=["42"] * 3, prompts=[prompt] * 3)
        assert given == [1.0, 1.0, 0.0]
    (score, *_) = REWARDS["accuracy"].scores(completions=completions, answer=["42"] * 3)
    assert score.reason == "unreadable answer: '42 zorbs': 'zorbs' is no known unit and in no question"


def test_a_gold_that_is_no_number_abstains() -> None:
    for gold, kind in ((float("nan"), "math"), (float("nan"), "exact"), (None, "exact")):
        given = REWARDS["accuracy"](
            completions=["<think>r</think><answer>nan</answer>"], answer=[gold], answer_type=[kind]
        )
        assert given == [None]
