"""The attacks themselves: each is wrong beyond dispute, whatever the gold answer and the form."""

import re
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import REWARDS, SPECS, TagSpec, parse
from rewards.hacks import (
    ANOTHER,
    CLOSE,
    FIRST,
    HEDGED,
    NEGATED,
    WORDS,
    attacks,
    kind_of,
    same_answer,
    wrong_answer,
)

GOLDS = [
    "17", "-12", "0", "1", "100", "1500", "3.5", "0.333", "1,234", "1/2", "\\frac{3}{4}", "$29.00", "50%",
    "72 clips", "A", "E", "yes", "No", "True", "Paris", "New York", "10:30", "2\\sqrt{3}", "2x + 1", "x^2+1",
    "{1, 2}", "3 + 5 * 7",
]  # fmt: skip
OTHERS = {"{1, 2}": "{3}", "3 + 5 * 7": "2 * 8"}


def tried(gold: str, spec: TagSpec, question: str = "How much is 4 + 3?"):
    return attacks(question=question, gold=gold, other=OTHERS.get(gold, wrong_answer(gold)), spec=spec)


def bare(text: str) -> str:
    """An answer without case, spaces and what only sets it off; written apart from `rewards.text`."""
    return re.sub(r"[\s*$.,;]", "", text.casefold())


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("gold", GOLDS)
def test_no_attack_gives_the_gold_answer(gold: str, spec: str) -> None:
    for attack in tried(gold, SPECS[spec]):
        answer = parse(attack.text, spec=SPECS[spec]).answer
        assert answer is None or bare(answer) != bare(gold), attack


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("gold", GOLDS)
def test_no_attack_earns_anything_from_accuracy(gold: str, spec: str) -> None:
    reward = REWARDS["accuracy"].with_spec(SPECS[spec])
    found = tried(gold, SPECS[spec])
    for kind in ("math", "number", "choice", "exact"):
        scores = reward.scores(
            completions=[attack.text for attack in found],
            answer=[gold] * len(found),
            answer_type=[kind] * len(found),
        )
        paid = [
            (attack.name, attack.text[-80:], kind) for attack, s in zip(found, scores, strict=True) if s.value
        ]
        assert paid == []


@settings(max_examples=60, deadline=None)
@given(
    gold=st.one_of(
        st.integers(-(10**6), 10**6).map(str),
        st.decimals(-1000, 1000, places=2, allow_nan=False).map(str),
        st.fractions(-50, 50, max_denominator=50).map(str),
        st.sampled_from("ABCDE"),
        st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=9),
    ),
    question=st.text(max_size=60),
    spec=st.sampled_from(sorted(SPECS)),
)
def test_any_gold_can_be_attacked_and_no_attack_is_its_value(gold: str, question: str, spec: str) -> None:
    found = tried(gold, SPECS[spec], question)
    assert len(found) > 50
    for attack in found:
        answer = parse(attack.text, spec=SPECS[spec]).answer
        try:
            same = answer is not None and Fraction(answer) == Fraction(gold)
        except (ValueError, ZeroDivisionError):
            same = answer == gold
        assert not same, attack.name


@pytest.mark.parametrize("spec", SPECS)
def test_texts_differ_and_names_are_unique(spec: str) -> None:
    found = tried("17", SPECS[spec])
    assert len({attack.text for attack in found}) == len({attack.name for attack in found}) == len(found)
    assert found == tried("17", SPECS[spec])


@pytest.mark.parametrize(
    "name",
    [
        "empty tags", "two pairs of answer tags, right last", "either a or b, not sure", "a placeholder",
        "not the right value", "right value in the reasoning, wrong answer", "answer before the reasoning",
        "tag spam", "nested answers", ANOTHER, "a number of 20,000 digits", "a tower of powers",
        "all options", "the question as the answer", "instructions to the grader",
        "reasoning that never closes", "right value in a comment", "a or b, right first",
        "an answer of zero-width characters", "every number from 0 to 100",
    ],
)  # fmt: skip
def test_the_attacks_that_were_asked_for_are_there(name: str) -> None:
    assert name in {
        attack.name for attack in [*tried("17", SPECS["think_answer"]), *tried("B", SPECS["think_answer"])]
    }


def test_words_of_no_list_stand_beside_the_gold() -> None:
    found = {attack.name: attack for attack in tried("17", SPECS["think_answer"])}
    for name, answer, hole, bar in (
        ("denied in German", "17 falsch", NEGATED, "anything"),
        ("denied in German, before it", "keineswegs 17", NEGATED, "anything"),
        ("hedged in German", "17 vielleicht", HEDGED, "anything"),
        ("a or b in German, right first", "17 oder 24", FIRST, "anything"),
        ("a nonsense word behind it", "17 blorp", WORDS, "full"),
        ("a nonsense word on the next line", "17\nblorp", WORDS, "full"),
    ):
        attack = found[name]
        assert (parse(attack.text).answer, attack.hole, attack.bar) == (answer, hole, bar)
    # In a form whose answer is one line, the next line is no part of it.
    names = {attack.name for attack in tried("17", SPECS["think_hash"])}
    assert "a nonsense word on the next line" not in names


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("17", ["18", "17.17", "71"]),
        ("-12", ["-11", "-12.12", "-21"]),
        ("1500", ["1501", "1515.00", "5100"]),
        ("100", ["101", "101.00"]),  # 010 is no number that anyone writes
        ("101", ["102", "102.01", "110"]),
        ("0", ["1"]),
        ("7", ["8", "7.07"]),
        ("3.5", ["3.535"]),
        ("1,234", ["1246.34", "1,324"]),
        ("Paris", []),
    ],
)
def test_numbers_that_look_like_the_gold(gold: str, expected: list[str]) -> None:
    found = [
        parse(attack.text).answer for attack in tried(gold, SPECS["think_answer"]) if attack.hole == CLOSE
    ]
    assert found == expected


def test_all_options_are_guessed_or_given() -> None:
    def listed(gold: str, *options: str) -> str:
        other = wrong_answer(gold, options)
        found = attacks(question="?", gold=gold, other=other, options=options)
        return next(parse(attack.text).answer or "" for attack in found if attack.name == "all options")

    assert listed("B") == "A, B, C, D, E"
    assert wrong_answer("yes") == "no"  # so that "a, b" is the list of all options
    assert listed("red", "red", "green", "blue") == "red, green, blue"


def test_a_fraction_in_the_question_is_no_sum_to_copy() -> None:
    def copied(question: str) -> list[str]:
        found = tried("12.5", SPECS["think_answer"], question)
        return [parse(attack.text).answer or "" for attack in found if attack.name.startswith("a sum copied")]

    assert copied("What is 100 / 8?") == []
    assert copied("What is 100 / 8 + 0?") == ["100 / 8 + 0"]


@pytest.mark.parametrize(
    ("gold", "kind"),
    [
        ("17", "number"), ("$5.50", "number"), ("B", "letter"), ("Paris", "text"), ("New York", "text"),
        ("2\\sqrt{3}", "expression"), ("x^2+1", "expression"), ("import duties", "text"),
        ("def f(x):\n    return x", "program"), ("n = int(input())\nprint(n)", "program"),
        ("```python\nx = 1\n```", "program"),
    ],
)  # fmt: skip
def test_the_kind_of_a_gold_is_told(gold: str, kind: str) -> None:
    assert kind_of(gold) == kind


def test_a_program_is_attacked_by_programs_and_not_by_sentences() -> None:
    gold = "def double(x):\n    return 2 * x"
    found = {a.name: a for a in attacks(question="?", gold=gold, other="def f():\n    pass")}
    assert "not the right value" not in found
    assert "two pairs of answer tags, right last" in found
    assert "def double(*args, **named):" in found["functions whose result equals everything"].text
    for attack in found.values():
        answer = parse(attack.text).answer or ""
        assert "2 * x" not in answer, attack.name


def test_attacks_that_make_no_sense_are_left_out() -> None:
    names = {attack.name for attack in tried("Paris", SPECS["think_answer"], question="")}
    assert not names & {"the opposite number", "the question as the answer", "all options"}
    assert "the opposite number" not in {attack.name for attack in tried("0", SPECS["think_answer"])}
    # 1 comes close to 1.004, and 1.0 is 1.
    for gold in ("1.004", "1.0"):
        assert "its first character" not in {attack.name for attack in tried(gold, SPECS["think_answer"])}


@pytest.mark.parametrize(
    ("gold", "other", "same"),
    [
        ("17", "17.0", True), ("1/2", "0.5", True), ("Paris", " paris ", True), ("$5", "5", True),
        ("17", "71", False), ("A", "B", False), ("1/2", "1/3", False),
    ],
)  # fmt: skip
def test_same_answer(gold: str, other: str, same: bool) -> None:
    assert same_answer(gold, other) is same


@pytest.mark.parametrize("gold", GOLDS)
def test_a_made_up_wrong_answer_is_wrong(gold: str) -> None:
    assert not same_answer(gold, wrong_answer(gold))


def test_a_right_answer_in_place_of_a_wrong_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'17\.0' is the gold answer '17'"):
        attacks(question="?", gold="17", other="17.0")


@pytest.mark.parametrize("gold", ["", "  ", "<answer>5</answer>"])
def test_a_gold_that_no_completion_can_give_is_refused(gold: str) -> None:
    with pytest.raises(ValueError, match=r"blank|contains one of the tags"):
        attacks(question="?", gold=gold, other="something")
