"""The reward interface: TRL's signature around a function that scores one response."""

import copy
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

from rewards.response import Response, parse
from rewards.score import Score
from rewards.spec import SPECS, TagSpec


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the remedy for an unknown name: the nearest known one, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    return f"{guess}known: {', '.join(names) or 'none'}"


def completion_text(completion: Any, spec: TagSpec, prefill: str = "") -> str:
    """Return what the model wrote: a string as it is, of a conversation the last message of the assistant.

    Messages of others are not the model's; where there is none of its own, that is "". Reasoning that a
    server has split off (`reasoning_content`) goes back between its tags, unless the content has some. Raises
    ValueError for what is neither text nor messages.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, list | tuple) or not all(isinstance(m, Mapping) for m in completion):
        raise ValueError(
            "a completion must be a string or a list of messages with role and content, not "
            f"{completion!r:.200}"
        )
    own = [message for message in completion if message.get("role", "assistant") == "assistant"]
    if not own:
        return ""
    content, reasoning = message_text(own[-1]), own[-1].get("reasoning_content")
    thinks = spec.think_open in content or spec.think_close in content
    if not isinstance(reasoning, str) or not reasoning.strip() or thinks:
        return content
    opened = "" if spec.think_open in prefill else f"{spec.think_open}\n"
    return f"{opened}{reasoning}\n{spec.think_close}\n{content}"


def message_text(message: Mapping[str, Any]) -> str:
    """The text of a message; of a list of parts, those that are text. Raises ValueError for any other."""
    content = message.get("content")
    if content is None:  # a turn that only calls tools
        return ""
    parts = content if isinstance(content, list | tuple) else [content]
    texts = [part.get("text") or "" if isinstance(part, Mapping) else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"the content of a message must be text or a list of parts, not {content!r:.200}")
    return "".join(texts)


def rows(name: str, column: Any, count: int) -> list[Any]:
    """Return a column as a list of `count` values. Raises ValueError naming the column otherwise."""
    if isinstance(column, str | bytes | Mapping) or not hasattr(column, "__len__"):
        raise ValueError(f"column {name!r} must be a list with one value a completion, not {column!r:.80}")
    if len(column) != count:
        raise ValueError(f"column {name!r} has {len(column)} values for {count} completions: give one each")
    return list(column)


class Reward:
    """A named reward. It wraps `score_one(response, *, column, ..., option=default, ...) -> Score`.

    The keyword arguments of `score_one` say which columns the reward reads: one without a default must be
    among the columns, one with a default may be, or is set for all rows by `with_options`.
    """

    _given: tuple[str, ...] = ("response",)  # arguments of the function that are not columns
    _spec: TagSpec = SPECS["think_answer"]

    def __init__(self, name: str, score_one: Callable[..., Any], **options: Any) -> None:
        self.__name__ = name
        self._function = score_one
        self._options = options
        parameters = inspect.signature(score_one).parameters.values()
        self._open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self._accepted = [p.name for p in named if p.name not in self._given]
        self._required = [p.name for p in named if p.default is p.empty and p.name in self._accepted]
        for option in options:
            if option not in self._accepted and not self._open_ended:
                raise ValueError(
                    f"reward {name!r} takes no option {option!r}: {nearest(option, self._accepted)}"
                )

    def __repr__(self) -> str:
        return f"Reward({self.__name__!r})"

    def with_options(self, **options: Any) -> Self:
        """Return this reward with some keyword arguments fixed. Raises ValueError for an unknown one."""
        changed = type(self)(self.__name__, self._function, **{**self._options, **options})
        changed._spec = self._spec
        return changed

    def with_spec(self, spec: TagSpec) -> Self:
        """Return this reward for completions of another form, one of `SPECS` say."""
        changed = copy.copy(self)
        changed._spec = spec
        return changed

    def __call__(
        self, /, *, completions: list[Any], prefill: list[str] | None = None, **columns: Any
    ) -> list[float | None]:
        """Return one value a completion, None for an abstention: the signature of TRL's reward functions.

        `completions` are strings or conversations (lists of messages); `prefill` what each prompt had
        already opened for the model; every column a list of the same length. Columns that the reward does
        not read, and whatever else a trainer passes, are ignored. Raises ValueError for a missing column
        or a wrong length.
        """
        return [score.value for score in self.scores(completions=completions, prefill=prefill, **columns)]

    def scores(
        self, /, *, completions: list[Any], prefill: list[str] | None = None, **columns: Any
    ) -> list[Score]:
        """Like calling the reward, with the reason beside each value."""
        responses, read = self._read(completions, prefill, columns)
        return [
            self._function(response, **self._options, **{name: values[row] for name, values in read.items()})
            for row, response in enumerate(responses)
        ]

    def _read(
        self, completions: list[Any], prefill: list[str] | None, columns: Mapping[str, Any]
    ) -> tuple[list[Response], dict[str, list[Any]]]:
        """The parsed completions, and those columns that the function reads."""
        responses = self._responses(completions, prefill)
        self._require(columns)
        wanted = [name for name in self._accepted if name in columns and name not in self._options]
        return responses, {name: rows(name, columns[name], len(completions)) for name in wanted}

    def _require(self, columns: Mapping[str, Any]) -> None:
        for name in self._required:
            if name not in columns and name not in self._options:
                raise ValueError(
                    f"reward {self.__name__!r} needs the column {name!r}: {nearest(name, columns)}"
                )

    def _responses(self, completions: list[Any], prefill: list[str] | None) -> list[Response]:
        count, spec = len(completions), self._spec
        opened = [""] * count if prefill is None else rows("prefill", prefill, count)
        return [
            parse(completion_text(completion, spec, start or ""), prefill=start or "", spec=spec)
            for completion, start in zip(completions, opened, strict=True)
        ]
