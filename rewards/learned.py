"""learned: the score of a reward model. The interface only; the model is the user's."""

import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count as count_from
from typing import Any

from rewards.base import Reward, message_text
from rewards.options import count, number
from rewards.response import Response
from rewards.score import Score

_LOADING = threading.Lock()


class BatchReward(Reward):
    """A reward that scores a batch at once: `score_all(responses, *, column, ..., option=default, ...)`.

    Columns come as lists, or as the default where there is no such column; it returns one Score a response.
    """

    _given = ("responses",)

    def scores(
        self, /, *, completions: list[Any], prefill: list[str] | None = None, **columns: Any
    ) -> list[Score]:
        responses, read = self._read(completions, prefill, columns)
        return list(self._function(responses, **self._options, **read)) if responses else []


def learned(
    responses: list[Response],
    *,
    prompts: list[Any],
    model: str | None = None,
    mean: float | None = None,
    std: float | None = None,
    too_long: float | None = None,
    device: str = "auto",
    dtype: str = "float32",
    batch_size: int = 8,
) -> list[Score]:
    """(output - `mean`) / `std`, where the output of a reward model for a conversation is any finite number.

    Where they are not given, `mean` and `std` are `reward_mean` and `reward_std` of the model's config, which
    the stage `reward_model` writes there; else 0 and 1.

    `model` is a path or hub name that transformers' AutoModelForSequenceClassification loads, with one output
    and a tokenizer. It reads the prompt (column `prompts`: messages, or text) and the completion, prefill
    included, in the tokenizer's chat template. Where there is none, it reads them one after the other, or as
    a pair if the tokenizer has a separator. Special tokens that a completion spells out are broken up, so
    that it cannot end its turn and speak for the user. Nothing is truncated: a conversation that is longer
    than the model can read is worth `too_long`, or is an abstention.

    The model is loaded once a process, to `device` ("auto": a GPU if there is one). Values do not depend on
    `batch_size` or on what else is in the batch, but for rounding. Any thread may call; calls take turns.

    Raises ImportError where torch or transformers is missing; ValueError for an option that is wrong, and a
    `model` that is not given, cannot be loaded, has more outputs than one or no trained head. A learned
    reward can be fooled: bound it with a clip, gate it, and keep `accuracy`.
    """
    if not isinstance(model, str) or not model:
        raise ValueError(
            "reward 'learned' needs the option 'model': set rewards.learned.args.model to the path or the "
            "name of a reward model"
        )
    if std is not None and number("learned", "std", std) <= 0:
        raise ValueError(f"reward 'learned': std={std} must be above 0: set rewards.learned.args.std")
    if mean is not None:
        number("learned", "mean", mean)
    if too_long is not None:
        number("learned", "too_long", too_long)
    judge = load_judge(model, device, dtype)
    outputs = judge.outputs(
        prompts, [response.text for response in responses], count("learned", "batch_size", batch_size)
    )
    mean = float(getattr(judge.model.config, "reward_mean", 0.0)) if mean is None else mean
    std = float(getattr(judge.model.config, "reward_std", 1.0)) if std is None else std
    return [_score(output, mean, std, too_long) for output in outputs]


def _score(output: float | None, mean: float, std: float, too_long: float | None) -> Score:
    if output is None:
        return Score(too_long, "longer than what the reward model can read")
    value = (output - mean) / std
    if not math.isfinite(value):  # one completion, not the whole batch
        return Score(None, f"the reward model says {output}, which is no finite number", failed=True)
    return Score(value, f"the reward model says {output:.4g}")


@dataclass
class Judge:
    """A reward model and its tokenizer, in memory. It reads up to `longest` tokens."""

    model: Any
    tokenizer: Any
    longest: int
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        # The named ones are not all: Llama 3 opens a turn with a token that has no name.
        added = self.tokenizer.added_tokens_decoder.values()
        special = {*self.tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
        longest_first = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def outputs(
        self,
        prompts: Sequence[Any],
        completions: Sequence[str],
        batch_size: int,
        told: Callable[[int], None] | None = None,
    ) -> list[float | None]:
        """Return the model's output for each conversation, None for one that is too long.

        `told` is called with the number of those that are done.
        """
        with self.lock:  # tokenizers keep state during a call, and the padding is a setting of the model
            texts = [self.token_ids(*pair) for pair in zip(prompts, completions, strict=True)]
            # Similar lengths go together.
            order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
            order = [row for row in order if len(texts[row]) <= self.longest]
            found: dict[int, float] = {}
            for start in range(0, len(order), batch_size):
                batch = order[start : start + batch_size]
                found |= zip(batch, self._forward([texts[row] for row in batch]), strict=True)
                if told is not None:
                    told(len(found))
        return [found.get(row) for row in range(len(texts))]

    def token_ids(self, prompt: Any, completion: str) -> list[int]:
        """Return the conversation as token ids, at least one."""
        said = completion.encode(
            errors="replace"
        ).decode()  # half a surrogate pair is no text for a tokenizer
        said = self._special.sub(lambda match: f"{match.group()[0]} {match.group()[1:]}", said)
        if self.tokenizer.chat_template is not None:
            ids = self.tokenizer(self._in_template(prompt, said), add_special_tokens=False)["input_ids"]
        elif self.tokenizer.sep_token is not None:
            ids = self.tokenizer(_text(prompt), said)["input_ids"]
        else:
            ids = self.tokenizer(f"{_text(prompt)}{said}")["input_ids"]
        return list(ids) or [self.tokenizer.eos_token_id or 0]

    def _in_template(self, prompt: Any, said: str) -> str:
        from jinja2 import TemplateError

        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        messages.append({"role": "assistant", "content": said})
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except TemplateError as error:
            roles = [message.get("role") for message in messages]
            raise ValueError(
                f"reward 'learned': the chat template of the reward model refuses a conversation of {roles} "
                f"({error}): give it prompts of other roles, or another model"
            ) from error

    def _forward(self, texts: list[list[int]]) -> list[float]:
        import torch

        width, used = max(map(len, texts)), set().union(*texts)
        config = self.model.config.get_text_config()
        # Where a model looks for the end of a text, it skips padding; where that is also the token that ends
        # a text, it would skip the end. So padding is a token that none of these texts has.
        padding = self.tokenizer.pad_token_id
        if padding is None or padding in used:
            padding = next(token for token in count_from() if token not in used)
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


def load_judge(model: str, device: str, dtype: str) -> Judge:
    """Load a reward model, once a process. Raises as `learned` does."""
    with _LOADING:  # two threads that come first would both load it
        return _load_judge(model, device, dtype)


@lru_cache(maxsize=2)
def _load_judge(model: str, device: str, dtype: str) -> Judge:
    try:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
    except ImportError as error:
        raise ImportError(
            f"the reward 'learned' needs torch and transformers: pip install torch transformers ({error})"
        ) from error
    kind = getattr(torch, str(dtype), None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise ValueError(
            f"reward 'learned': dtype={dtype!r} is no floating point type of torch: set "
            "rewards.learned.args.dtype to float32 or bfloat16"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
        loaded, found = AutoModelForSequenceClassification.from_pretrained(
            model, dtype=kind, output_loading_info=True, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"reward 'learned': model={model!r}, device={device!r} cannot be loaded: {error}"
        ) from error
    if found["missing_keys"] or loaded.config.num_labels != 1:
        lacking = ", ".join(sorted(found["missing_keys"])[:1])
        why = f"it lacks {lacking}" if lacking else f"it has {loaded.config.num_labels} outputs"
        raise ValueError(
            f"reward 'learned': model={model!r} is no reward model: {why}; give one with a trained head of "
            "one output"
        )
    positions = getattr(loaded.config.get_text_config(), "max_position_embeddings", None)
    longest = min(positions or tokenizer.model_max_length, tokenizer.model_max_length)
    return Judge(loaded.to(place).eval().requires_grad_(False), tokenizer, longest)


def _text(prompt: Any) -> str:
    """Return a prompt as text: messages one below the other."""
    if isinstance(prompt, str):
        return prompt
    return "".join(f"{message_text(m)}\n" if isinstance(m, Mapping) else f"{m}\n" for m in prompt)
