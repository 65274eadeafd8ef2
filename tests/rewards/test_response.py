"""The parser: what it finds in each form, what it names, and that no text takes it long."""

import itertools
import re
import time

import pytest

from rewards import SPECS, TagSpec, parse
from rewards.spec import visible

SPEC = SPECS["think_answer"]
Found = tuple[str | None, str | None, tuple[str, ...] | None]


def check(text: str, spec: TagSpec, found: Found) -> None:
    response = parse(text, spec=spec)
    think, answer, problems = found
    assert (response.think, response.answer) == (think, answer)
    if problems is None:
        assert response.problems
    else:
        assert response.problems == problems


@pytest.mark.parametrize(
    ("text", "think", "answer", "problems"),
    [
        ("<think>r</think><answer>42</answer>", "r", "42", ()),
        ("42", None, None, ("think_missing", "answer_missing", "text_outside_tags")),
        ("", None, None, ("think_missing", "answer_missing")),
        ("<answer>42</answer>", None, None, ("think_missing", "answer_missing")),
        ("<think>r", None, None, ("think_unclosed", "answer_missing")),
        ("<think>r</think><answer>42", "r", None, ("answer_unclosed",)),
        ("<think>r</think><answer>42<answer>", "r", None, ("answer_repeated",)),
        ("<think>r</think></answer>42<answer>", "r", None, ("answer_unclosed", "text_outside_tags")),
        ("<think>\u200b</think><answer>42</answer>", "\u200b", "42", ("think_empty",)),
        ("<think>\u2800\u3164</think><answer>42</answer>", "\u2800\u3164", "42", ("think_empty",)),
        ("<think>r</think><answer>\u200b</answer>", "r", None, ("answer_empty",)),
        ("<think>a</think><think>b</think><answer>42</answer>", "a", "42", ("think_repeated",)),
        (
            "<think>a</think><answer>41</answer><think>b</think><answer>42</answer>",
            "a",
            None,
            ("think_repeated", "answer_repeated"),
        ),
        ("<think>a</think><answer>41</answer></think>", "a", None, ("think_repeated", "think_after_answer")),
        ("<think>a</think><think><answer>42</answer>", "a", None, ("think_repeated", "think_unclosed")),
        ("<think>a <answer>41</answer></think><answer>42</answer>", "a <answer>41</answer>", "42", None),
        ("</think><think>a</think><answer>42</answer>", "a", "42", None),
        ("<think>it is <answer>42</answer></think>", "it is <answer>42</answer>", None, None),
        ("</think><think><answer>1</answer>", None, None, None),
    ],
)
def test_think_answer(text: str, think: str | None, answer: str | None, problems: tuple[str, ...]) -> None:
    check(text, SPEC, (think, answer, problems))


@pytest.mark.parametrize(
    ("text", "think", "answer", "problems"),
    [
        ("<think>r</think>42", "r", "42", ()),
        ("<think>r</think>\n\nIt is 42,\nas shown.\n", "r", "It is 42,\nas shown.", ()),
        ("<think>r</think><answer>42</answer>", "r", "<answer>42</answer>", ()),  # of no meaning here
        ("42", None, None, ("think_missing", "answer_missing", "text_outside_tags")),
        ("Sure! <think>r</think>42", "r", "42", ("text_outside_tags",)),
        ("r</think>42", None, "42", ("think_missing", "text_outside_tags")),
        ("<think>42", None, None, ("think_unclosed", "answer_missing")),
        ("<think>r</think>", "r", None, ("answer_missing",)),
        ("<think>r</think>\n\u200b", "r", None, ("answer_missing",)),
        ("<think></think>42", "", "42", ("think_empty",)),
        ("<think>a</think><think>b</think>42", "a", "42", ("think_repeated",)),
        ("<think>a</think>41<think>b</think>42", "a", None, ("think_repeated", "answer_repeated")),
        ("<think>a</think>41</think>42", "a", None, ("think_repeated", "answer_repeated")),
        ("<think>a</think>42<think>b</think>", "a", None, ("think_repeated", "think_after_answer")),
        ("<think>a</think>42<think>b", "a", None, ("think_repeated", "think_after_answer")),
        ("<think>a</think><think>42", "a", None, ("think_repeated", "answer_missing")),
        ("<think>a<think>b</think>42", "a<think>b", "42", ("think_repeated",)),
        ("</think>41<think>a</think>42", "a", None, ("think_repeated", "answer_repeated")),
    ],
)
def test_think_text(text: str, think: str | None, answer: str | None, problems: tuple[str, ...]) -> None:
    check(text, SPECS["think_text"], (think, answer, problems))


@pytest.mark.parametrize(
    ("text", "think", "answer", "problems"),
    [
        ("<think>r</think>\\boxed{42}", "r", "42", ()),
        ("<think>r</think>\nHence $\\boxed{42}$, as\nwas to be shown.", "r", "42", ()),
        ("<think>r</think>\\boxed {\n42 }", "r", "42", ()),
        ("<think>r</think>\\boxed{\\frac{1}{\\sqrt{2}}} and {more", "r", "\\frac{1}{\\sqrt{2}}", ()),
        ("<think>r</think>\\boxed{\\left\\{ 1 \\right.}", "r", "\\left\\{ 1 \\right.", ()),
        ("<think>r</think>\\boxed{a \\\\} b}", "r", "a \\\\", ()),  # a line break, then the end
        ("<think>try \\boxed{41}, \\boxed{</think>\\boxed{42}", "try \\boxed{41}, \\boxed{", "42", ()),
        ("<think>r</think>\\fbox{41} \\boxedx{41} \\boxed{42}", "r", "42", ()),
        ("<think>r</think>42", "r", None, ("answer_missing",)),
        ("\\boxed{42}", None, None, ("think_missing", "answer_missing", "text_outside_tags")),
        ("<think>r \\boxed{42}</think>", "r \\boxed{42}", None, ("answer_missing",)),
        ("<think>r \\boxed{42}", None, None, ("think_unclosed", "answer_missing")),
        ("\\boxed{41}<think>r</think>\\boxed{42}", "r", "42", ("text_outside_tags",)),
        ("<think>r</think>\\boxed{41} or \\boxed{42}", "r", None, ("answer_repeated",)),
        ("<think>r</think>\\boxed{42} so \\boxed{42}", "r", None, ("answer_repeated",)),
        ("<think>r</think>\\boxed{\\boxed{42}}", "r", None, ("answer_repeated",)),
        ("<think>r</think>\\boxed 4, so \\boxed{42}", "r", None, ("answer_repeated",)),
        ("<think>r</think>\\boxed{4{2}", "r", None, ("answer_unclosed",)),
        ("<think>r</think>\\boxed{42\\}", "r", None, ("answer_unclosed",)),
        ("<think>r</think>\\boxed 4", "r", None, ("answer_unclosed",)),
        ("<think>r</think>\\boxed", "r", None, ("answer_unclosed",)),
        ("<think>r</think>\\boxed{}", "r", None, ("answer_empty",)),
        ("<think>r</think>\\boxed{ \u200b}", "r", None, ("answer_empty",)),
        ("<think>a</think><think>b</think>\\boxed{42}", "a", "42", ("think_repeated",)),
        ("<think>a</think>\\boxed{42}<think>b</think>", "a", None, ("think_repeated", "think_after_answer")),
        ("<think>a</think>\\boxed{4<think>2}", "a", None, ("think_repeated", "think_after_answer")),
        ("<think>a</think><think>\\boxed{42}", "a", None, ("think_repeated", "think_unclosed")),
        (
            "<think>a</think>\\boxed{41}<think>b</think>\\boxed{42}",
            "a",
            None,
            ("think_repeated", "answer_repeated"),
        ),
    ],
)
def test_think_boxed(text: str, think: str | None, answer: str | None, problems: tuple[str, ...]) -> None:
    check(text, SPECS["think_boxed"], (think, answer, problems))


@pytest.mark.parametrize(
    ("text", "think", "answer", "problems"),
    [
        ("<think>r</think>#### 42", "r", "42", ()),
        ("<think>r</think>\n21 times 2.\n####42\r\nThat is all.", "r", "42", ()),
        ("<think>r</think> \t#### 42", "r", "42", ()),
        ("<think>r</think>\n \t#### 42 clips ", "r", "42 clips", ()),
        ("<think>## Plan\n#### Step 1\n</think>#### 42", "## Plan\n#### Step 1", "42", ()),
        ("<think>r</think>##### Result\n#### 42", "r", "42", ()),  # a heading of another level
        ("<think>r</think>so #### 41\n#### 42", "r", "42", ()),  # not the start of a line
        ("<think>r</think>so #### 42", "r", None, ("answer_missing",)),
        ("<think>r</think>42", "r", None, ("answer_missing",)),
        ("#### 42", None, None, ("think_missing", "answer_missing", "text_outside_tags")),
        ("<think>r\n#### 42", None, None, ("think_unclosed", "answer_missing")),
        ("<think>r\n#### 42</think>", "r\n#### 42", None, ("answer_missing",)),
        ("#### 41\n<think>r</think>#### 42", "r", "42", ("text_outside_tags",)),
        ("<think>r</think>#### 41\n#### 42", "r", None, ("answer_repeated",)),
        ("<think>r</think>#### 42\n#### 42", "r", None, ("answer_repeated",)),
        ("<think>r</think>#### Result\n#### 42", "r", None, ("answer_repeated",)),
        ("<think>r</think>####\n42", "r", None, ("answer_empty",)),
        ("<think>r</think>#### \u200b\n42", "r", None, ("answer_empty",)),
        ("<think>a</think><think>b</think>#### 42", "a", "42", ("think_repeated",)),
        ("<think>a</think><think>b</think> 1\n#### 42", "a", "42", ("think_repeated",)),
        ("<think>a</think>#### 42 </think>", "a", None, ("think_repeated", "think_after_answer")),
        ("<think>a</think><think>#### 42", "a", None, ("think_repeated", "think_unclosed")),
        ("<think>a</think>#### 41\n<think>#### 42", "a", None, ("think_repeated", "answer_repeated")),
    ],
)
def test_think_hash(text: str, think: str | None, answer: str | None, problems: tuple[str, ...]) -> None:
    check(text, SPECS["think_hash"], (think, answer, problems))


WELL_FORMED = re.compile(r"\s*<think>(.*?)</think>\s*<answer>(.*?)</answer>\s*", re.DOTALL)


def test_the_form_is_kept_exactly_where_a_plain_pattern_says_so() -> None:
    pieces = [*SPEC.tags, *(f"{tag}x" for tag in SPEC.tags), " "]
    kept = 0
    for count in range(6):
        for text in map("".join, itertools.product(pieces, repeat=count)):
            match = WELL_FORMED.fullmatch(text)
            parts = [part.strip() for part in match.groups()] if match else []
            well_formed = bool(parts) and all(parts) and not any(tag in p for p in parts for tag in SPEC.tags)
            response = parse(text)
            assert (response.problems == ()) == well_formed, text
            assert not well_formed or [response.think, response.answer] == parts
            kept += well_formed
    assert kept == 6  # <think>x</think><answer>x</answer>, and that with a space at one of five places


@pytest.mark.parametrize("text", ["a", " .", "\u200b!", "é", "漢", "\U0001f600", "\u0301"])
def test_visible(text: str) -> None:
    assert visible(text)


@pytest.mark.parametrize(
    "text",
    ["", " \n\t\u00a0\u3000", "\u200b\u200d\ufeff\u2060", "\u00ad", "\u2800", "\u3164", "\ufe0f", "\x00"],
)
def test_invisible(text: str) -> None:
    assert not visible(text)


def seconds(text: str, spec: TagSpec, tries: int) -> float:
    """The processor time of one parse, at best: what else runs on the machine only adds to it."""
    times = []
    for _ in range(tries):
        start = time.process_time()
        parse(text, spec=spec)
        times.append(time.process_time() - start)
    return min(times)


CLOSED = "<think>r</think>"
HARD = [
    ("", "<think>"),
    ("", "</think>"),
    ("", " "),
    (CLOSED, "<think>x</think>"),
    (CLOSED, "<answer>"),
    (CLOSED, "\\boxed{"),
    (CLOSED, "\\boxed "),
    (CLOSED + "\\boxed{", "{"),
    (CLOSED + "\\boxed{", "\\"),
    (CLOSED, "\n#### "),
    (CLOSED, "\n "),
    (CLOSED, "####"),
]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_time_is_linear_up_to_a_megabyte(spec: TagSpec) -> None:
    """Eight times the text takes about 8 times as long; a quadratic scan takes 64 times, 22 is between."""
    for lead, unit in HARD:
        small, large = (lead + unit * (size // len(unit)) for size in (125_000, 1_000_000))
        # The 20 ms forgive what a clock tick or a page fault adds to a parse of few milliseconds.
        most = 22 * seconds(small, spec, tries=2) + 0.02
        assert any(seconds(large, spec, tries=1) <= most for _ in range(3)), (lead, unit)
