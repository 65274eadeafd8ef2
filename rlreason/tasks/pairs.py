"""Preference pairs: of two completions of one prompt, which is better."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from rlreason.errors import UserError
from rlreason.tasks.questions import message_key
from rlreason.tasks.tables import read_file
from rlreason.types import Message

_FIELD = "reward_model.pairs"
_SHOWN = 5


@dataclass(frozen=True)
class Pair:
    """`chosen` is better than `rejected`, by `margin` where that is known. `prompt` are chat messages."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    margin: float | None = None

    @property
    def key(self) -> str:
        """What tells prompts apart, as `question_key` does for questions."""
        return message_key(self.prompt)


def load_pairs(paths: Sequence[str]) -> list[Pair]:
    """Read pairs from JSONL, CSV or Parquet files.

    A row has `prompt`, `chosen` and `rejected`, and may have a `margin`: each a text, or chat messages of
    which the last one is the completion (the formats of TRL's RewardTrainer; without `prompt`, what `chosen`
    and `rejected` begin with in common is the prompt). Or it has `prompt` and `ranked`, completions from the
    best to the worst, as people rank them: every two of them are a pair.

    Raises UserError for a file that cannot be read, and naming rows that make no pair: a side that is empty,
    or the same on both.
    """
    pairs: list[Pair] = []
    for path in paths:
        mistakes: list[str] = []
        for number, row in read_file(path, field=_FIELD):
            try:
                pairs += _pairs_of(row)
            except ValueError as error:
                mistakes.append(f"row {number}: {error}")
        if mistakes:
            more = f"; and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else ""
            raise UserError(
                f"{_FIELD}: {path}: {'; '.join(mistakes[:_SHOWN])}{more}. Correct or remove these rows; a "
                "row needs prompt, chosen and rejected, or prompt and ranked"
            )
    return pairs


def _pairs_of(row: Mapping[str, Any]) -> list[Pair]:
    if row.get("ranked") is not None:
        ranked = [_text(one, "ranked") for one in _list(row["ranked"], "ranked")]
        if len(ranked) < 2:
            raise ValueError(f"ranked holds {len(ranked)} completion, and a pair needs two")
        prompt = _messages(row.get("prompt"))
        return [_pair(prompt, better, worse, None) for better, worse in combinations(ranked, 2)]
    missing = [name for name in ("chosen", "rejected") if row.get(name) is None]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    chosen, rejected = row["chosen"], row["rejected"]
    if row.get("prompt") is None:
        if isinstance(chosen, str) or isinstance(rejected, str):
            raise ValueError("it has no prompt")
        shared = _list(chosen, "chosen")[:-1]
        if not shared or shared != _list(rejected, "rejected")[:-1]:
            raise ValueError(
                "chosen and rejected do not begin with the same messages, and there is no prompt"
            )
        prompt = _messages(shared)
    else:
        prompt = _messages(row["prompt"])
    sides = (_last(chosen, "chosen", prompt), _last(rejected, "rejected", prompt))
    return [_pair(prompt, *sides, _number(row.get("margin")))]


def _pair(prompt: tuple[Message, ...], chosen: str, rejected: str, margin: float | None) -> Pair:
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise ValueError(f"{name} is empty")
    if chosen.strip() == rejected.strip():
        raise ValueError(f"chosen and rejected are the same: {chosen!r:.60}")
    return Pair(prompt, chosen, rejected, margin)


def _number(margin: Any) -> float | None:
    if margin is None or margin == "":  # an empty cell of a CSV file
        return None
    try:
        number = float(margin)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(margin, bool) or not math.isfinite(number):
        raise ValueError(f"margin {margin!r} is no finite number")
    return number


def _messages(prompt: Any) -> tuple[Message, ...]:
    if prompt is None:
        raise ValueError("it has no prompt")
    if isinstance(prompt, str):
        if not prompt.strip():
            raise ValueError("prompt is empty")
        return ({"role": "user", "content": prompt},)
    return tuple(_message(each, "prompt") for each in _list(prompt, "prompt"))


def _message(value: Any, name: str) -> Message:
    if not isinstance(value, Mapping) or not value.get("role") or not isinstance(value.get("content"), str):
        raise ValueError(f"{name} holds {value!r:.40}, and no message with a role and a text as its content")
    return {"role": str(value["role"]), "content": value["content"]}


def _last(value: Any, name: str, prompt: tuple[Message, ...]) -> str:
    """The completion: a text, or the last message, before which the prompt may stand once more."""
    if isinstance(value, str):
        return value
    *before, last = (_message(each, name) for each in _list(value, name))
    if last["role"] != "assistant":
        raise ValueError(f"the last message of {name} is by {last['role']!r} and not by the assistant")
    if before and tuple(before) != prompt:
        raise ValueError(f"{name} has {len(before)} messages before the last, and they are not the prompt")
    return last["content"]


def _list(value: Any, name: str) -> list[Any]:
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__") or not len(value):
        raise ValueError(f"{name} is {value!r:.40}, and no list")
    return list(value)


def _text(value: Any, name: str) -> str:
    """A completion among ranked ones: a text, or a message."""
    return value if isinstance(value, str) else _message(value, name)["content"]
