"""What holds for every text in every form: of the parser, and of accuracy, which reads only the answer."""

import re

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from rewards import REWARDS, SPECS, TagSpec, parse
from rewards.spec import visible

PROBLEMS = {
    "think_missing",
    "think_unclosed",
    "think_empty",
    "think_repeated",
    "think_after_answer",
    "answer_missing",
    "answer_unclosed",
    "answer_empty",
    "answer_repeated",
    "answer_in_think",
    "text_outside_tags",
}
TAGS = ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "\n#### "]
FRAGMENTS = [
    "<",
    "</",
    "think>",
    "\\",
    "\\boxed",
    "{",
    "\\}",
    "##",
    "#",
    "42",
    " ",
    "\n",
    "\r",
    "\u200b",
    "\u3164",
]

all_specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
everything = settings(deadline=None)
# Tags, fragments of tags and anything else, so that the strange orders come up often.
soup = st.lists(st.sampled_from(TAGS + FRAGMENTS) | st.text(max_size=4)).map("".join)
# What reasoning or an answer may look like, marks of the other forms included.
inner = st.lists(
    st.sampled_from(["a", " ", "\n", "42", "{x}", "\\{", "\\frac{1}{2}", "#### 7", "\\boxed{3}", "<b>", "</"])
    | st.text(max_size=6)
).map("".join)
blanks = st.text(alphabet=" \t\n\r\x0b\x85\u00a0\u2003\u2028", max_size=4)


def render(spec: TagSpec, think: str, answer: str) -> str:
    try:
        return spec.render(think, answer)
    except ValueError:  # what cannot be rendered is in test_spec.py
        assume(False)
        raise


@all_specs
@everything
@given(text=st.text() | soup, prefill=soup)
@example(text="</think><think><answer>5</answer>", prefill="")
@example(text="</think><think>\\boxed{5}", prefill="")
def test_any_text_gives_a_response(spec: TagSpec, text: str, prefill: str) -> None:
    response = parse(text, prefill, spec)
    whole = prefill + text
    assert response.text == whole
    assert parse(whole, spec=spec) == response
    assert set(response.problems) <= PROBLEMS
    assert len(set(response.problems)) == len(response.problems)
    if response.think is not None:
        assert response.think in whole[: whole.rindex("</think>")]
    if response.answer is not None:
        assert response.answer in whole[whole.index("</think>") :]
        assert visible(response.answer)
        assert response.answer == response.answer.strip()
    # The form is kept exactly where there is nothing to complain about.
    if not response.problems:
        assert visible(response.think or "")
        assert response.answer is not None
        again = parse(spec.render(response.think or "", response.answer), spec=spec)
        assert (again.think, again.answer, again.problems) == (response.think, response.answer, ())


@all_specs
@everything
@given(think=inner, answer=inner)
def test_render_then_parse_gives_both_back(spec: TagSpec, think: str, answer: str) -> None:
    response = parse(render(spec, think, answer), spec=spec)
    assert (response.think, response.answer, response.problems) == (think.strip(), answer.strip(), ())


@all_specs
@everything
@given(think=inner, answer=inner, cut=st.integers(min_value=0, max_value=40))
def test_it_does_not_matter_how_much_the_prompt_had_written(
    spec: TagSpec, think: str, answer: str, cut: int
) -> None:
    text = render(spec, think, answer)
    assert parse(text[cut:], prefill=text[:cut], spec=spec) == parse(text, spec=spec)


def spaced(spec: TagSpec, think: str, answer: str, gaps: list[str]) -> str:
    """The completion with white space in all the places where there may be some, written by hand."""
    before, opened, closing, between, start, end, after = gaps
    reasoning = f"{before}<think>{opened}{think}{closing}</think>{between}"
    if spec.answer_form == "tags":
        return f"{reasoning}<answer>{start}{answer}{end}</answer>{after}"
    if spec.answer_form == "text":
        return f"{reasoning}{answer}{after}"
    if spec.answer_form == "braces":
        return f"{reasoning}\\boxed{{{start}{answer}{end}}}{after}"
    start, end = start.replace("\n", ""), end.replace("\n", "")
    return f"{reasoning}#### {start}{answer.strip()}{end}\n{after}"


@all_specs
@everything
@given(think=inner, answer=inner, gaps=st.lists(blanks, min_size=7, max_size=7))
def test_white_space_around_the_parts_says_nothing(
    spec: TagSpec, think: str, answer: str, gaps: list[str]
) -> None:
    plain = parse(render(spec, think, answer), spec=spec)
    wide = parse(spaced(spec, think, answer, gaps), spec=spec)
    assert (wide.think, wide.answer, wide.problems) == (plain.think, plain.answer, plain.problems)


def answer_parts(name: str, text: str) -> list[str]:
    """Generously, all that could be taken for an answer behind the first end of reasoning."""
    tail = text.partition("</think>")[2]
    if name == "think_answer":
        return re.findall(r"<answer>(.*?)(?:</answer>|\Z)", tail, re.DOTALL)
    if name == "think_text":
        return [part.partition("<think>")[0] for part in text.split("</think>")[1:]]
    if name == "think_boxed":
        return re.findall(r"\\boxed\{([^}]*)", tail)
    return [part for piece in re.split("</?think>", tail) for part in re.findall(r"(?m)^ *####(.*)", piece)]


GOLDS = [("7919", "math"), ("7919", "number"), ("-5/7", "math"), ("B", "choice"), ("Lagrange", "exact")]


@pytest.mark.parametrize("name", SPECS)
@settings(deadline=None, max_examples=200)
@given(data=st.data(), gold_and_type=st.sampled_from(GOLDS))
def test_nothing_is_earned_without_the_gold_in_the_answer_part(
    name: str, data: st.DataObject, gold_and_type: tuple[str, str]
) -> None:
    gold, kind = gold_and_type
    reasoned = "<think>so</think>"  # often enough that what follows could earn something
    pieces = st.sampled_from([*TAGS, reasoned, gold, gold, "41", " ", "\n", " or ", "not ", "answer: ", "="])
    text = data.draw(st.lists(pieces, max_size=16).map("".join), label="text")
    prefill = data.draw(st.sampled_from(["", "<think>", f"<think>{gold}</think>"]), label="prefill")
    reward = REWARDS["accuracy"].with_spec(SPECS[name])
    (value,) = reward(completions=[text], prefill=[prefill], answer=[gold], answer_type=[kind])
    if not any(gold in part for part in answer_parts(name, prefill + text)):
        assert value == 0.0


def hidden(spec: TagSpec, gold: str, wrong: str) -> dict[str, str]:
    """Completions that hold the gold value everywhere but in the one answer behind the reasoning."""
    right, false = (spec.render("so", answer) for answer in (gold, wrong))
    think_open, think_close = spec.think_open, spec.think_close
    gold_part, false_part = (text.partition(think_close)[2] for text in (right, false))
    return {
        "in the reasoning": spec.render(f"it is {gold}", wrong),
        "as an answer in the reasoning": f"{think_open}so{gold_part}\n{think_close}{false_part}",
        "in front": f"{gold_part}\n{false}",
        "in reasoning behind the answer": f"{false}\n{think_open}{gold}{think_close}",
        "as an answer in reasoning behind the answer": f"{false}\n{think_open}{gold_part}\n{think_close}",
        "in reasoning that is opened again": f"{think_open}so{think_close}{think_open}{gold_part}",
        "without reasoning": gold_part,
        "in reasoning that is not closed": f"{think_open}so{gold_part}",
        "in tags of another case": right.replace(think_open, "<THINK>").replace(think_close, "</THINK>"),
        "behind a wrong answer": f"{false}\n{think_open}no{think_close}{gold_part}",
        "before a wrong answer": f"{right}\n{think_open}no{think_close}{false_part}",
        "behind a wrong answer, directly": f"{false} {gold_part}",
        "before a wrong answer, directly": f"{right} {false_part}",
        "alone": gold,
    }


@all_specs
@everything
@given(gold=st.integers(min_value=2, max_value=10**9), off=st.integers(min_value=1, max_value=10**6))
def test_the_gold_in_any_other_place_earns_nothing(spec: TagSpec, gold: int, off: int) -> None:
    reward = REWARDS["accuracy"].with_spec(spec)
    texts = hidden(spec, str(gold), str(gold + off))
    values = reward(completions=list(texts.values()), answer=[gold] * len(texts))
    assert [place for place, value in zip(texts, values, strict=True) if value != 0.0] == []
    assert reward(completions=[spec.render("so", str(gold))], answer=[gold]) == [1.0]


def spellings(value: int) -> list[str]:
    return [
        str(value),
        f"{value:,}",
        f"{value}.0",
        f"${value}$",
        f"**{value}**",
        f"x = {value}",
        f"\\frac{{{2 * value}}}{{2}}",
        f"{value} clips",
        f"The answer is {value}.",
    ]


@all_specs
@everything
@given(
    gold=st.integers(min_value=-(10**6), max_value=10**6),
    other=st.integers(min_value=-(10**6), max_value=10**6),
)
def test_another_number_earns_nothing_however_it_is_written(spec: TagSpec, gold: int, other: int) -> None:
    assume(gold != other)
    reward = REWARDS["accuracy"].with_spec(spec)
    texts = [spec.render(f"{gold} or {other}", answer) for answer in spellings(other)]
    assert reward(completions=texts, answer=[gold] * len(texts)) == [0.0] * len(texts)
