"""A tokenizer for a model that is made from nothing."""

import re
from collections.abc import Iterable
from typing import Any, Literal

from transformers import PreTrainedTokenizerFast

_SPECIAL = _PAD, _UNKNOWN, _START, _END = "<|pad|>", "<|unk|>", "<|im_start|>", "<|im_end|>"
# Spaces stick to words and signs and never to numbers, so that a number looks the same wherever it stands.
_SIGNS = r" ?[^\sA-Za-z0-9] ?|\s"
_PIECES = {"digits": rf" ?[A-Za-z]+|[0-9]|{_SIGNS}", "numbers": rf" ?[A-Za-z]+|-?[0-9]+|{_SIGNS}"}
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] + '\n' + message['content'] }}<|im_end|>"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>{{ 'assistant\n' }}{% endif %}"
)


def scratch_tokenizer(
    texts: Iterable[str],
    words: Iterable[str] = (),
    *,
    tokens: Literal["digits", "numbers", "bpe"] = "digits",
    vocabulary: int = 4096,
) -> PreTrainedTokenizerFast:
    """A tokenizer made for `texts`. `words` (tags, say) become one token each.

    "digits": one token a word, a digit or a sign, spaces around it included, so that numbers are read and
    written place by place. "numbers": as "digits", with one token a whole number and its minus sign. What
    `texts` do not hold becomes `<|unk|>` in both. "bpe": byte-level byte-pair encoding (Sennrich et al. 2016,
    arXiv 1508.07909) of at most `vocabulary` tokens, digits alone; it spells any text.
    """
    tokenizer = _byte_pairs(texts, vocabulary) if tokens == "bpe" else _words(texts, _PIECES[tokens])
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([word for word in words if word not in known])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        unk_token=_UNKNOWN,
        eos_token=_END,
        additional_special_tokens=[_START],
        chat_template=_CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def _words(texts: Iterable[str], piece: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pieces = {found for text in texts for found in re.findall(piece, text)}
    pieces |= set(re.findall(piece, "system\nuser\nassistant\n"))
    vocabulary = {token: index for index, token in enumerate([*_SPECIAL, *sorted(pieces)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(piece), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _byte_pairs(texts: Iterable[str], vocabulary: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
