"""Token by token: what carries loss, what is prefill, what ends a turn, how a prompt begins."""

from tiny import BOS, EOS, tiny_tokenizer

from rlreason.policy.chat import Renderer
from rlreason.policy.tokens import beginnings, in_short, online_mask, tokens
from rlreason.types import Example

TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
EXAMPLE = Example([{"role": "user", "content": "1+1"}], "2", {})


def renderer(template: str) -> Renderer:
    return Renderer(tiny_tokenizer(template), prompt_format="think_answer", system=None)


def test_the_completion_carries_loss_to_its_end_and_the_prompt_none() -> None:
    one = renderer(TEMPLATE)
    prompt = one.render(EXAMPLE)
    ids = one.tokenizer("ab", add_special_tokens=False)["input_ids"]
    found = tokens(one, prompt, [*ids, EOS], online_mask(prompt.ids, [*ids, EOS]), [EOS])
    assert [(token.text, token.loss, token.kind) for token in found] == [
        ("1", False, "prompt"), ("+", False, "prompt"), ("1", False, "prompt"), (">", False, "prompt"),
        ("a", True, "completion"), ("b", True, "completion"), ("</s>", True, "end"),
    ]  # fmt: skip


def test_the_prefill_of_a_template_is_marked() -> None:
    one = renderer(TEMPLATE.replace(">{%", "><think>\n{%"))
    prompt = one.render(EXAMPLE)
    found = tokens(one, prompt, [EOS], online_mask(prompt.ids, [EOS]), [EOS])
    assert "".join(token.text for token in found if token.kind == "prefill") == "<think>\n"
    assert not any(token.loss for token in found if token.kind == "prefill")
    assert "".join(token.text for token in found if token.kind == "prompt") == "1+1>"


def test_the_beginning_of_sequence_is_counted_at_the_start() -> None:
    tokenizer = tiny_tokenizer(TEMPLATE)
    assert beginnings(tokenizer, [BOS, 5, BOS, 6]) == 1  # in front of a second turn it is no mistake
    assert beginnings(tokenizer, [BOS, BOS, 5]) == 2
    assert beginnings(tokenizer, [5, 6]) == 0
    assert beginnings(tiny_tokenizer(TEMPLATE, bos_token=None), [5]) is None


def test_a_start_says_in_one_line_what_carries_loss() -> None:
    one = renderer(TEMPLATE)
    # 1, +, 1 and >; the template writes no beginning of sequence.
    assert in_short(one.tokenizer, one.render(EXAMPLE), [EOS]) == (
        f"prompt 4, of which 0 carry loss; completion ends with '</s>' (id {EOS}), which carries loss; "
        "prefill none; bos 0"
    )
    opened = renderer("<s>" + TEMPLATE.replace(">{%", "><think>{%"))
    said = in_short(opened.tokenizer, opened.render(EXAMPLE), [EOS])
    count = len(opened.tokenizer("<think>", add_special_tokens=False)["input_ids"])
    assert said.endswith(f"prefill '<think>' ({count}); bos 1")
