"""think_format: does the completion keep the asked form? think_format_graded: how much of it?"""

import re

from rewards.response import Response
from rewards.score import Score
from rewards.spec import visible

_REASONING = frozenset({"think_missing", "think_unclosed", "think_empty", "think_repeated"})
_TAG = re.compile(r"</?[A-Za-z_]+>")


def think_format(response: Response) -> Score:
    """1.0 if the response has no problems, else 0.0 with their names."""
    if response.problems:
        return Score(0.0, ", ".join(response.problems))
    return Score(1.0, "the asked form")


def think_format_graded(response: Response) -> Score:
    """The share of three requirements that hold, in [0, 1]; 1 exactly where `think_format` gives 1.

    They are: reasoning that is opened and closed once and says something; one answer behind it that says
    something; and nothing else wrong. Each holds only with those before it, so neither plain text nor any
    number of tags earns anything, and no tag is worth more than what stands between two of them.
    """
    reasoning = _REASONING.isdisjoint(response.problems)
    if "answer_in_think" in response.problems:  # such a tag is visible, but says nothing
        reasoning = reasoning and visible(_TAG.sub("", response.think or ""))
    answer = reasoning and response.answer is not None
    held = reasoning + answer + (answer and not response.problems)
    said = ", ".join(response.problems) or "the asked form"
    return Score(held / 3, f"{held} of 3 requirements of the form: {said}")
