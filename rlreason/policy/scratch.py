"""A small Llama-shaped model made from nothing, and a tokenizer for it."""

import re
from collections.abc import Iterable
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_PAD, _UNKNOWN, _START, _END = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
# Spaces stick to words and signs and never to digits, so that a digit is one token wherever it stands.
_PIECE = r" ?[A-Za-z]+|[0-9]| ?[^\sA-Za-z0-9] ?|\s"
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}<|im_end|>"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{{ 'assistant\n' }}{% endif %}"
)


def scratch_tokenizer(texts: Iterable[str], words: Iterable[str] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer made for `texts`: one token a word, a digit or a sign, spaces around it included.

    Digits stand alone, so that numbers are read and written place by place. `words` (tags, say) become one
    token each. What `texts` do not hold becomes `<|unk|>`.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pieces = {piece for text in texts for piece in re.findall(_PIECE, text)}
    pieces |= set(re.findall(_PIECE, "system\nuser\nassistant\n"))
    vocabulary = {token: index for index, token in enumerate([_PAD, _UNKNOWN, _START, _END, *sorted(pieces)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_PIECE), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_tokens([word for word in words if word not in vocabulary])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        eos_token=_END,
        additional_special_tokens=[_START],
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def scratch_model(scratch: Any, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A randomly initialised Llama of the shape `scratch` (`config.ScratchConfig`), tied embeddings.

    Draws from torch's global generator: seed it first.
    """
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_hidden_layers=scratch.layers,
        num_attention_heads=scratch.heads,
        num_key_value_heads=scratch.kv_heads,
        max_position_embeddings=scratch.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)
