"""The parser: what it finds, what it names, and that no text breaks it."""

import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rewards import SPECS, TagSpec, parse

SPEC = SPECS["think_answer"]

# Tags, fragments of tags and anything else, so that the strange orders come up often.
soup = st.lists(
    st.sampled_from([*SPEC.tags, "<", "think>", "</", "42", " ", "\n", "\u200b"]) | st.text()
).map("".join)
inner = st.text().filter(lambda text: not any(tag in text for tag in SPEC.tags))


@given(soup, soup)
def test_any_text_gives_a_response(text: str, prefill: str) -> None:
    response = parse(text, prefill)
    assert response.text == prefill + text
    assert parse(prefill + text) == response
    # The form is kept exactly where there is nothing to complain about.
    if not response.problems:
        assert response.think
        assert response.answer


@given(inner, inner)
def test_render_then_parse_gives_both_back(think: str, answer: str) -> None:
    try:
        text = SPEC.render(think, answer)
    except ValueError:  # blank: see test_spec.py
        assume(False)
    response = parse(text)
    assert (response.think, response.answer, response.problems) == (think.strip(), answer.strip(), ())


@given(inner, inner)
def test_a_prefill_is_read_as_if_the_model_had_written_it(think: str, answer: str) -> None:
    try:
        text = SPEC.render(think, answer)
    except ValueError:
        assume(False)
    assert parse(text.removeprefix("<think>\n"), prefill="<think>\n") == parse(text)


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
        ("<think>r</think><answer>\u200b</answer>", "r", None, ("answer_empty",)),
        ("<think>a</think><think>b</think><answer>42</answer>", "a", "42", ("think_repeated",)),
        (
            "<think>a</think><answer>41</answer><think>b</think><answer>42</answer>",
            "a",
            None,
            ("think_repeated", "answer_repeated"),
        ),
        (
            "<think>a</think><answer>41</answer></think>",
            "a",
            None,
            ("think_repeated", "think_after_answer"),
        ),
        (
            "<think>a</think><think><answer>42</answer>",
            "a",
            None,
            ("think_repeated", "think_unclosed"),
        ),
        ("<think>a <answer>41</answer></think><answer>42</answer>", "a <answer>41</answer>", "42", None),
        ("</think><think>a</think><answer>42</answer>", "a", "42", None),
    ],
)
def test_problems(text: str, think: str | None, answer: str | None, problems: tuple[str, ...] | None) -> None:
    response = parse(text)
    assert (response.think, response.answer) == (think, answer)
    if problems is None:
        assert response.problems
    else:
        assert response.problems == problems


def test_the_answer_is_not_looked_for_in_the_reasoning() -> None:
    assert parse("<think>it is <answer>42</answer></think>").answer is None


def test_tags_in_an_odd_order_are_a_problem_of_their_own() -> None:
    odd = "<think>r</think><answer>42</answer>"
    assert parse(odd).problems == ()
    # Four right tags and no text out of place, but the reasoning is closed before it opens.
    assert parse("</think><think><answer>1</answer>").problems


@pytest.mark.parametrize("unit", ["<think>", "</think>", "<answer>", "<", "<think", " ", "<think></think>"])
def test_time_is_linear(unit: str) -> None:
    start = time.perf_counter()
    parse(unit * (1_000_000 // len(unit)))
    assert time.perf_counter() - start < 3  # a quadratic scan of a megabyte takes hours


def test_another_spec() -> None:
    spec = TagSpec("[r]", "[/r]", "[a]", "[/a]")
    response = parse(spec.render("why", "7"), spec=spec)
    assert (response.think, response.answer, response.problems) == ("why", "7", ())
