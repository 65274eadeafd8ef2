"""Text for terminals: harmless, shortened, at fixed precision."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlreason.report.text import duration, harmless, number, omitted, one_line, roles, shown_ends, sparkline


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "␛[31m"),
        ("a\rb\x07\x08", "a␍b␇␈"),
        ("\x9b2J\x7f", "\N{REPLACEMENT CHARACTER}2J␡"),
        ("\u202eabc\u2028", "\N{REPLACEMENT CHARACTER}abc\N{REPLACEMENT CHARACTER}"),
        ("\ud800", "\N{REPLACEMENT CHARACTER}"),
        ("a\n\tb", "a\n b"),
        ("2 ≤ 3 é 算", "2 ≤ 3 é 算"),
    ],
)
def test_what_a_terminal_would_act_on_becomes_visible(text: str, shown: str) -> None:
    assert harmless(text) == shown


@given(st.text(st.characters()))
def test_harmless_keeps_positions_and_leaves_no_control(text: str) -> None:
    safe = harmless(text)
    assert len(safe) == len(text)
    assert not any((ord(c) < 0x20 and c != "\n") or 0x7F <= ord(c) < 0xA0 for c in safe)
    safe.encode()  # no lone surrogate is left


def test_one_line_says_how_much_is_missing() -> None:
    assert one_line("a\n  b", 10) == "a b"
    assert one_line("x" * 15, 10) == "x" * 10 + " [… 5 characters]"
    assert omitted(1) == "[… 1 character]"
    assert omitted(12345) == "[… 12,345 characters]"


def test_long_text_keeps_its_beginning_and_its_end() -> None:
    # 30 characters of 100: two thirds (20) from the beginning, 10 from the end, 70 between them.
    assert shown_ends("x" * 100, characters=30, lines=5) == (20, 90)
    assert shown_ends("x" * 30, characters=30, lines=5) == (30, 30)


def test_many_lines_are_shortened_too() -> None:
    text = "\n".join("abcdefghi")  # nine lines of one letter: line i starts at 2 * i
    head, tail = shown_ends(text, characters=100, lines=3)
    assert (text[:head], text[tail:]) == ("a\nb", "i")


@given(st.text("ab\n", max_size=60), st.integers(3, 40), st.integers(2, 10))
def test_shortening_keeps_both_limits(text: str, characters: int, lines: int) -> None:
    head, tail = shown_ends(text, characters=characters, lines=lines)
    if len(text) <= characters and text.count("\n") < lines:
        assert head == tail
    else:
        assert 0 <= head < tail <= len(text)
        assert head + len(text) - tail <= characters
        assert text[:head].count("\n") + text[tail:].count("\n") + 1 <= lines  # the mark adds none


def test_roles_split_a_completion() -> None:
    text = "<think>a</think>b<answer>c</answer>"
    parts = [(text[start:end], role) for start, end, role in roles(text)]
    assert parts == [
        ("<think>", "tag"),
        ("a", "think"),
        ("</think>", "tag"),
        ("b", "text"),
        ("<answer>", "tag"),
        ("c", "answer"),
        ("</answer>", "tag"),
    ]


def test_text_before_a_lone_closing_tag_is_reasoning() -> None:
    assert roles("a</think>b")[0] == (0, 1, "think")
    assert roles("plain") == [(0, 5, "text")]


@given(st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "x", "\n", "<"])))
def test_roles_cover_every_character_once(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert "".join(text[start:end] for start, end, _ in roles(text)) == text


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("accuracy", 0.2134, "21.3%"),
        ("reward", 0.4309, "0.431"),
        ("length", 38.24, "38.2"),
        ("kl", 0.0, "0.0000"),
        ("kl", 0.00134, "0.0013"),
        ("kl", 1e-6, "1.0e-06"),
        ("lr", 1e-5, "1.0e-05"),
        ("grad_norm", math.inf, "inf"),
        ("loss", math.nan, "nan"),
        ("loss", None, "-"),
        ("tokens", 24576, "24,576"),
    ],
)
def test_numbers(name: str, value: float | None, shown: str) -> None:
    assert number(name, value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (61.4, "1:01"), (3725, "1:02:05"), (None, "-"), (math.nan, "-")]
)
def test_durations(seconds: float | None, shown: str) -> None:
    assert duration(seconds) == shown


def test_sparkline_runs_from_lowest_to_highest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6], 10) == "▁▂▃▄▅▆▇"
    assert sparkline([1, 1], 10) == "▄▄"
    assert sparkline([0, None, math.nan, 6], 10) == "▁  ▇"
    assert sparkline([None], 10) == " "
    assert sparkline([], 10) == ""


def test_sparkline_averages_neighbours() -> None:
    # Means of pairs: 0, 3, 6. With 6 the highest, 3 stands in the middle of seven blocks.
    assert sparkline([0, 0, 2, 4, 5, 7], 3) == "▁▄▇"
