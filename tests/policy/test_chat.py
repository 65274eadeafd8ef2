from types import SimpleNamespace
from typing import Any, get_args

import pytest
from tiny import EOS, tiny_model, tiny_tokenizer, with_lora

from rewards import SPECS, parse
from rlreason.config.data import PromptConfig
from rlreason.errors import UserError
from rlreason.policy.chat import Renderer, end_of_sequence_ids, render_all
from rlreason.policy.scratch import scratch_tokenizer
from rlreason.types import Example

_TURNS = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}\n{% endfor %}"
PLAIN = _TURNS + "{% if add_generation_prompt %}[assistant]{% endif %}"
OPENS = _TURNS + "{% if add_generation_prompt %}[assistant]<think>{% endif %}"
OPENS_LINE = _TURNS + "{% if add_generation_prompt %}[assistant]<think>{{ '\n' }}{% endif %}"
WITH_BOS = "{{ bos_token }}" + PLAIN
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN
)

EXAMPLE = Example([{"role": "user", "content": "What is 2 + 3?"}], "5")
THINK = "2 + 3 = 5"


def renderer(
    template: str | None, *, system: str | None = None, form: str = "think_answer", **options: Any
) -> Renderer:
    return Renderer(tiny_tokenizer(template, **options), prompt_format=form, system=system)


def test_the_config_offers_every_form_and_no_other() -> None:
    assert get_args(PromptConfig.model_fields["format"].annotation) == tuple(SPECS)


@pytest.mark.parametrize("form", SPECS)
@pytest.mark.parametrize(
    ("template", "prefill"), [(PLAIN, ""), (OPENS, "<think>"), (OPENS_LINE, "<think>\n")]
)
def test_what_the_template_opens_is_found_and_scored_with_the_completion(
    template: str, prefill: str, form: str
) -> None:
    chat = renderer(template, form=form)
    prompt = chat.render(EXAMPLE)
    assert prompt.prefill == prefill
    written = chat.completion_ids(prompt, chat.spec.render(THINK, "5"))
    completion = chat.decode(written, [EOS])
    response = parse(completion, prefill=prompt.prefill, spec=chat.spec)
    assert (response.think, response.answer, response.problems) == (THINK, "5", ())


def test_a_think_tag_in_the_question_is_no_prefill() -> None:
    asked = Example([{"role": "user", "content": "Say <think>"}], "x")
    assert renderer(PLAIN).render(asked).prefill == ""
    # Here nothing stands behind the question, so that the prompt ends as if the template had opened the tag.
    assert renderer(_TURNS).render(asked).prefill == ""
    assert renderer(_TURNS + "{% if add_generation_prompt %}<think>{% endif %}").render(EXAMPLE).prefill


def test_reasoning_that_the_template_has_switched_off_is_no_prefill() -> None:
    """Templates of models that can do without write an empty block; the completion has one of its own."""
    off = PLAIN + "{% if add_generation_prompt %}<think>{{ '\n\n' }}</think>{{ '\n\n' }}{% endif %}"
    assert renderer(off).render(EXAMPLE).prefill == ""


@pytest.mark.parametrize("form", SPECS)
def test_every_form_is_asked_for_by_a_system_prompt_of_its_own(form: str) -> None:
    chat = renderer(PLAIN, system="auto", form=form)
    assert chat.messages(EXAMPLE)[0]["content"] == SPECS[form].system_prompt()


@pytest.mark.parametrize("form", SPECS)
def test_a_tokenizer_made_for_a_form_can_write_it(form: str) -> None:
    tokenizer = scratch_tokenizer([THINK, "5"], Renderer.tags(form))
    text = SPECS[form].render(THINK, "5")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


@pytest.mark.parametrize(
    ("form", "end"),
    [
        ("think_answer", "<answer>5</answer>"),
        ("think_text", "5"),
        ("think_boxed", "\\boxed{5}"),
        ("think_hash", "#### 5"),
    ],
)
@pytest.mark.parametrize("template", [PLAIN, OPENS, OPENS_LINE])
def test_the_reasoning_is_in_the_tokens_that_carry_loss(template: str, form: str, end: str) -> None:
    chat = renderer(template, form=form)
    prompt = chat.render(EXAMPLE)
    completion = chat.completion_ids(prompt, chat.spec.render(THINK, "5"))
    assert completion[-1] == EOS
    assert completion.count(EOS) == 1
    text = chat.decode(completion, [EOS])
    assert text.count(THINK) == 1
    assert text.endswith(f"</think>\n{end}")
    # Prompt and completion together open the reasoning exactly once.
    assert chat.decode([*prompt.ids, *completion], [EOS]).count("<think>") == 1


def test_a_completion_that_does_not_open_the_reasoning_is_left_as_it_is() -> None:
    chat = renderer(OPENS)
    ids = chat.completion_ids(chat.render(EXAMPLE), "\n" + THINK)
    assert chat.decode(ids, [EOS]) == "\n" + THINK


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize(("template", "count"), [(WITH_BOS, 1), (PLAIN, 0)])
def test_bos_comes_from_the_template_alone(template: str, count: int, adds_bos: bool) -> None:
    chat = renderer(template, adds_bos=adds_bos)
    prompt = chat.render(EXAMPLE)
    assert prompt.ids.count(1) == count
    assert prompt.ids[:1] == [1] or count == 0
    assert 1 not in chat.completion_ids(prompt, "text")


def test_a_template_that_writes_bos_twice_is_refused() -> None:
    with pytest.raises(UserError, match="BOS token '<s>' twice"):
        renderer("{{ bos_token }}" + WITH_BOS).render(EXAMPLE)


def test_a_tokenizer_without_chat_template_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.path.*no chat template.*instruct model"):
        renderer(None)


def test_a_template_that_takes_no_system_prompt_says_what_to_do() -> None:
    """Gemma's templates raise on a system message."""
    with pytest.raises(UserError, match=r"no system role.*prompt\.system=null"):
        renderer(NO_SYSTEM, system="auto").render(EXAMPLE)
    assert renderer(NO_SYSTEM).render(EXAMPLE).ids


def test_the_system_prompt_stands_in_front_and_joins_the_examples_own() -> None:
    asked = SPECS["think_answer"].system_prompt()
    chat = renderer(PLAIN, system="auto")
    assert (
        chat.decode(chat.render(EXAMPLE).ids, [EOS]) == f"[system]{asked}\n[user]What is 2 + 3?\n[assistant]"
    )
    own = Example([{"role": "system", "content": "Be brief."}, *EXAMPLE.prompt], "5")
    assert chat.messages(own)[0] == {"role": "system", "content": f"{asked}\n\nBe brief."}
    assert len(chat.messages(own)) == 2
    assert renderer(PLAIN, system="Mine.").messages(EXAMPLE)[0]["content"] == "Mine."
    assert renderer(PLAIN).messages(own) == own.prompt
    assert own.prompt[0]["content"] == "Be brief."  # the example is left as it is


def test_decode_takes_off_nothing_but_the_end() -> None:
    chat = renderer(PLAIN)
    word = chat.tokenizer("hi", add_special_tokens=False)["input_ids"]
    assert chat.decode([*word, EOS], [EOS]) == "hi"
    assert chat.decode([1, *word, 0, EOS], [EOS]) == "<s>hi<pad>"
    assert chat.decode([*word, EOS, 0], [EOS, 0]) == "hi"
    assert chat.decode(word, []) == "hi"
    assert chat.decode([], [EOS]) == ""


@pytest.mark.parametrize("text", ["a , b . c !", " leading", "line\n\n  break ", "it 's"])
def test_decode_keeps_every_space(text: str) -> None:
    chat = renderer(PLAIN)
    assert chat.decode(chat.completion_ids(chat.render(EXAMPLE), text), [EOS]) == text


def test_end_of_sequence_ids_are_collected_from_everywhere() -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = [9, 7]
    model.config.eos_token_id = 11
    assert end_of_sequence_ids(model, tiny_tokenizer()) == (2, 7, 9, 11)
    assert end_of_sequence_ids(with_lora(model), tiny_tokenizer()) == (2, 7, 9, 11)


def test_the_id_zero_is_an_id() -> None:
    model = SimpleNamespace(config=SimpleNamespace(eos_token_id=0), generation_config=None)
    assert end_of_sequence_ids(model, SimpleNamespace(eos_token_id=None)) == (0,)


def test_a_model_that_cannot_end_is_refused() -> None:
    model = SimpleNamespace(config=SimpleNamespace(eos_token_id=None))
    with pytest.raises(UserError, match="end-of-sequence"):
        end_of_sequence_ids(model, SimpleNamespace(eos_token_id=None))


def test_long_prompts_are_left_out_and_counted_never_cut() -> None:
    chat = renderer(PLAIN)
    texts = ["a", "a" * 50, "ab"]
    examples = [Example([{"role": "user", "content": text}], "x") for text in texts]
    fixed = len("[user]\n[assistant]")
    kept, dropped = render_all(chat, examples, max_tokens=fixed + 2)
    assert [prompt.example.question for prompt in kept] == ["a", "ab"]
    assert [len(prompt.ids) for prompt in kept] == [fixed + 1, fixed + 2]
    assert dropped == 1
