"""Text of a completion -> Response. The only parser of completions in the project."""

import re
from dataclasses import dataclass
from functools import lru_cache

from rewards.spec import SPECS, TagSpec, visible


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


@lru_cache(maxsize=16)
def _pattern(spec: TagSpec) -> re.Pattern[str]:
    # An alternation of literals: the scan is linear and never backtracks.
    return re.compile("|".join(re.escape(tag) for tag in spec.tags))


def parse(text: str, prefill: str = "", spec: TagSpec = SPECS["think_answer"]) -> Response:
    """Read a completion. Any text gives a Response, in time linear in its length; nothing is raised.

    `prefill` is what the prompt had already opened for the model ("<think>\\n"); the completion goes on
    from there. An answer counts only behind closed reasoning, and only if it is the only one there.
    """
    text = prefill + text
    found = list(_pattern(spec).finditer(text))
    tags = [match.group() for match in found]
    edges = [(match.start(), match.end()) for match in found]
    think, think_problems = _think(text, tags, edges, spec)
    answer, answer_problems = _answer(text, tags, edges, spec)
    problems = think_problems + answer_problems

    ends = [0] + [end for _, end in edges]
    starts = [start for start, _ in edges] + [len(text)]
    openers = (spec.think_open, spec.answer_open)
    outside = [True] + [tag not in openers for tag in tags]
    if any(out and visible(text[a:b]) for out, a, b in zip(outside, ends, starts, strict=True)):
        problems.append("text_outside_tags")
    if not problems and tags != list(spec.tags):
        problems.append("tags_out_of_order")
    return Response(think, answer, tuple(problems), text)


def _think(
    text: str, tags: list[str], edges: list[tuple[int, int]], spec: TagSpec
) -> tuple[str | None, list[str]]:
    """Return the first reasoning block and what is wrong with the reasoning."""
    opened, closed = tags.count(spec.think_open), tags.count(spec.think_close)
    problems = []
    if not opened:
        problems.append("think_missing")
    if opened > 1 or closed > 1:
        problems.append("think_repeated")
    if not opened:
        return None, problems
    first = tags.index(spec.think_open)
    if spec.think_close not in tags[first:]:
        return None, [*problems, "think_unclosed"]
    think = text[edges[first][1] : edges[tags.index(spec.think_close, first)][0]].strip()
    if not visible(think):
        problems.append("think_empty")
    return think, problems


def _answer(
    text: str, tags: list[str], edges: list[tuple[int, int]], spec: TagSpec
) -> tuple[str | None, list[str]]:
    """Return the one answer behind all reasoning and what is wrong with the answers."""
    if spec.think_close not in tags:
        return None, ["answer_missing"]
    # Answers are counted from the first end of reasoning, so that going back to think cannot retract one.
    after = tags.index(spec.think_close) + 1
    problems = []
    if spec.answer_open in tags[:after] or spec.answer_close in tags[:after]:
        problems.append("answer_in_think")
    opened, closed = tags[after:].count(spec.answer_open), tags[after:].count(spec.answer_close)
    if not opened:
        return None, [*problems, "answer_missing"]
    if opened > 1 or closed > 1:
        return None, [*problems, "answer_repeated"]
    first = tags.index(spec.answer_open, after)
    if spec.think_open in tags[first:] or spec.think_close in tags[first:]:
        return None, [*problems, "think_after_answer"]
    if tags[first - 1] == spec.think_open:
        return None, [*problems, "think_unclosed"]
    if tags[first + 1 : first + 2] != [spec.answer_close]:
        return None, [*problems, "answer_unclosed"]
    answer = text[edges[first][1] : edges[first + 1][0]].strip()
    if not visible(answer):
        return None, [*problems, "answer_empty"]
    return answer, problems
