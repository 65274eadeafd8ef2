"""think_format: does the completion keep the asked form?"""

from rewards.response import Response
from rewards.score import Score


def think_format(response: Response) -> Score:
    """1.0 if the response has no problems, else 0.0 with their names."""
    if response.problems:
        return Score(0.0, ", ".join(response.problems))
    return Score(1.0, "the asked form")
