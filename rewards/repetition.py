"""repetition: a penalty for saying the same again and again."""

from typing import Any

from rewards.length import token_ids
from rewards.response import Response
from rewards.score import Score


def repetition(
    response: Response, *, completion_ids: Any = None, ngram: int = 20, max_penalty: float = -1.0
) -> Score:
    """0.0 where no `ngram` tokens in a row come twice, down to `max_penalty`; never more than 0.

    The penalty of Yeo et al. (arXiv 2502.03373, appendix C.2) for a whole completion: max_penalty times the
    share of n-grams that were there before, 1 - different / all. They use 40 tokens; short ones, of 3 say,
    also repeat in good reasoning ("so x = "). Column `completion_ids` (the token ids of each completion).
    Raises ValueError where it is missing, for an `ngram` below 1 and a `max_penalty` above 0.
    """
    if not isinstance(ngram, int) or ngram < 1:
        raise ValueError(f"repetition: ngram={ngram!r} must be a number of tokens above 0")
    if max_penalty > 0:
        raise ValueError(f"repetition: max_penalty={max_penalty} must not be above 0: repetition would pay")
    ids = token_ids("repetition", completion_ids)
    total = len(ids) - ngram + 1
    if total < 1:
        return Score(0.0, f"{len(ids)} tokens, less than {ngram}")
    different = len({tuple(ids[start : start + ngram]) for start in range(total)})
    share = 1 - different / total
    return Score(
        max_penalty * share or 0.0, f"{total - different} of {total} runs of {ngram} tokens are repeated"
    )
