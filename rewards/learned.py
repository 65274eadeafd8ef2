"""learned: the score of a reward model. The interface only; the model is the user's."""

import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any

from rewards.base import Reward, completion_text, rows
from rewards.response import Response
from rewards.score import Score


class BatchReward(Reward):
    """A reward that scores a batch at once: `score_all(responses, *, column, ..., option=default, ...)`.

    Columns come as lists, or as the default where there is no such column; it returns one Score a response.
    """

    _given = ("responses",)

    def scores(
        self, /, *, completions: list[Any], prefill: list[str] | None = None, **columns: Any
    ) -> list[Score]:
        responses = self._responses(completions, prefill)
        self._require(columns)
        wanted = [name for name in self._accepted if name in columns and name not in self._options]
        read = {name: rows(name, columns[name], len(completions)) for name in wanted}
        return list(self._function(responses, **self._options, **read)) if responses else []


def learned(
    responses: list[Response],
    *,
    prompts: list[Any] | None = None,
    model: str | None = None,
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 8,
) -> list[Score]:
    """The output of a reward model for each conversation: any finite number, on the model's own scale.

    `model` is a path or hub name that transformers' AutoModelForSequenceClassification loads, with one output
    and a tokenizer. It reads the prompt (column `prompts`: messages or text) and the completion, prefill
    included, in the tokenizer's chat template or, where it has none, one after the other. Special tokens
    that a completion spells out are broken up, so that it cannot end its turn and speak for the user.
    Values do not depend on `batch_size` or on what else is in the batch. `device` "auto" takes a GPU if there
    is one. A conversation that is longer than the model can read is an abstention.

    Raises ImportError where torch or transformers is missing, ValueError where `model` is not given, has more
    outputs than one, or has no trained head. A learned reward can be fooled: gate it, and keep `accuracy`.
    """
    if not isinstance(model, str):
        raise ValueError(
            "reward 'learned' needs the option 'model': set rewards.learned.args.model to the path or the "
            "name of a reward model"
        )
    judge = load_judge(model, device, dtype)
    asked = prompts if prompts is not None else [[]] * len(responses)
    texts = [
        judge.token_ids(prompt, response.text) for prompt, response in zip(asked, responses, strict=True)
    ]
    short = [row for row, ids in enumerate(texts) if len(ids) <= judge.longest]
    values = dict(zip(short, judge.values([texts[row] for row in short], batch_size), strict=True))
    return [
        Score(values[row], f"the reward model says {values[row]:.4g}")
        if row in values
        else Score(None, f"{len(ids)} tokens, more than the {judge.longest} that the reward model reads")
        for row, ids in enumerate(texts)
    ]


@dataclass
class Judge:
    """A reward model and its tokenizer, in memory."""

    model: Any
    tokenizer: Any
    longest: int
    special: re.Pattern[str]
    lock: threading.Lock = field(default_factory=threading.Lock)

    def token_ids(self, prompt: Any, completion: str) -> list[int]:
        """Return the conversation as token ids."""
        said = self.special.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", completion)
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(f"{_text(prompt)}{said}")["input_ids"])
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        messages.append({"role": "assistant", "content": said})
        text = self.tokenizer.apply_chat_template(messages, tokenize=False)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def values(self, texts: list[list[int]], batch_size: int) -> list[float]:
        """Return the model's output for each list of token ids; similar lengths go together."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        found: dict[int, float] = {}
        with self.lock:  # the padding is a setting of the model
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                found |= zip(batch, self._forward([texts[row] for row in batch]), strict=True)
        return [found[row] for row in range(len(texts))]

    def _forward(self, texts: list[list[int]]) -> list[float]:
        import torch

        width, used = max(map(len, texts)), set().union(*texts)
        config = self.model.config.get_text_config()
        # Where a model looks for the end of a text, it skips padding; where that is also the token that ends
        # a text, it would skip the end. So padding is a token that none of these texts has.
        padding = self.tokenizer.pad_token_id
        if padding is None or padding in used:
            padding = next(number for number in count() if number not in used)
        if padding >= config.vocab_size and len(texts) > 1:
            return [value for text in texts for value in self._forward([text])]
        before, config.pad_token_id = config.pad_token_id, padding
        try:
            ids = torch.tensor([text + [padding] * (width - len(text)) for text in texts])
            mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
            with torch.inference_mode():
                device = self.model.device
                logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        finally:
            config.pad_token_id = before
        return [float(value) for value in logits[:, 0].float().cpu()]


@lru_cache(maxsize=2)
def load_judge(model: str, device: str, dtype: str) -> Judge:
    """Load a reward model, once a process. Raises as `learned` does."""
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            f"the reward 'learned' needs torch and transformers: pip install torch transformers ({error})"
        ) from error
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise ValueError(f"reward 'learned': dtype={dtype!r} is none of torch: give float32 or bfloat16")
    loaded, found = AutoModelForSequenceClassification.from_pretrained(
        model, dtype=kind, output_loading_info=True
    )
    if found["missing_keys"]:
        lacking = sorted(found["missing_keys"])[0]
        raise ValueError(f"reward 'learned': model={model!r} is no reward model: it lacks {lacking}")
    if loaded.config.num_labels != 1:
        raise ValueError(
            f"reward 'learned': model={model!r} has {loaded.config.num_labels} outputs: give one with one"
        )
    tokenizer = AutoTokenizer.from_pretrained(model)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    special = sorted((t for t in tokenizer.all_special_tokens if len(t) > 1), key=len, reverse=True)
    longest = getattr(loaded.config.get_text_config(), "max_position_embeddings", None) or 1 << 62
    pattern = re.compile("|".join(map(re.escape, special)) or r"(?!)")
    return Judge(loaded.to(device).eval().requires_grad_(False), tokenizer, longest, pattern)


def _text(prompt: Any) -> str:
    """Return a prompt as text: messages one below the other."""
    if isinstance(prompt, str):
        return prompt
    return "".join(f"{completion_text([m])}\n" if isinstance(m, Mapping) else f"{m}\n" for m in prompt)
