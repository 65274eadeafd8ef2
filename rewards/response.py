"""Text of a completion -> Response. The only parser of completions in the project, for every form."""

from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from rewards.spec import SPECS, TagSpec, closing_brace, visible


@dataclass(frozen=True)
class Response:
    """A completion, parsed once.

    `think` is the text of the first closed reasoning block, `answer` that of the one answer behind all
    reasoning; both without surrounding white space, None where there is none. `problems` names every
    departure from the asked form; it is empty exactly when the form is kept. `text` is what was parsed,
    the prefill included.
    """

    think: str | None
    answer: str | None
    problems: tuple[str, ...]
    text: str


class _Mark(NamedTuple):
    """A tag, or what else opens an answer: its name in the specification and where it stands."""

    name: str
    start: int
    end: int


_THINK = frozenset(("think_open", "think_close"))
_ANSWER = frozenset(("answer_open", "answer_close"))


def parse(text: str, prefill: str = "", spec: TagSpec = SPECS["think_answer"]) -> Response:
    """Read a completion. Any text gives a Response, in time linear in its length; nothing is raised.

    `prefill` is what the prompt had already opened for the model ("<think>\\n"); the completion goes on
    from there. An answer counts only behind closed reasoning, and only if it is the only one there.
    """
    text = prefill + text
    marks = _marks(text, spec)
    names = [mark.name for mark in marks]
    think, think_problems = _think(text, marks, names)
    answer, answer_problems = _answer(text, marks, names, spec)
    problems = think_problems + answer_problems
    if _text_outside(text, marks, spec):
        problems.append("text_outside_tags")
    return Response(think, answer, tuple(problems), text)


def _marks(text: str, spec: TagSpec) -> list[_Mark]:
    """Find the reserved tags, and behind the first end of reasoning what else opens an answer, in order."""
    names = spec.names
    marks = [_Mark(names[m.group()], m.start(), m.end()) for m in spec.reserved_pattern.finditer(text)]
    if spec.answer_pattern is not None:
        end = next((mark.end for mark in marks if mark.name == "think_close"), len(text))
        marks += [_Mark("answer_open", *m.span()) for m in spec.answer_pattern.finditer(text, end)]
        marks.sort(key=attrgetter("start"))
    return marks


def _think(text: str, marks: list[_Mark], names: list[str]) -> tuple[str | None, list[str]]:
    """Return the first reasoning block and what is wrong with the reasoning."""
    opened, closed = names.count("think_open"), names.count("think_close")
    problems = []
    if not opened:
        problems.append("think_missing")
    if opened > 1 or closed > 1:
        problems.append("think_repeated")
    if not opened:
        return None, problems
    first = names.index("think_open")
    if "think_close" not in names[first:]:
        return None, [*problems, "think_unclosed"]
    think = text[marks[first].end : marks[names.index("think_close", first)].start].strip()
    if not visible(think):
        problems.append("think_empty")
    return think, problems


def _answer(text: str, marks: list[_Mark], names: list[str], spec: TagSpec) -> tuple[str | None, list[str]]:
    """Return the one answer behind all reasoning and what is wrong with the answers."""
    if "think_close" not in names:
        return None, ["answer_missing"]
    # Answers are counted from the first end of reasoning, so that going back to think cannot retract one.
    after = names.index("think_close") + 1
    if spec.answer_form == "text":
        return _free_text(text, marks[after - 1 :])
    problems = []
    if not _ANSWER.isdisjoint(names[:after]):
        problems.append("answer_in_think")
    opened, closed = names[after:].count("answer_open"), names[after:].count("answer_close")
    if not opened:
        return None, [*problems, "answer_missing"]
    if opened > 1 or closed > 1:
        return None, [*problems, "answer_repeated"]
    first = names.index("answer_open", after)
    if not _THINK.isdisjoint(names[first:]):
        return None, [*problems, "think_after_answer"]
    if names[first - 1] == "think_open":
        return None, [*problems, "think_unclosed"]
    answer = _READERS[spec.answer_form](text, marks[first:])
    if answer is None:
        return None, [*problems, "answer_unclosed"]
    if not visible(answer):
        return None, [*problems, "answer_empty"]
    return answer.strip(), problems


def _free_text(text: str, marks: list[_Mark]) -> tuple[str | None, list[str]]:
    """Return the text behind all reasoning, from the first end of reasoning on, as the answer."""
    ends = [mark.start for mark in marks[1:]] + [len(text)]
    stretches = [
        (text[mark.end : end], end)
        for mark, end in zip(marks, ends, strict=True)
        if mark.name == "think_close" and visible(text[mark.end : end])
    ]
    if not stretches:
        return None, ["answer_missing"]
    if len(stretches) > 1:
        return None, ["answer_repeated"]
    ((answer, end),) = stretches
    if end < len(text):  # what ends it is a tag of the reasoning
        return None, ["think_after_answer"]
    return answer.strip(), []


def _between_tags(text: str, marks: list[_Mark]) -> str | None:
    closed = len(marks) > 1 and marks[1].name == "answer_close"
    return text[marks[0].end : marks[1].start] if closed else None


def _between_braces(text: str, marks: list[_Mark]) -> str | None:
    start = marks[0].end
    end = closing_brace(text, start) if text[start - 1] == "{" else None
    return None if end is None else text[start:end]


def _rest_of_line(text: str, marks: list[_Mark]) -> str:
    return text[marks[0].end :].partition("\n")[0]


# From the one opening of an answer to its text, or None where it is not closed. No reasoning follows it.
_READERS: dict[str, Callable[[str, list[_Mark]], str | None]] = {
    "tags": _between_tags,
    "braces": _between_braces,
    "line": _rest_of_line,
}


def _text_outside(text: str, marks: list[_Mark], spec: TagSpec) -> bool:
    """Whether visible text stands where the form has none."""
    if spec.answer_form != "tags":  # behind the reasoning, free text belongs to the form
        return visible(text[: next((mark.start for mark in marks if mark.name in _THINK), len(text))])
    ends = [0] + [mark.end for mark in marks]
    starts = [mark.start for mark in marks] + [len(text)]
    outside = [True] + [mark.name not in ("think_open", "answer_open") for mark in marks]
    return any(out and visible(text[a:b]) for out, a, b in zip(outside, ends, starts, strict=True))
