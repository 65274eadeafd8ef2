from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rewards import SPECS
from rlreason.policy.scratch import scratch_tokenizer

TAGS = SPECS["think_answer"].tags
# With what a trace holds: its answer stands apart, without a space before it.
TEXTS = [
    "What is 12 + 345?",
    "12 + 345 = 357",
    "357",
    "State the final answer: 7 - 2 = 5\n",
    "  two  spaces\tand a tab",
]


@pytest.mark.parametrize("text", [*TEXTS, "system\n", "user\nassistant\n"])
def test_its_texts_come_back_as_they_were(text: str) -> None:
    tokenizer = scratch_tokenizer(TEXTS, TAGS)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(alphabet=[chr(c) for c in range(32, 127)] + list("\n\té×−½漢"), max_size=40).filter(  # noqa: RUF001
        lambda text: "<|" not in text
    )
)
@example(text=" 1  2\n\n a  bc ")
def test_any_text_that_it_was_made_for_comes_back(text: str) -> None:
    tokenizer = scratch_tokenizer([text])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_a_rendered_trace_comes_back_and_every_tag_is_one_token() -> None:
    tokenizer = scratch_tokenizer(TEXTS, TAGS)
    text = SPECS["think_answer"].render("12 + 345 = 357", "357")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    for tag in TAGS:
        (token,) = tokenizer(tag, add_special_tokens=False)["input_ids"]
        assert ids.count(token) == 1
    # Tags are text: dropping special tokens must not drop them.
    assert tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) == text


def test_digits_stand_alone_and_words_are_whole() -> None:
    tokenizer = scratch_tokenizer(TEXTS)
    assert tokenizer.tokenize("What is 345?") == ["What", " is", " ", "3", "4", "5", "?"]


def test_what_it_was_not_made_for_is_unknown() -> None:
    tokenizer = scratch_tokenizer(TEXTS)
    assert tokenizer("zebra", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_the_special_tokens_are_apart() -> None:
    tokenizer = scratch_tokenizer(TEXTS, TAGS)
    ids = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.eos_token_id]
    assert len(set(ids)) == 3
    assert tokenizer.bos_token_id is None
    assert len(tokenizer) == len(set(tokenizer.get_vocab().values()))


def test_the_chat_template_renders_turns(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "What is the"}, {"role": "user", "content": "What is 12?"}]
    expected = "<|im_start|>system\nWhat is the<|im_end|>\n"
    expected += "<|im_start|>user\nWhat is 12?<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = scratch_tokenizer(TEXTS, TAGS)
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        text = one.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        assert text == expected
        ids = one(text, add_special_tokens=False)["input_ids"]
        assert one.unk_token_id not in ids
        assert ids.count(one.eos_token_id) == 2
        assert one.decode(ids, clean_up_tokenization_spaces=False) == expected


def test_it_is_the_same_after_saving(tmp_path: Path) -> None:
    tokenizer = scratch_tokenizer(TEXTS, TAGS)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<think>\n12 + 345 = 357\n</think>\n<answer>357</answer>"
    first, second = (one(text, add_special_tokens=False)["input_ids"] for one in (tokenizer, again))
    assert first == second
    assert again.get_vocab() == tokenizer.get_vocab()
    assert (again.eos_token, again.pad_token, again.unk_token) == ("<|im_end|>", "<|pad|>", "<|unk|>")


def test_numbers_are_one_token_with_their_sign() -> None:
    tokenizer = scratch_tokenizer(["12 - 15 = -3", "-3 + 12"], TAGS, tokens="numbers")
    assert tokenizer.tokenize("12 - 15 = -3") == ["12", " - ", "15", " = ", "-3"]
    assert tokenizer.decode(tokenizer("-3 + 12")["input_ids"]) == "-3 + 12"


@settings(max_examples=20, deadline=None)
@given(text=st.text(max_size=60).filter(lambda text: "<|" not in text and "\ud800" not in text))
def test_byte_pairs_spell_any_text(text: str) -> None:
    tokenizer = scratch_tokenizer(TEXTS, TAGS, tokens="bpe", vocabulary=300)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_byte_pairs_keep_tags_and_digits_apart() -> None:
    tokenizer = scratch_tokenizer(["12 12 12 12 " * 50], TAGS, tokens="bpe", vocabulary=400)
    pieces = tokenizer.tokenize("<think>1212</think>")
    assert pieces == ["<think>", "1", "2", "1", "2", "</think>"]
    assert len(tokenizer) <= 400 + len(TAGS)
