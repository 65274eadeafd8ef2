"""think_format_graded: what a form that is nearly right earns, and that tags alone earn nothing."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rewards import REWARDS, SPECS, TagSpec

all_specs = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
everything = settings(deadline=None)
TAGS = ["<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "}", "\n#### "]
soup = st.lists(st.sampled_from([*TAGS, "42", " ", "\n", "\u200b"]) | st.text(max_size=4)).map("".join)


def grade(text: str, spec: TagSpec = SPECS["think_answer"], prefill: str = "") -> float | None:
    return REWARDS["think_format_graded"].with_spec(spec)(
        completions=[text],
        prefill=[prefill],
    )[0]


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("<think>r</think><answer>4</answer>", 3),
        ("\n<think> r </think>\n\n<answer> 4 </answer> ", 3),
        # Right but for text around, or for answer tags in the reasoning.
        ("Sure! <think>r</think><answer>4</answer>", 2),
        ("<think>r</think>So: <answer>4</answer>", 2),
        ("<think>r</think><answer>4</answer> Done.", 2),
        ("<think>r <answer>5</answer></think><answer>4</answer>", 2),
        # Reasoning, and no answer where one belongs.
        ("<think>r</think>4", 1),
        ("<think>r</think>", 1),
        ("<think>r</think><answer>4", 1),
        ("<think>r</think><answer></answer>", 1),
        ("<think>r</think><answer>\u200b</answer>", 1),
        ("<think>r</think><answer>4</answer><answer>4</answer>", 1),
        ("<think>r</think><answer><answer>4</answer></answer>", 1),
        # No reasoning, or more than once.
        ("", 0),
        ("4", 0),
        ("<answer>4</answer>", 0),
        ("<think>r", 0),
        ("<think>r<answer>4</answer>", 0),
        ("r</think><answer>4</answer>", 0),
        ("<think></think><answer>4</answer>", 0),
        ("<think> \u3164 </think><answer>4</answer>", 0),
        ("<think>a</think><think>b</think><answer>4</answer>", 0),
        ("<think>r</think><answer>4</answer><think>", 0),
        ("<answer>4</answer><think>r</think>", 1),
        ("<think></think><answer></answer>", 0),
        ("<think><answer></think><answer>4</answer>", 0),
        ("<think><b></b></answer></think>", 0),
        ("<think></think><answer></answer>" * 50, 0),
        ("<THINK>r</THINK><answer>4</answer>", 0),
    ],
)
def test_how_much_of_the_form_is_kept(text: str, held: int) -> None:
    (score,) = REWARDS["think_format_graded"].scores(completions=[text])
    assert score.value == held / 3
    assert score.reason.startswith(f"{held} of 3 requirements of the form: ")


@pytest.mark.parametrize(
    ("name", "text", "held"),
    [
        ("think_text", "<think>r</think>4", 3),
        ("think_text", "So <think>r</think>4", 2),
        ("think_text", "<think>r</think>", 1),
        ("think_boxed", "<think>r</think>It is \\boxed{4}.", 3),
        ("think_boxed", "So <think>r</think>It is \\boxed{4}.", 2),
        ("think_boxed", "<think>r</think>It is 4.", 1),
        ("think_boxed", "<think>r</think>\\boxed{4} \\boxed{4}", 1),
        ("think_boxed", "<think>r</think>\\boxed{4", 1),
        ("think_boxed", "\\boxed{4}", 0),
        ("think_hash", "<think>r</think>So\n#### 4", 3),
        ("think_hash", "<think>r</think>So 4", 1),
        ("think_hash", "#### 4", 0),
    ],
)
def test_the_other_forms(name: str, text: str, held: int) -> None:
    assert grade(text, SPECS[name]) == held / 3


def test_what_the_prompt_has_opened_is_not_earned() -> None:
    assert grade("", prefill="<think>\n") == 0.0
    assert grade("no end", prefill="<think>\n") == 0.0
    assert grade("r</think>4", prefill="<think>\n") == 1 / 3
    assert grade("r</think><answer>4</answer>", prefill="<think>\n") == 1.0


@all_specs
@everything
@given(text=soup, prefill=st.sampled_from(["", "<think>", "<think>\n"]))
def test_it_is_1_exactly_where_the_form_is_kept(spec: TagSpec, text: str, prefill: str) -> None:
    value = grade(text, spec, prefill)
    assert value in (0.0, 1 / 3, 2 / 3, 1.0)
    (kept,) = REWARDS["think_format"].with_spec(spec)(completions=[text], prefill=[prefill])
    assert (value == 1.0) == (kept == 1.0)


@all_specs
@settings(deadline=None, max_examples=500)
@given(tags=st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "\u200b"])))
@example(tags=["<think>", "<answer>", "</think>"])
def test_tags_alone_earn_nothing(spec: TagSpec, tags: list[str]) -> None:
    """Where the answer is in tags, no other text is there; elsewhere the tags of the answer are text."""
    kept = [tag for tag in tags if tag in spec.reserved or not tag.startswith("<")]
    assert grade("".join(kept), spec) == 0.0


@all_specs
@everything
@given(data=st.data())
def test_no_further_tag_raises_the_grade_of_a_form(spec: TagSpec, data: st.DataObject) -> None:
    right = spec.render("some reasoning", "42")
    cut = data.draw(
        st.sampled_from([right, right[: right.index("42")], right[: right.index("</think>") + 8]])
    )
    tags = data.draw(st.lists(st.sampled_from(spec.reserved), min_size=1, max_size=9))
    place = data.draw(st.integers(0, len("some reasoning")).map(lambda n: right.index("some") + n))
    before = grade(cut, spec)
    assert before is not None
    spammed = grade(cut[:place] + "".join(tags) + cut[place:], spec)
    assert spammed is not None
    assert spammed <= before
    assert spammed < 1.0
