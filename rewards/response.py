"""Text of a completion -> Response. The only parser of completions in the project, for every form."""

from dataclasses import dataclass
from itertools import islice

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


@dataclass(frozen=True, slots=True)
class _Marks:
    """The reserved tags of a text in order: their names in the specification and where they stand.

    Three lists and no list of triples: a text of nothing but tags would else fill the heap with objects that
    the garbage collector has to look through.
    """

    names: list[str]
    starts: list[int]
    ends: list[int]


def parse(text: str, prefill: str = "", spec: TagSpec = SPECS["think_answer"]) -> Response:
    """Read a completion. Any text gives a Response, in time linear in its length; nothing is raised.

    `prefill` is what the prompt had already opened for the model ("<think>\\n"); the completion goes on
    from there. An answer counts only behind closed reasoning, and only if it is the only one there.
    """
    text = prefill + text
    marks = _Marks([], [], [])
    for match in spec.reserved_pattern.finditer(text):
        marks.names.append(spec.names[match.group()])
        marks.starts.append(match.start())
        marks.ends.append(match.end())
    think, think_problems = _think(text, marks)
    answer, answer_problems = _answer(text, marks, spec)
    problems = think_problems + answer_problems
    if _text_outside(text, marks, spec):
        problems.append("text_outside_tags")
    # Reasoning that is opened a second time and stays open is found from both sides.
    return Response(think, answer, tuple(dict.fromkeys(problems)), text)


def _think(text: str, marks: _Marks) -> tuple[str | None, list[str]]:
    """Return the first reasoning block and what is wrong with the reasoning."""
    names = marks.names
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
    think = text[marks.ends[first] : marks.starts[names.index("think_close", first)]].strip()
    if not visible(think):
        problems.append("think_empty")
    return think, problems


def _answer(text: str, marks: _Marks, spec: TagSpec) -> tuple[str | None, list[str]]:
    """Return the one answer behind all reasoning and what is wrong with the answers."""
    if "think_close" not in marks.names:
        return None, ["answer_missing"]
    # Answers are counted from the first end of reasoning, so that going back to think cannot retract one.
    close = marks.names.index("think_close")
    if spec.answer_form == "tags":
        return _tagged_answer(text, marks, close + 1)
    if spec.answer_form == "text":
        return _free_text(text, marks, close)
    return _marked_answer(text, marks, marks.ends[close], spec)


def _tagged_answer(text: str, marks: _Marks, after: int) -> tuple[str | None, list[str]]:
    """Read the form "tags"; `after` is the number of the first tag behind the first end of reasoning."""
    names = marks.names
    problems = []
    if "answer_open" in names[:after] or "answer_close" in names[:after]:
        problems.append("answer_in_think")
    opened, closed = names[after:].count("answer_open"), names[after:].count("answer_close")
    if not opened:
        return None, [*problems, "answer_missing"]
    if opened > 1 or closed > 1:
        return None, [*problems, "answer_repeated"]
    first = names.index("answer_open", after)
    if "think_open" in names[first:] or "think_close" in names[first:]:
        return None, [*problems, "think_after_answer"]
    if names[first - 1] == "think_open":
        return None, [*problems, "think_unclosed"]
    if names[first + 1 : first + 2] != ["answer_close"]:
        return None, [*problems, "answer_unclosed"]
    answer = text[marks.ends[first] : marks.starts[first + 1]].strip()
    if not visible(answer):
        return None, [*problems, "answer_empty"]
    return answer, problems


def _free_text(text: str, marks: _Marks, close: int) -> tuple[str | None, list[str]]:
    """Read the form "text": all that stands behind the reasoning; `close` is the number of its first end."""
    answer = None
    for number in range(close, len(marks.names)):
        behind = number + 1 < len(marks.names)
        if marks.names[number] == "think_open":
            continue
        stretch = text[marks.ends[number] : marks.starts[number + 1] if behind else len(text)]
        if visible(stretch):
            if answer is not None:
                return None, ["answer_repeated"]
            answer, ends_in_a_tag = stretch.strip(), behind
    if answer is None:
        return None, ["answer_missing"]
    return (None, ["think_after_answer"]) if ends_in_a_tag else (answer, [])


def _marked_answer(text: str, marks: _Marks, start: int, spec: TagSpec) -> tuple[str | None, list[str]]:
    """Read the forms "braces" and "line". Reasoning first ends at `start`; a box in there is only text."""
    assert spec.answer_pattern is not None
    openings = list(islice(spec.answer_pattern.finditer(text, start), 2))
    if not openings:
        return None, ["answer_missing"]
    if len(openings) > 1:
        return None, ["answer_repeated"]
    opening = openings[0]
    if opening.start() < marks.starts[-1]:
        return None, ["think_after_answer"]
    if marks.names[-1] == "think_open":
        return None, ["think_unclosed"]
    if spec.answer_form == "line":
        end = text.find("\n", opening.end())
        end = len(text) if end < 0 else end
    else:
        end = closing_brace(text, opening.end()) if opening.group().endswith("{") else -1
        if end < 0:
            return None, ["answer_unclosed"]
    answer = text[opening.end() : end].strip()
    return (answer, []) if visible(answer) else (None, ["answer_empty"])


def _text_outside(text: str, marks: _Marks, spec: TagSpec) -> bool:
    """Whether visible text stands where the form has none."""
    if spec.answer_form != "tags":  # behind the reasoning, free text belongs to the form
        return visible(text[: marks.starts[0]] if marks.starts else text)
    outside = [True] + [name not in ("think_open", "answer_open") for name in marks.names]
    stretches = zip(outside, [0, *marks.ends], [*marks.starts, len(text)], strict=True)
    return any(out and visible(text[start:end]) for out, start, end in stretches)
