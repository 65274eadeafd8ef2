"""From an Example to prompt token ids, and from token ids back to text.

The system prompt comes from the same tag specification that the parser of the rewards reads.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from rewards import SPECS
from rlreason.errors import UserError
from rlreason.types import Example, Message


@dataclass(frozen=True)
class RenderedPrompt:
    """`ids` is what the model reads; `prefill` is what the template already wrote of the completion."""

    example: Example
    ids: list[int]
    prefill: str


class Renderer:
    """Renders prompts with the model's chat template. Raises UserError if the tokenizer has none."""

    def __init__(self, tokenizer: Any, *, prompt_format: str, system: str | None) -> None:
        if not tokenizer.chat_template:
            raise UserError(
                "model.path: its tokenizer has no chat template, so questions cannot be put to it. "
                "Use an instruct model, or set tokenizer.chat_template and save the tokenizer with the model."
            )
        self.tokenizer = tokenizer
        self.spec = SPECS[prompt_format]
        self._system = self.system_text(prompt_format, system)

    @staticmethod
    def system_text(prompt_format: str, system: str | None) -> str | None:
        """The system prompt of a config: `auto` is rendered from the tag specification."""
        return SPECS[prompt_format].system_prompt() if system == "auto" else system

    @staticmethod
    def tags(prompt_format: str) -> tuple[str, ...]:
        """What a format sets its parts off with, for tokenizers that are made to hold it."""
        return SPECS[prompt_format].tags

    def messages(self, example: Example) -> list[Message]:
        """The example's messages with the system prompt in front, merged with the example's own if any."""
        if not self._system:
            return example.prompt
        if example.prompt and example.prompt[0]["role"] == "system":
            own = example.prompt[0]["content"]
            first = {"role": "system", "content": f"{self._system}\n\n{own}"}
            return [first, *example.prompt[1:]]
        return [{"role": "system", "content": self._system}, *example.prompt]

    def render(self, example: Example) -> RenderedPrompt:
        """Render one question. Raises UserError if the template refuses the messages or doubles the BOS."""
        try:
            text = self.tokenizer.apply_chat_template(
                self.messages(example), add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise UserError(
                f"the chat template of this model refuses the messages of {example.question[:80]!r} "
                f"({error}). If it takes no system prompt, set prompt.system=null and put the instruction "
                "in the questions"
            ) from error
        ids = self._encode(text)
        return RenderedPrompt(example, ids, self._prefill(example, text))

    def _encode(self, text: str) -> list[int]:
        """Encode template output: the template wrote every special token, so the tokenizer adds none.

        Templates of models with a BOS write it themselves; a tokenizer that adds another makes two.
        """
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        if bos is not None and bos != self.tokenizer.eos_token_id and ids[:2] == [bos, bos]:
            raise UserError(f"the chat template writes the BOS token {self.tokenizer.bos_token!r} twice")
        return ids

    def _prefill(self, example: Example, text: str) -> str:
        """The opening think tag that the template wrote at the end of a prompt, and the blanks behind it."""
        opener = self.spec.think_open
        stripped = text.rstrip()
        if not stripped.endswith(opener):
            return ""
        messages = self.messages(example)
        if messages[-1]["content"].rstrip().endswith(opener):
            # A template that marks no turns ends with the question, whose tag is not the template's.
            asked = self.tokenizer.apply_chat_template(messages, add_generation_prompt=False, tokenize=False)
            if asked.rstrip().endswith(opener):
                return ""
        return text[len(stripped) - len(opener) :]

    def completion_ids(self, prompt: RenderedPrompt, text: str) -> list[int]:
        """Encode a written completion for supervised training: what the template has not opened, and EOS."""
        if prompt.prefill:
            opener = self.spec.think_open
            text = text[len(opener) :].lstrip("\n") if text.startswith(opener) else text
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                "model.path: its tokenizer names no end-of-sequence token, so no completion could be taught "
                "to end; set eos_token in tokenizer_config.json"
            )
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*ids, self.tokenizer.eos_token_id]

    def decode(self, ids: Sequence[int], eos_ids: Iterable[int]) -> str:
        """The text of a completion without the end-of-sequence token; other special tokens stay visible."""
        ends = frozenset(eos_ids)
        return str(
            self.tokenizer.decode(
                [token for token in ids if token not in ends],
                skip_special_tokens=False,
                clean_up_tokenization_spaces=False,
            )
        )


def end_of_sequence_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a turn: of the generation config, the model config and the tokenizer."""
    found: set[int] = set()
    for value in (
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        found.update([value] if isinstance(value, int) else (value or []))
    if not found:
        raise UserError(
            "model.path: neither the model nor its tokenizer names an end-of-sequence token, so no "
            "completion would ever end. Set eos_token_id in generation_config.json"
        )
    return tuple(sorted(found))


def check_context(
    model: Any, prompts: Iterable[RenderedPrompt], max_new_tokens: int, *, name: str = "this model"
) -> None:
    """Raise UserError if the longest prompt and completion together exceed the positions of model `name`."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(len(prompt.ids) for prompt in prompts) + max_new_tokens
    if positions is not None and longest > positions:
        raise UserError(
            f"rollout.max_new_tokens={max_new_tokens}: with the longest prompt that makes {longest} tokens, "
            f"and {name} has {positions} positions; lower it or prompt.max_tokens"
        )


def render_all(
    renderer: Renderer, examples: Iterable[Example], *, max_tokens: int
) -> tuple[list[RenderedPrompt], int]:
    """Render the examples; leave out, and count, those whose prompt is longer than `max_tokens`."""
    rendered = [renderer.render(example) for example in examples]
    kept = [prompt for prompt in rendered if len(prompt.ids) <= max_tokens]
    return kept, len(rendered) - len(kept)
