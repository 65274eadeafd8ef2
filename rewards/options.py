"""Options and columns of rewards, checked: an error names the option, its value and where to set it."""

import math
from typing import Any


def count(reward: str, option: str, value: Any) -> int:
    """Return an option that is a whole number above 0. Raises ValueError otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            f"reward {reward!r} needs the option {option!r}, a whole number above 0, not {value!r}: set "
            f"rewards.{reward}.args.{option}"
        )
    return value


def number(reward: str, option: str, value: Any) -> float:
    """Return an option that is a finite number. Raises ValueError otherwise."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(
            f"reward {reward!r}: {option}={value!r} must be a finite number: set "
            f"rewards.{reward}.args.{option}"
        )
    return value


def token_ids(reward: str, completion_ids: Any) -> list[int]:
    """Return the token ids of a completion as a list. Raises ValueError where there are none.

    Characters or words would not do: they are other units, and how long they are is up to the policy.
    """
    if hasattr(completion_ids, "tolist"):  # equal elements of a tensor are different keys of a dict
        completion_ids = completion_ids.tolist()
    if not isinstance(completion_ids, list | tuple):
        raise ValueError(
            f"reward {reward!r} counts tokens: give the column 'completion_ids' with a list of token ids a "
            f"completion, not {completion_ids!r:.80}"
        )
    return list(completion_ids)
