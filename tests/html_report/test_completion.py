"""A completion in the page: its parts set apart, long text cut, nothing in it that acts on a reader."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.spec import SPECS, TagSpec
from rlreason.html_report.completion import (
    LONGEST_REASON,
    LONGEST_TEXT,
    Group,
    Member,
    Packed,
    pieces,
    room_for,
)
from rlreason.html_report.embed import embedded

USUAL = SPECS["think_answer"]


def test_reasoning_and_answer_are_set_apart() -> None:
    assert pieces("<think>\n1 + 2 = 3\n</think>\n<answer>3</answer>", "", USUAL) == [
        ("rest", "<think>"),
        ("think", "\n1 + 2 = 3\n"),
        ("rest", "</think>\n<answer>"),
        ("answer", "3"),
        ("rest", "</answer>"),
    ]


def test_what_the_prompt_had_opened_is_told_from_what_the_model_wrote() -> None:
    # The prompt wrote the tag and a line end; the line end is the beginning of the reasoning.
    assert pieces("so 3\n</think>\n<answer>3</answer>", "<think>\n", USUAL)[:2] == [
        ("prefill", "<think>"),
        ("think", "\nso 3\n"),
    ]


def test_the_answer_is_the_one_behind_the_reasoning() -> None:
    # "3" stands in the reasoning too, and in the text before the answer.
    found = pieces("<think>3 is it</think> 3? <answer>3</answer>", "", USUAL)
    assert [part for part in found if part[0] == "answer"] == [("answer", "3")]
    assert found[3] == ("answer", "3")
    assert found[2] == ("rest", "</think> 3? <answer>")


def test_reasoning_without_end_is_shown_as_reasoning() -> None:
    assert pieces("on and on", "<think>\n", USUAL) == [("prefill", "<think>"), ("think", "\non and on")]


@pytest.mark.parametrize(
    ("form", "text", "answer"),
    [
        ("think_text", "<think>a</think>\nIt is 7.", "It is 7."),
        ("think_boxed", "<think>a</think> So \\boxed{7}, or 7.", "7"),
        ("think_hash", "<think>a 7</think>\n#### 7\n", "7"),
    ],
)
def test_every_form_has_its_answer(form: str, text: str, answer: str) -> None:
    found = pieces(text, "", SPECS[form])
    assert [part for role, part in found if role == "answer"] == [answer]
    assert [part for role, part in found if role == "think"] == [text[7 : text.index("</think>")]]


@given(
    st.lists(
        st.sampled_from(
            ["<think>", "</think>", "<answer>", "</answer>", "x", "3", "\\boxed{", "}", "\n#### "]
        )
    ),
    st.sampled_from(["", "<think>\n"]),
    st.sampled_from(list(SPECS.values())),
)
def test_nothing_is_lost_and_nothing_added(parts: list[str], prefill: str, spec: TagSpec) -> None:
    text = "".join(parts)
    found = pieces(text, prefill, spec)
    assert "".join(part for _, part in found) == prefill + text
    assert all(part for _, part in found)


def test_ten_megabytes_are_cut_to_their_ends() -> None:
    text = "a" * 5_000_000 + "</think>\n<answer>3</answer>" + "b" * 5_000_000
    found = pieces(text, "<think>\n", USUAL)
    # 2 x 6,000 / 3 characters of the beginning, prefill included, and 2,000 of the end are kept.
    assert found == [
        ("prefill", "<think>"),
        ("think", "\n" + "a" * 3_992),
        ("cut", f"{8 + len(text) - LONGEST_TEXT:,}"),
        ("rest", "b" * 2_000),
    ]


def test_escape_codes_become_visible() -> None:
    text = "".join(part for _, part in pieces("\x1b[31mred\x07 \u202eturned \x9b2J", "", USUAL))
    assert text == "\u241b[31mred\u2407 \ufffdturned \ufffd2J"


def test_a_group_is_packed_with_its_question_once_and_reasons_once() -> None:
    packed = Packed(USUAL)
    score = {"value": 1.0, "reason": "r" * 1000, "failed": False}
    record = {
        "text": "x",
        "question": "<b>?",
        "answer": "3",
        "reward": 1.0,
        "advantage": 0.123456,
        "tokens": 5,
        "finish_reason": "stop",
        "scores": {"accuracy": score, "form": {"value": None, "reason": "", "failed": True}},
    }
    packed.add(7, 2, Group(40, [Member(4, record), Member(39, record)]))
    out = packed.record()
    assert out["rewards"] == ["accuracy", "form"]
    assert out["reasons"] == ["r" * LONGEST_REASON + " […]", ""]
    one = [1, 0.1235, 5, "stop", ["rest", "x"], [[0, 1, 0, 0], [1, None, 1, 1]]]
    assert out["groups"] == [[7, 2, "<b>?", "3", [[*one, 4], [*one, 39]], None, 40]]


def test_a_record_with_nothing_but_a_text_is_fine() -> None:
    packed = Packed(USUAL)
    bare = {"text": "x", "scores": {"a": "nonsense"}, "reward": "much", "tokens": None}
    packed.add(1, 0, Group(1, [Member(0, bare)]))
    expected = [None, None, None, "", ["rest", "x"], [], 0]
    assert packed.record()["groups"] == [[1, 0, "", "", [expected], None, 1]]


def test_the_room_is_what_the_completion_takes() -> None:
    text = '<think>\n"é" & so on\n</think>\n<answer>\\frac{1}{2}</answer>' * 20
    record = {"text": text, "question": "<b>?", "answer": "3", "reward": 1.0, "advantage": 0.5, "tokens": 300}
    packed = Packed(USUAL)
    packed.add(1, 0, Group(1, [Member(0, record)]))
    taken = len(embedded(packed.record()["groups"]).encode())
    assert taken <= room_for(record, first=True) <= 1.2 * taken


@pytest.mark.parametrize("character", ["\x1b", "\x7f", "\x9b", "\u202e", "\ud800", "\t", "é", "<", "\n"])
def test_the_room_is_that_of_the_signs_that_stand_for_what_was_written(character: str) -> None:
    text = character * 5_000
    score = {"value": 1.0, "reason": character * 1_000}
    record = {"text": text, "question": text, "answer": text, "reward": 1.0, "scores": {"form": score}}
    packed = Packed(USUAL)
    packed.add(1, 0, Group(1, [Member(0, record)]))
    taken = len(embedded(packed.record()["groups"]).encode())
    taken += len(embedded(packed.record()["reasons"][0]).encode())
    assert taken <= room_for(record, first=True) <= 1.2 * taken
