"""length_cosine and length_overlong: rewards that look at the number of tokens of a completion."""

import math
from typing import Any

from rewards.accuracy import accuracy
from rewards.response import Response
from rewards.score import Score


def length_cosine(
    response: Response,
    *,
    answer: Any,
    answer_type: str | None = None,
    completion_ids: Any = None,
    max_tokens: int | None = None,
    right_short: float = 2.0,
    right_long: float = 1.0,
    wrong_short: float = -10.0,
    wrong_long: float = 0.0,
    exceeded: float = -10.0,
) -> Score:
    """A value by length that goes down for right answers and up for wrong ones, along half a cosine.

    Yeo et al., "Demystifying Long Chain-of-Thought Reasoning in LLMs" (arXiv 2502.03373, appendix C.1), with
    their values as defaults. For t tokens of at most `max_tokens` = T:
    long + (short - long) / 2 * (1 + cos(pi t / T)), where short and long are those of `right_...` or
    `wrong_...`, and `exceeded` from t = T on. Right means that `accuracy` gives 1; where it abstains, so does
    this. Columns `answer`, `answer_type` and `completion_ids` (the token ids of each completion). Raises
    ValueError where `completion_ids` or `max_tokens` is missing, and for values by which a wrong answer could
    earn more than 0 or than a right one.
    """
    tokens = len(token_ids("length_cosine", completion_ids))
    longest = _positive("length_cosine", "max_tokens", max_tokens)
    if max(wrong_short, wrong_long, exceeded) > min(0.0, right_short, right_long):
        raise ValueError(
            f"length_cosine: wrong_short={wrong_short}, wrong_long={wrong_long}, exceeded={exceeded} must "
            f"not be above 0, right_short={right_short} or right_long={right_long}: being wrong would pay"
        )
    judged = accuracy(response, answer=answer, answer_type=answer_type)
    if judged.value is None:
        return judged
    if tokens >= longest:
        return Score(exceeded, f"{tokens} tokens, of less than {longest}; {judged.reason}")
    short, long = (right_short, right_long) if judged.value == 1 else (wrong_short, wrong_long)
    value = long + (short - long) / 2 * (1 + math.cos(math.pi * tokens / longest))
    return Score(value, f"{tokens} of {longest} tokens; {judged.reason}")


def length_overlong(
    response: Response,
    *,
    completion_ids: Any = None,
    max_tokens: int | None = None,
    cache_tokens: int | None = None,
) -> Score:
    """0.0 for a completion that is short enough, down to -1.0 for one that is too long; never more than 0.

    Yu et al., "DAPO" (arXiv 2503.14476, equation 13). For t tokens, `max_tokens` = L and `cache_tokens` = C
    (a fifth of L if not given): 0 up to L - C, then (L - C - t) / C, and -1 beyond L. Column `completion_ids`
    (the token ids of each completion). Raises ValueError where it or `max_tokens` is missing, and for a cache
    that is not between 1 and L.
    """
    tokens = len(token_ids("length_overlong", completion_ids))
    longest = _positive("length_overlong", "max_tokens", max_tokens)
    cache = (
        max(1, longest // 5)
        if cache_tokens is None
        else _positive("length_overlong", "cache_tokens", cache_tokens)
    )
    if cache > longest:
        raise ValueError(
            f"length_overlong: cache_tokens={cache} is more than max_tokens={longest}: give less"
        )
    over = tokens - (longest - cache)
    return Score(
        -min(max(over, 0) / cache, 1.0) or 0.0, f"{tokens} tokens, {longest - cache} are free of charge"
    )


def token_ids(name: str, completion_ids: Any) -> list[int]:
    """Return the token ids as a list, for the reward `name`; raises ValueError where there are none.

    Characters or words would not do: they are other units, and how long they are is up to the policy.
    """
    if not hasattr(completion_ids, "__len__") or isinstance(completion_ids, str | bytes | dict):
        raise ValueError(
            f"reward {name!r} counts tokens: give the column 'completion_ids' with a list of token ids a "
            f"completion, not {completion_ids!r:.80}"
        )
    return list(completion_ids)


def _positive(name: str, option: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"reward {name!r} needs the option {option!r}, a number of tokens above 0, not {value!r}"
        )
    return value
