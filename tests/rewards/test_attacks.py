"""attack: every hole that a reward is given on purpose is found and named, and sound rewards pass."""

import holes
import pytest

from rewards import REWARDS, SPECS, Response
from rewards.attacks import FAILS, attack, judge, targets, try_all
from rewards.hacks import BOXED, EMPTY, FIRST, INSIDE, LAST, NEGATED, OUTSIDE, REASONING, TALK, TRICK, WRONG
from rewards.rubric import Rubric, Term

NUMBERS = [
    {"prompt": "What is 4 + 3 + 10?", "answer": "17"},
    {"prompt": "What is 5 - 17?", "answer": "-12"},
    {"prompt": "How much is seven halves?", "answer": "3.5"},
    {"prompt": "How many metres are 1.5 kilometres?", "answer": "1500"},
    {"prompt": "What is 10 * 2.25?", "answer": "22.5"},
]


@pytest.mark.parametrize("reward", [holes.sound, holes.sound_batch, holes.closeness, holes.form_and_answer])
def test_a_sound_reward_passes(reward) -> None:
    verdict = attack(reward, NUMBERS)
    assert verdict.judges
    assert verdict.holes == ()
    assert "no hole found" in str(verdict)


@pytest.mark.parametrize("spec", SPECS)
def test_accuracy_has_no_hole_in_any_form(spec: str) -> None:
    verdict = attack("accuracy", spec=SPECS[spec])
    assert (verdict.judges, verdict.right, verdict.wrong) == (True, 1.0, 0.0)
    assert verdict.holes == (), str(verdict)


@pytest.mark.parametrize("answer_type", ["number", "exact", "choice", "math"])
def test_accuracy_has_no_hole_with_any_type_of_answer(answer_type: str) -> None:
    golds = {"number": ["17", "0.25", "-3"], "exact": ["New York", "yes"], "choice": ["A", "C"]}
    words = golds.get(answer_type, ["2\\sqrt{3}", "\\frac{3}{4}", "x^2+1", "Paris", "10:30"])
    rows = [{"prompt": f"Question {gold}?", "answer": gold, "answer_type": answer_type} for gold in words]
    assert attack("accuracy", rows).holes == ()


def test_countdown_has_no_hole() -> None:
    rows = [
        {
            "prompt": "Make 24 of 3, 5, 7, 9.",
            "answer": "3 + 5 + 7 + 9",
            "numbers": [3, 5, 7, 9],
            "target": 24,
        },
        {"prompt": "Make 10 of 2, 5.", "answer": "2 * 5", "numbers": [2, 5], "target": 10},
        {"prompt": "Make 9 of 1, 8.", "answer": "1 + 8", "numbers": [1, 8], "target": 9},
    ]
    verdict = attack("countdown", rows)
    assert (verdict.judges, verdict.right) == (True, 1.0)
    assert verdict.holes == (), str(verdict)


# Reward, holes that must be among those found, and what it does in words (None: no rule says it).
NAMED = [
    (
        holes.substring,
        {REASONING, OUTSIDE, FIRST, LAST, NEGATED, INSIDE},
        "searches the whole text for the right value",
    ),
    (holes.searched, {REASONING, FIRST, LAST, NEGATED, TRICK}, "searches the whole text for the right value"),
    (holes.searched, {TRICK}, "uses the gold answer as a regular expression"),
    (
        holes.last_number,
        {LAST, OUTSIDE, NEGATED, BOXED},
        "takes the last value of the whole text, such as its last number",
    ),
    (
        holes.first_number,
        {FIRST, REASONING, NEGATED},
        "takes the first value of the whole text, such as its first number",
    ),
    (holes.in_answer, {FIRST, LAST, NEGATED, INSIDE}, "searches the answer for the right value"),
    (holes.last_of_answer, {LAST, NEGATED}, "takes the last value of the answer, such as its last number"),
    (
        holes.first_tags,
        {FIRST, REASONING, OUTSIDE},
        "takes the first pair of answer tags, wherever it stands",
    ),
    (holes.last_tags, {LAST, OUTSIDE}, "takes the last pair of answer tags, wherever it stands"),
    (holes.within_gold, {EMPTY, INSIDE}, "looks for the answer in the gold, not the other way round"),
    (holes.as_pattern, {TRICK}, "uses the answer as a regular expression"),
    (holes.evaluated, {TRICK}, "runs the answer as code"),
    (holes.lets_nan_pass, {TRICK}, "lets nan pass: no comparison with it is true"),
    (holes.obeys, {TALK}, None),
]


@pytest.mark.parametrize(
    ("reward", "expected", "cause"), NAMED, ids=[f"{r.__name__}-{c}" for r, _, c in NAMED]
)
def test_each_hole_is_found_and_named(reward, expected: set[str], cause: str | None) -> None:
    verdict = attack(reward, NUMBERS)
    found = {hole.hole for hole in verdict.holes}
    assert expected <= found
    assert cause is None or cause in verdict.causes
    for hole in expected:
        assert hole in str(verdict)


def test_a_reward_that_reads_the_answer_alone_is_not_said_to_read_the_reasoning() -> None:
    for reward in (holes.in_answer, holes.last_of_answer, holes.lets_nan_pass):
        assert not {REASONING, OUTSIDE} & {hole.hole for hole in attack(reward, NUMBERS).holes}


def test_a_hole_comes_with_the_text_that_was_paid_and_what_was_said() -> None:
    verdict = attack(holes.substring, NUMBERS[:1])
    hole = next(hole for hole in verdict.holes if hole.hole == NEGATED)
    assert hole.attacks[0] == "not the right value"
    assert hole.hits[0].shot.attack.text.endswith("<answer>not 17</answer>")
    assert (hole.most, hole.rows, hole.hits[0].score.reason) == (1.0, {0}, "returned 1")


def test_a_reward_that_fails_on_what_a_policy_writes_is_named() -> None:
    verdict = attack(holes.raises, NUMBERS)
    failure = next(hole for hole in verdict.holes if hole.hole == FAILS)
    assert "an empty completion" in failure.attacks
    assert "TypeError" in " ".join(hit.score.reason for hit in failure.hits)


def test_a_reward_that_fails_on_the_right_answers_is_refused() -> None:
    def broken(response, example):
        raise KeyError("weights")

    with pytest.raises(ValueError, match=r"broken.*fails on the right answers.*weights"):
        attack(broken, NUMBERS)


@pytest.mark.parametrize("reward", [holes.brief, holes.verbose, holes.any_answer, "think_format", "random"])
def test_what_does_not_look_at_the_answer_has_no_holes(reward) -> None:
    verdict = attack(reward, NUMBERS)
    assert not verdict.judges
    assert verdict.holes == ()
    assert "does not judge answers" in str(verdict)


def test_what_has_to_judge_and_does_not_takes_wrong_answers() -> None:
    found = targets(["?"] * 2, ["17", "28"], [(), ()])
    rubric = Rubric([Term("any", REWARDS["think_format"])])
    trial = try_all(found, lambda rows, texts: rubric.score(texts), SPECS["think_answer"])
    verdict = judge(trial, "any", judges=True)
    assert WRONG in {hole.hole for hole in verdict.holes}
    assert "takes any answer" in verdict.causes


def test_another_right_answer_now_and_then_is_no_hole() -> None:
    """x^2 = 9 has two solutions; a verifier that takes both is right to."""
    rows = [
        {"answer": "3", "either": True},
        {"answer": "5", "either": False},
        {"answer": "7", "either": False},
    ]

    def verifier(response: Response, example: dict) -> float:
        right = {example["answer"], f"-{example['answer']}" if example["either"] else example["answer"]}
        return float(response.answer in right)

    assert attack(verifier, rows).holes == ()
    both = [{**row, "either": True} for row in rows]
    assert [hole.hole for hole in attack(verifier, both).holes] == [INSIDE]


def test_rows_bring_their_own_columns_options_and_messages() -> None:
    seen = []

    def reads(completions, answer, level, **columns):
        seen.extend(zip(answer, level, strict=True))
        return [
            float(f"<answer>{gold}</answer>" in text) for text, gold in zip(completions, answer, strict=True)
        ]

    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Up or down?"}]
    rows = [{"prompt": messages, "answer": "up", "options": ["up", "down"], "level": 2}]
    verdict = attack(reads, rows)
    texts = [hit.shot.attack.text for hole in verdict.holes for hit in hole.hits]
    assert set(seen) == {("up", 2)}
    assert any("down" in text for text in texts)
    with pytest.raises(ValueError, match="level"):
        attack(reads, [{"answer": "up"}])


def test_rows_without_an_answer_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has no answer"):
        attack("accuracy", [{"answer": "1"}, {"prompt": "?"}])


def test_a_wrong_answer_is_the_next_gold_of_its_kind() -> None:
    found = targets(["?"] * 5, ["17", "Paris", "17.0", "B", "28"], [()] * 5)
    assert [(target.other, target.partner) for target in found] == [
        ("28", 4),  # 17.0 is the same number
        ("something else", None),
        ("28", 4),
        ("A", None),
        ("17", 0),
    ]


def test_the_same_attack_gives_the_same_verdict() -> None:
    assert attack(holes.last_number, NUMBERS) == attack(holes.last_number, NUMBERS)
