"""length_cosine and length_overlong: rewards that look at the number of tokens of a completion."""

import math
from typing import Any

from rewards.accuracy import accuracy
from rewards.options import count, number, token_ids
from rewards.response import Response
from rewards.score import Score


def length_cosine(
    response: Response,
    *,
    answer: Any,
    completion_ids: Any,
    answer_type: str | None = None,
    prompts: Any = None,
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
    `wrong_...`, and `exceeded` from t = T on: a completion of that length was cut off. Right means that
    `accuracy` gives 1; where it abstains, so does this.

    Columns `answer`, `answer_type` and `completion_ids`: the token ids of each completion. Raises ValueError
    where there are none, where `max_tokens` is missing, and for values that are not finite or by which a
    wrong answer could earn more than 0 or than a right one.
    """
    tokens = len(token_ids("length_cosine", completion_ids))
    longest = count("length_cosine", "max_tokens", max_tokens)
    values = {
        "right_short": right_short, "right_long": right_long,
        "wrong_short": wrong_short, "wrong_long": wrong_long, "exceeded": exceeded,
    }  # fmt: skip
    for option, value in values.items():
        number("length_cosine", option, value)
    if max(wrong_short, wrong_long, exceeded) > min(0.0, right_short, right_long):
        listed = ", ".join(f"{option}={value}" for option, value in values.items())
        raise ValueError(
            f"reward 'length_cosine': with {listed}, being wrong or too long could earn more than 0 or than "
            "being right: none of the last three may be above 0 or above one of the first two"
        )
    judged = accuracy(response, answer=answer, answer_type=answer_type, prompts=prompts)
    if judged.value is None:
        return judged
    if tokens >= longest:
        return Score(exceeded, f"{tokens} tokens, of less than {longest}; {judged.reason}")
    short, long = (right_short, right_long) if judged.value == 1 else (wrong_short, wrong_long)
    value = long + (short - long) / 2 * (1 + math.cos(math.pi * tokens / longest))
    return Score(value, f"{tokens} of {longest} tokens; {judged.reason}")


def length_overlong(
    response: Response, *, completion_ids: Any, max_tokens: int | None = None, cache_tokens: int | None = None
) -> Score:
    """0.0 for a completion that is short enough, down to -1.0 for one that is too long; never more than 0.

    Yu et al., "DAPO" (arXiv 2503.14476, equation 13). For t tokens, `max_tokens` = L and `cache_tokens` = C
    (a fifth of L if not given, as theirs is): 0 up to L - C, then (L - C - t) / C, and -1 beyond L.

    Column `completion_ids`: the token ids of each completion. Raises ValueError where there are none, where
    `max_tokens` is missing, and for a cache that is not between 1 and L.
    """
    tokens = len(token_ids("length_overlong", completion_ids))
    longest = count("length_overlong", "max_tokens", max_tokens)
    default = max(1, longest // 5)
    cache = default if cache_tokens is None else count("length_overlong", "cache_tokens", cache_tokens)
    if cache > longest:
        raise ValueError(
            f"reward 'length_overlong': cache_tokens={cache} is more than max_tokens={longest}: give less"
        )
    free = longest - cache
    over = min(max(tokens - free, 0), cache)
    return Score(-over / cache or 0.0, f"{tokens} tokens, {free} are free of charge")
