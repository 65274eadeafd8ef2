"""think_format: does the completion keep the asked form? think_format_graded: how much of it?"""

from rewards.response import Response
from rewards.score import Score

_REASONING = frozenset({"think_missing", "think_unclosed", "think_repeated"})
_ANSWER = frozenset(
    {"answer_missing", "answer_unclosed", "answer_repeated", "answer_in_think", "think_after_answer"}
)


def think_format(response: Response) -> Score:
    """1.0 if the response has no problems, else 0.0 with their names."""
    if response.problems:
        return Score(0.0, ", ".join(response.problems))
    return Score(1.0, "the asked form")


def think_format_graded(response: Response) -> Score:
    """The share of five requirements that hold, in [0, 1]; 1 exactly where `think_format` gives 1.

    They are: reasoning that is opened and closed once; with something in it; one answer behind it; with
    something in it; and nothing else wrong. The second and fourth hold only with the one before, the last
    only with the first or third. So neither plain text nor any number of tags earns what is not there.
    """
    problems = set(response.problems)
    reasoning, answer = not problems & _REASONING, not problems & _ANSWER
    held = (
        reasoning,
        reasoning and "think_empty" not in problems,
        answer,
        answer and "answer_empty" not in problems,
        (reasoning or answer) and problems <= _REASONING | _ANSWER | {"think_empty", "answer_empty"},
    )
    said = ", ".join(response.problems) or "the asked form"
    return Score(sum(held) / len(held), f"{sum(held)} of {len(held)} requirements of the form: {said}")
