"""Pages that are printed once: completions on a line, blocks of text, plain where it is no terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from rlreason.report.page import Completion, counted, line, printed, section


def shown(part: Any, width: int = 40, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding, write_through=True)
    Console(file=file, width=width).print(part)
    return raw.getvalue().decode(encoding)


def test_a_completion_breaks_at_the_edge_and_keeps_its_spaces() -> None:
    # 82 characters with a sign for the end of each line, 36 on a line behind the indent: 36 + 36 + 10.
    text = "<think>\nso   so\n</think>\n<answer>" + "x" * 40 + "</answer>"
    lines = shown(Completion(text, indent=4)).splitlines()
    assert [len(row) for row in lines] == [40, 40, 14]
    assert "".join(row[4:] for row in lines) == text.replace("\n", "\u23ce")


def test_wide_characters_take_two_columns_and_none_is_lost() -> None:
    lines = shown(Completion("算" * 30, indent=0), width=41).splitlines()
    assert [len(row) for row in lines] == [20, 10]


def test_a_long_completion_loses_its_middle() -> None:
    out = shown(Completion("a" * 300 + "b" * 300, indent=0, limit=90)).replace("\n", "")
    # 60 characters of the beginning and 30 of the end are kept: 510 are left out.
    assert out == "a" * 60 + " [… 510 characters] " + "b" * 30


def test_nothing_at_all_is_said_in_words() -> None:
    assert shown(Completion("", indent=2)) == "  (an empty completion)\n"


def test_line_ends_are_spelled_where_the_encoding_has_no_sign() -> None:
    assert shown(Completion("a\nb", indent=0), encoding="ascii") == "a\\nb\n"


@pytest.mark.parametrize(
    "part", [line("\x1b[31m[red]x", "red"), section("\x1b[31m[red]x"), Completion("\x1b[31m[red]x", indent=0)]
)
def test_text_from_outside_has_no_effect(part: Any) -> None:
    assert "\u241b[31m[red]x" in shown(part)


def test_a_line_is_wrapped_as_a_block() -> None:
    lines = shown(line("word " * 20, indent=6), width=30).splitlines()
    assert len(lines) > 3
    assert all(row.startswith(" " * 6) and len(row) <= 30 for row in lines)


def test_counted() -> None:
    assert [counted(n, "hole") for n in (0, 1, 2, 1234)] == ["0 holes", "1 hole", "2 holes", "1,234 holes"]


def test_what_is_printed_to_a_file_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = printed(lambda console: console.print(line("red text", "red"), section("A", "b", "green")))
    assert "\x1b" not in out
    assert all(row == row.rstrip() for row in out.splitlines())


def test_an_old_encoding_loses_no_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert printed(lambda console: console.print(Completion("算", indent=0))) == "\\u7b97\n"
