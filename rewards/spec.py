"""The forms a completion may be asked to have. Parser, system prompt and training targets read them here."""

import re
from dataclasses import astuple, dataclass
from functools import cached_property
from typing import Literal

AnswerForm = Literal["tags", "text", "braces", "line"]

# Printable in the eyes of Python, but blank on the screen: fillers, joiners, variation selectors.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_BRACE = re.compile(r"\\[\\{}]|[{}]")  # an escaped brace is text, and an escaped backslash escapes nothing


def visible(text: str) -> bool:
    """Whether `text` shows a reader anything: white space, zero-width and filler characters do not."""
    text = text.strip()
    # Nearly every text shows itself by its first character; only a strange one is looked through.
    return bool(text) and (
        "!" <= text[0] <= "~"
        or any(c.isprintable() and not c.isspace() and not _BLANK.match(c) for c in text)
    )


def closing_brace(text: str, start: int) -> int:
    """Return where the brace is that closes the group opened just before `start`, or -1. Linear time."""
    depth = 1
    for match in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return match.start()
    return -1


def _mixed_up(tags: tuple[str, ...], reserved: tuple[str, ...]) -> bool:
    """Whether a text could hold two of the tags, or a reserved one twice, in overlapping places."""
    pairs = [(a, b) for i, a in enumerate(tags) for j, b in enumerate(tags) if i != j]
    overlaps = [*pairs, *((tag, tag) for tag in reserved)]
    return any(a in b for a, b in pairs) or any(
        a.endswith(b[:size]) for a, b in overlaps for size in range(1, len(b))
    )


@dataclass(frozen=True)
class TagSpec:
    """Reasoning between two tags, then one answer. Tags are case-sensitive; white space around is free.

    `answer_form` says how the answer is set off behind the reasoning:
    "tags": between `answer_open` and `answer_close`, with no text around them;
    "text": it is all the text there is, and `answer_open` and `answer_close` are empty;
    "braces": in free text, between `answer_open`, a LaTeX command with its brace, and the brace that closes
    the group; "\\{" and "\\}" are text, as in LaTeX;
    "line": in free text, the rest of the line that starts with `answer_open`, which ends in a space that
    may be left out when it is read; `answer_close` is empty.
    Raises ValueError for tags that cannot be told apart, and delimiters that do not fit the form.
    """

    think_open: str = "<think>"
    think_close: str = "</think>"
    answer_open: str = "<answer>"
    answer_close: str = "</answer>"
    answer_form: AnswerForm = "tags"

    def __post_init__(self) -> None:
        delimiters = (self.answer_open, self.answer_close)
        fits = {
            "tags": all(delimiters),
            "text": not any(delimiters),
            "braces": bool(re.fullmatch(r"\\[A-Za-z]+\{", self.answer_open)) and self.answer_close == "}",
            "line": bool(re.fullmatch(r"\S(?:.*\S)? ", self.answer_open)) and not self.answer_close,
        }
        if self.answer_form not in fits:
            raise ValueError(f"answer_form {self.answer_form!r} is not known: give one of {', '.join(fits)}")
        if not fits[self.answer_form]:
            raise ValueError(
                f"answer_open and answer_close {delimiters} do not fit answer_form {self.answer_form!r}: "
                "see TagSpec for what each form takes"
            )
        if not all(tag.strip() for tag in self.reserved) or _mixed_up(self.tags, self.reserved):
            raise ValueError(f"tags {self.tags} cannot be told apart: give some that do not overlap")

    def __reduce__(self) -> tuple[type["TagSpec"], tuple[str, ...]]:
        return type(self), astuple(self)  # a pickle says the same before and after the patterns are made

    @property
    def tags(self) -> tuple[str, ...]:
        """think_open, think_close, and what there is of answer_open and answer_close."""
        both = (self.think_open, self.think_close)
        return both + tuple(filter(None, (self.answer_open, self.answer_close)))

    @property
    def reserved(self) -> tuple[str, ...]:
        """The tags that neither reasoning nor answer may contain. A box or "####" has other uses, too."""
        both = (self.think_open, self.think_close)
        return (*both, self.answer_open, self.answer_close) if self.answer_form == "tags" else both

    @cached_property
    def names(self) -> dict[str, str]:
        """From each reserved tag to the name of its field."""
        fields = ("think_open", "think_close", "answer_open", "answer_close")
        return dict(zip(self.reserved, fields, strict=False))

    @cached_property
    def reserved_pattern(self) -> re.Pattern[str]:
        """Finds the reserved tags. Plain literals in an alternation: the scan never backtracks."""
        return re.compile("|".join(map(re.escape, self.reserved)))

    @cached_property
    def answer_pattern(self) -> re.Pattern[str] | None:
        """Finds what opens an answer behind the reasoning, where that is no reserved tag."""
        if self.answer_form == "braces":
            # Without its brace, too: an answer that is not closed, not free text.
            return re.compile(rf"{re.escape(self.answer_open[:-1])}(?![A-Za-z])\s*\{{?")
        if self.answer_form == "line":
            # A tag of the reasoning ends a line as well. "#####" is not "####".
            ends = "|".join(f"(?<={re.escape(tag)})" for tag in self.reserved)
            opener, last = re.escape(self.answer_open[:-1]), re.escape(self.answer_open[-2])
            return re.compile(rf"(?:^|{ends})[^\S\n]*{opener}(?!{last})", re.MULTILINE)
        return None

    def render(self, think: str, answer: str) -> str:
        """Return the completion that holds this reasoning and this answer, as `parse` reads it back.

        Raises ValueError where `parse` would not: one of the two is blank or contains a tag, or the answer
        cannot stand in this form.
        """
        for name, text in (("think", think), ("answer", answer)):
            if not visible(text):
                raise ValueError(f"{name} {text!r:.80} is blank: write something to render")
            if any(tag in text for tag in self.reserved):
                raise ValueError(f"{name} {text!r:.80} contains one of the tags {self.reserved}: remove it")
        reasoning = f"{self.think_open}\n{think}\n{self.think_close}\n"
        if self.answer_form == "line":
            answer = answer.strip()
            if "\n" in answer:
                raise ValueError(f"answer {answer!r:.80} has several lines: this form takes one")
        if self.answer_form == "braces":
            assert self.answer_pattern is not None
            if self.answer_pattern.search(answer) or closing_brace(f"{answer}}}", 0) != len(answer):
                raise ValueError(
                    f"answer {answer!r:.80} cannot stand in {self.answer_open}{self.answer_close}: balance "
                    f"its braces and leave {self.answer_open[:-1]} out"
                )
        return f"{reasoning}{self.answer_open}{answer}{self.answer_close}"

    def system_prompt(self) -> str:
        """Return the instruction for the model: the form it shows is one that `parse` accepts."""
        form = self.render("reasoning", "result")
        return f"Think step by step, then answer. Reply in exactly this form:\n{form}"


SPECS: dict[str, TagSpec] = {
    "think_answer": TagSpec(),
    "think_text": TagSpec(answer_open="", answer_close="", answer_form="text"),
    "think_boxed": TagSpec(answer_open="\\boxed{", answer_close="}", answer_form="braces"),
    "think_hash": TagSpec(answer_open="#### ", answer_close="", answer_form="line"),
}
