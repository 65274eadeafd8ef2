"""The form is stated once: the system prompt shows what the parser accepts."""

import pytest

from rewards import SPECS, TagSpec, parse

SPEC = SPECS["think_answer"]


def test_render() -> None:
    assert SPEC.render("2 + 2 = 4", "4") == "<think>\n2 + 2 = 4\n</think>\n<answer>4</answer>"


def test_the_system_prompt_shows_a_form_that_the_parser_accepts() -> None:
    prompt = SPEC.system_prompt()
    shown = parse(prompt[prompt.index(SPEC.think_open) :])
    assert shown.problems == ()
    assert len(prompt) <= 140  # 34 tokens of SmolLM2's tokenizer


@pytest.mark.parametrize(
    ("think", "answer"),
    [("", "4"), (" \n", "4"), ("r", ""), ("r", "\u200b"), ("a</think>b", "4"), ("r", "<answer>")],
)
def test_render_refuses_what_the_parser_would(think: str, answer: str) -> None:
    with pytest.raises(ValueError, match=r"is blank|contains one of the tags"):
        SPEC.render(think, answer)


@pytest.mark.parametrize("close", ["<think>", "", "think"])
def test_tags_must_be_told_apart(close: str) -> None:
    with pytest.raises(ValueError, match="cannot be told apart"):
        TagSpec(think_close=close)
