"""A form is stated once: what is rendered and what the system prompt shows is what the parser accepts."""

import copy
import pickle
from dataclasses import replace

import pytest

from rewards import SPECS, TagSpec, parse

SPEC = SPECS["think_answer"]


@pytest.mark.parametrize(
    ("name", "rendered"),
    [
        ("think_answer", "<think>\n2 + 2 = 4\n</think>\n<answer>4</answer>"),
        ("think_text", "<think>\n2 + 2 = 4\n</think>\n4"),
        ("think_boxed", "<think>\n2 + 2 = 4\n</think>\n\\boxed{4}"),
        ("think_hash", "<think>\n2 + 2 = 4\n</think>\n#### 4"),
    ],
)
def test_render(name: str, rendered: str) -> None:
    assert SPECS[name].render("2 + 2 = 4", "4") == rendered


def test_the_specs_are_these_and_all_reason_between_the_same_tags() -> None:
    assert list(SPECS) == ["think_answer", "think_text", "think_boxed", "think_hash"]
    assert {(spec.think_open, spec.think_close) for spec in SPECS.values()} == {("<think>", "</think>")}
    assert {name: spec.tags[2:] for name, spec in SPECS.items()} == {
        "think_answer": ("<answer>", "</answer>"),
        "think_text": (),
        "think_boxed": ("\\boxed{", "}"),
        "think_hash": ("#### ",),
    }


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_system_prompt_shows_a_form_that_the_parser_accepts(spec: TagSpec) -> None:
    prompt = spec.system_prompt()
    shown = parse(prompt[prompt.index(spec.think_open) :], spec=spec)
    assert (shown.think, shown.answer, shown.problems) == ("reasoning", "result", ())
    assert len(prompt) <= 140  # 34 tokens of SmolLM2's tokenizer, for think_answer


def test_no_two_system_prompts_are_alike() -> None:
    assert len({spec.system_prompt() for spec in SPECS.values()}) == len(SPECS)


@pytest.mark.parametrize(
    ("think", "answer"),
    [
        ("", "4"),
        (" \n", "4"),
        ("r", ""),
        ("r", "\u200b"),
        ("r", "\u3164"),
        ("a</think>b", "4"),
        ("r", "<think>"),
    ],
)
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_render_refuses_what_the_parser_would(spec: TagSpec, think: str, answer: str) -> None:
    with pytest.raises(ValueError, match=r"is blank|contains one of the tags"):
        spec.render(think, answer)


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("think_answer", "</answer>", "contains one of the tags"),
        ("think_boxed", "4}", "balance its braces"),
        ("think_boxed", "{4", "balance its braces"),
        ("think_boxed", "}4{", "balance its braces"),
        ("think_boxed", "4\\", "balance its braces"),  # would escape the closing brace
        ("think_boxed", "\\boxed{4}", r"leave \\boxed out"),
        ("think_hash", "4\n5", "has several lines"),
    ],
)
def test_render_refuses_an_answer_that_cannot_stand_in_the_form(name: str, answer: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SPECS[name].render("r", answer)


@pytest.mark.parametrize(
    ("name", "think", "answer"),
    [
        ("think_answer", "first \\boxed{3}\n#### 3", "\\boxed{4}"),
        ("think_text", "<answer>3</answer>", "Two lines,\n<answer>4</answer>."),
        ("think_boxed", "it is \\boxed{3}, no, \\boxed{4", "\\left\\{ \\frac{1}{2} \\right."),
        ("think_boxed", "r", "\\boxedx"),  # another command
        ("think_hash", "#### 3\n#### 5", "# 4"),
        ("think_hash", "r", "\n4\n"),
    ],
)
def test_what_is_no_tag_of_the_form_is_only_text(name: str, think: str, answer: str) -> None:
    spec = SPECS[name]
    response = parse(spec.render(think, answer), spec=spec)
    assert (response.think, response.answer, response.problems) == (think, answer.strip(), ())


@pytest.mark.parametrize("close", ["<think>", "", "think", "><"])
def test_tags_must_be_told_apart(close: str) -> None:
    with pytest.raises(ValueError, match="cannot be told apart"):
        TagSpec(think_close=close)


@pytest.mark.parametrize(
    "tags",
    [
        ("abc", "cde", "[a]", "[/a]"),  # "abcde" holds both, and a scan finds one
        ("aa", "[/r]", "[a]", "[/a]"),  # "aaa" holds it at two places
        ("[r]", "[/r]", " ", "[/a]"),
    ],
)
def test_tags_must_not_overlap_in_a_text(tags: tuple[str, str, str, str]) -> None:
    with pytest.raises(ValueError, match="cannot be told apart"):
        TagSpec(*tags)


@pytest.mark.parametrize(
    ("answer_open", "answer_close", "form"),
    [
        ("<a>", "", "tags"),
        ("<a>", "</a>", "text"),
        ("boxed{", "}", "braces"),
        ("\\boxed{", "", "braces"),
        ("\\boxed", "}", "braces"),
        ("", "", "line"),
        ("####", "", "line"),
        (" #### ", "", "line"),
        ("#\n# ", "", "line"),
        ("#### ", "####", "line"),
    ],
)
def test_delimiters_must_fit_the_form(answer_open: str, answer_close: str, form: str) -> None:
    with pytest.raises(ValueError, match=f"do not fit answer_form '{form}'"):
        TagSpec(answer_open=answer_open, answer_close=answer_close, answer_form=form)  # type: ignore[arg-type]


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(ValueError, match=r"answer_form 'xml' is not known: give one of tags, text"):
        TagSpec(answer_form="xml")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    [
        TagSpec("[r]", "[/r]", "[a]", "[/a]"),
        TagSpec("◁think▷", "◁/think▷", "", "", "text"),
        TagSpec("[r]", "[/r]", "\\fbox{", "}", "braces"),
        TagSpec("[r]", "[/r]", "Answer: ", "", "line"),
    ],
    ids=lambda spec: spec.answer_form,
)
def test_another_spec(spec: TagSpec) -> None:
    response = parse(spec.render("why", "7"), spec=spec)
    assert (response.think, response.answer, response.problems) == ("why", "7", ())


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_spec_is_a_value(spec: TagSpec) -> None:
    fresh = replace(spec)
    before = pickle.dumps(fresh)
    parse("", spec=fresh)
    assert pickle.dumps(fresh) == before
    for twin in (fresh, copy.deepcopy(fresh), pickle.loads(before)):
        assert twin == spec
        assert hash(twin) == hash(spec)
