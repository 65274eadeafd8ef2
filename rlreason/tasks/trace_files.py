"""What to imitate, out of files: the form that the rows have, and the traces or turns in them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rlreason.errors import UserError
from rlreason.tasks.examples import ROLES, to_examples
from rlreason.tasks.questions import holds, question_key
from rlreason.tasks.tables import Rows, read_file, refuse
from rlreason.tasks.traces import Trace
from rlreason.types import Example, Message

_FIELD = "sft.traces"
_ASKED = ("prompt", "question")
_THINK = ("think", "reasoning", "derivation")
_REASONING = ("reasoning_content", "reasoning", "thinking")
"""Where chat messages keep reasoning apart from the content: DeepSeek and Qwen, OpenRouter, gpt-oss."""

# Each form by its columns; of several names for one column, a row has one.
_FORMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "prompt (or question), think (or reasoning, derivation) and answer": (_ASKED, _THINK, ("answer",)),
    "instruction, output and, where there is one, input": (("instruction",), ("output",)),
    "messages": (("messages",),),
    "prompt and completion": (("prompt",), ("completion",)),
}
_TRACE, _INSTRUCTION, _MESSAGES, _COMPLETION = _FORMS
_SHOWN = 5


@dataclass(frozen=True)
class Turn:
    """A turn of the assistant to imitate as it was written, behind the messages before it.

    `reasoning` is what the file keeps apart from the content, without tags; "" for none. Tags inside the
    completion are part of it.
    """

    prompt: tuple[Message, ...]
    completion: str
    reasoning: str = ""

    @property
    def example(self) -> Example:
        """What is asked; a turn has no gold answer."""
        return Example(list(self.prompt), "")


class TraceFile(NamedTuple):
    """What a file gives to imitate, in its order; `with_held_out` rows of it were left out."""

    found: list[Trace | Turn]
    with_held_out: int


def load_traces(path: str | Path, *, exclude: Iterable[Example] = ()) -> TraceFile:
    """Read what to imitate from a JSONL, CSV or Parquet file, whose columns tell the form of its rows.

    Rows with a question, reasoning and an answer are traces of style "file"; the prompt is text or chat
    messages. Instructions, chats and completions are turns. In `messages` every turn of the assistant is one,
    each behind what came before it, so that each is trained once and in the context in which it was
    written; in `prompt` and `completion` (TRL's format) only those of the completion.

    Rows whose prompts hold one of the questions to `exclude` (by `question_key`; alone or among other words,
    such as an instruction in front of it) are left out and counted, a conversation as a whole. Raises
    UserError for columns that fit no form, or more than one, and naming rows that cannot be used.
    """
    rows = read_file(path, field=_FIELD)
    origin = f"{_FIELD}: {path}"
    form = _form(rows, origin)
    held_out = sorted({key for key in map(question_key, exclude) if key})
    read: list[list[Trace | Turn]]
    if form == _TRACE:
        read = [[trace] for trace in _traces(rows, origin)]
    else:
        read = [[*turns] for turns in _turns(rows, _READERS[form], origin)]
    # The last turn of a conversation stands behind all its questions.
    kept = [own for own in read if not holds(question_key(own[-1].example), held_out)]
    return TraceFile([one for own in kept for one in own], len(read) - len(kept))


def _form(rows: Rows, origin: str) -> str:
    names = list(dict.fromkeys(name for _, row in rows for name in row))
    fits = [form for form, columns in _FORMS.items() if all(set(names) & set(each) for each in columns)]
    shown = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
    accepted = f"Accepted are: {'; '.join(_FORMS)}"
    if len(fits) > 1:
        both = " and ".join(f"[{form}]" for form in fits)
        raise UserError(
            f"{origin} has the columns {shown}, which fit {both}; rename or remove those that are not meant, "
            f"and give rows of two forms as two files. {accepted}"
        )
    if not fits:
        raise UserError(f"{origin} has the columns {shown}, which are {_lacking(names)}. {accepted}")
    for each in _FORMS[fits[0]]:
        twice = [name for name in each if name in names]
        if len(twice) > 1:
            raise UserError(
                f"{origin} has the columns {shown}, of which {' and '.join(twice)} mean the same; keep one. "
                f"{accepted}"
            )
    return fits[0]


def _lacking(names: Sequence[str]) -> str:
    """What is missing to the form that is nearest to the columns `names`."""
    missing = {
        form: [each[0] for each in columns if not set(names) & set(each)]
        for form, columns in _FORMS.items()
        if any(set(names) & set(each) for each in columns)
    }
    if not missing:
        return "none that is known"
    form = min(missing, key=lambda form: len(missing[form]))
    return f"no whole form: of [{form}], {' and '.join(map(repr, missing[form]))} is missing"


def _traces(rows: Rows, origin: str) -> list[Trace]:
    def column(each: Sequence[str]) -> str:
        return next(name for name in each if any(name in row for _, row in rows))

    asked, think = column(_ASKED), column(_THINK)
    refuse(
        [number for number, row in rows if not isinstance(row.get(think), str) or not row[think].strip()],
        len(rows),
        origin=origin,
        problem=f"the reasoning (column {think!r}) is empty or no text",
        remedy="fill these in or remove the rows",
    )
    remedy = f"A trace needs {_TRACE}"
    found = []
    for example in to_examples(rows, prompt=asked, answer="answer", origin=origin, remedy=remedy):
        metadata = dict(example.metadata)
        reasoning = metadata.pop(think).strip()
        found.append(Trace(replace(example, metadata=metadata), reasoning, example.answer, "file"))
    return found


def _turns(rows: Rows, read: Callable[[Mapping[str, Any]], list[Turn]], origin: str) -> list[list[Turn]]:
    """The turns of each row, of which there is at least one."""
    found, mistakes = [], []
    for number, row in rows:
        try:
            found.append(read(row))
        except ValueError as error:
            mistakes.append(f"row {number}: {error}")
    if mistakes:
        more = f"; and {len(mistakes) - _SHOWN} more" if len(mistakes) > _SHOWN else ""
        raise UserError(f"{origin}: {'; '.join(mistakes[:_SHOWN])}{more}. Correct or remove these rows")
    return found


def _instruction(row: Mapping[str, Any]) -> list[Turn]:
    parts = [_text(row.get("instruction"), "instruction")]
    if row.get("input") not in (None, ""):
        parts.append(_text(row["input"], "input"))
    return [Turn(({"role": "user", "content": "\n\n".join(parts)},), _text(row.get("output"), "output"))]


def _chat(row: Mapping[str, Any]) -> list[Turn]:
    return _turns_in(_messages(row.get("messages"), "messages"), 0, "messages")


def _completion(row: Mapping[str, Any]) -> list[Turn]:
    prompt, completion = row.get("prompt"), row.get("completion")
    before = _said(prompt, "user", "prompt")
    return _turns_in([*before, *_said(completion, "assistant", "completion")], len(before), "completion")


def _said(value: Any, role: str, name: str) -> list[dict[str, str]]:
    """A side of TRL's format as messages: a text is one message of `role`."""
    if isinstance(value, str):
        return [{"role": role, "content": _text(value, name), "reasoning": ""}]
    return _messages(value, name)


def _turns_in(messages: Sequence[Mapping[str, str]], start: int, name: str) -> list[Turn]:
    """The assistant's turns from place `start` on, each behind all messages before it."""
    if messages[-1]["role"] != "assistant":
        raise ValueError(f"{name} ends with a message of the {messages[-1]['role']}, not the assistant's")
    turns = []
    for place, message in enumerate(messages):
        if place < start or message["role"] != "assistant":
            continue
        if not place or messages[place - 1]["role"] != "user":
            raise ValueError(f"{name} has a message of the assistant that follows none of the user's")
        before = tuple({"role": m["role"], "content": m["content"]} for m in messages[:place])
        turns.append(Turn(before, message["content"], message["reasoning"]))
    return turns


def _messages(value: Any, name: str) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{name} is {value!r:.40}, and no list of messages")
    return [_message(one, name) for one in value]


def _message(value: Any, name: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or value.get("role") not in ROLES:
        raise ValueError(
            f"{name} holds {value!r:.60}, and no message {{role, content}} of {', '.join(ROLES)}"
        )
    if value.get("tool_calls"):
        raise ValueError(f"{name} holds a call of a tool, which cannot be taught here")
    apart = [value[key] for key in _REASONING if value.get(key)]
    if any(not isinstance(one, str) for one in apart) or len(set(apart)) > 1:
        raise ValueError(f"{name} holds reasoning that is no text, or two different ones")
    content = _text(value.get("content"), f"the content in {name}")
    return {"role": value["role"], "content": content, "reasoning": apart[0].strip() if apart else ""}


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(
            f"{name} is empty" if value in (None, "") else f"{name} is {value!r:.40}, and no text"
        )
    return value.strip()


_READERS = {_INSTRUCTION: _instruction, _MESSAGES: _chat, _COMPLETION: _completion}
