"""repetition: a penalty for saying the same again and again."""

from collections.abc import Sequence
from typing import Any

from rewards.options import count, number, token_ids
from rewards.response import Response
from rewards.score import Score


def repetition(
    response: Response, *, completion_ids: Any, ngram: int = 20, max_penalty: float = -1.0
) -> Score:
    """0.0 where no `ngram` tokens in a row come twice, down to `max_penalty`; never more than 0.

    max_penalty times the share of n-grams that were there before, 1 - different / all: the penalty for a
    whole completion in the code of Yeo et al. (arXiv 2502.03373), over tokens as in TRL. The paper itself
    (appendix C.2) puts a penalty on each token of a repeated n-gram, of 40 tokens. Short ones, of 3 say, also
    repeat in good reasoning ("so x = "). What repeats with small changes, such as a counter, is not seen.

    Column `completion_ids`: the token ids of each completion. Raises ValueError where they are none, for an
    `ngram` below 1, and for a `max_penalty` that is above 0 or no finite number.
    """
    ngram = count("repetition", "ngram", ngram)
    if number("repetition", "max_penalty", max_penalty) > 0:
        raise ValueError(
            f"reward 'repetition': max_penalty={max_penalty} must not be above 0: repetition would pay"
        )
    ids = token_ids("repetition", completion_ids)
    total = len(ids) - ngram + 1
    if total < 1:
        return Score(0.0, f"{len(ids)} tokens, less than {ngram}")
    repeated = total - _different(ids, ngram)
    return Score(
        max_penalty * repeated / total or 0.0, f"{repeated} of {total} runs of {ngram} tokens are repeated"
    )


def repeated_share(completion_ids: Sequence[int], *, ngram: int) -> float:
    """The share of the runs of `ngram` tokens that were there before, in [0, 1]; 0 where it is shorter."""
    total = len(completion_ids) - ngram + 1
    return (total - _different(completion_ids, ngram)) / total if total > 0 else 0.0


def _different(ids: Sequence[int], ngram: int) -> int:
    """How many different n-grams there are, in memory that does not depend on their length.

    Runs of twice the width are told apart by the numbers of their two halves; in the end two runs that
    overlap make up the n-gram.
    """
    kinds, width = ids, 1
    while 2 * width <= ngram:
        numbers: dict[tuple[int, int], int] = {}
        kinds = [numbers.setdefault(pair, len(numbers)) for pair in zip(kinds, kinds[width:], strict=False)]
        width *= 2
    return len(set(zip(kinds, kinds[ngram - width :], strict=False)))
