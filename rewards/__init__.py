"""Rewards for reasoning: text and answers in, values and reasons out. Needs neither torch nor rlreason.

Each entry of REWARDS has the signature of TRL's reward functions:
`REWARDS["accuracy"](completions=[...], answer=[...])` returns one float a completion, None to abstain.
"""

from collections.abc import Mapping
from typing import Any

from rewards import (
    accuracy,
    code,
    control,
    countdown,
    format,
    language,
    learned,
    length,
    procedural,
    repetition,
)
from rewards.adapt import as_reward, load_function
from rewards.base import Reward, nearest
from rewards.pool import WorkerPool
from rewards.pooled import PooledReward
from rewards.response import Response, parse
from rewards.rubric import Rubric, RubricScore, Term
from rewards.score import Score
from rewards.spec import SPECS, TagSpec

__all__ = [
    "REWARDS",
    "SPECS",
    "PooledReward",
    "Response",
    "Reward",
    "Rubric",
    "RubricScore",
    "Score",
    "TagSpec",
    "Term",
    "WorkerPool",
    "as_reward",
    "load_reward",
    "parse",
]

REWARDS: dict[str, Reward] = {
    "accuracy": Reward("accuracy", accuracy.accuracy),
    "think_format": Reward("think_format", format.think_format),
    "think_format_graded": Reward("think_format_graded", format.think_format_graded),
    "countdown": Reward("countdown", countdown.countdown),
    "code": Reward("code", code.code),
    "length_cosine": Reward("length_cosine", length.length_cosine),
    "length_overlong": Reward("length_overlong", length.length_overlong),
    "repetition": Reward("repetition", repetition.repetition),
    "language": Reward("language", language.language),
    "random": Reward("random", control.random_control),
    "reasoning_gym": Reward("reasoning_gym", procedural.reasoning_gym),
    "learned": learned.BatchReward("learned", learned.learned),
}


def load_reward(
    name_or_path: str, args: Mapping[str, Any] | None = None, spec: TagSpec | None = None
) -> Reward:
    """Return a registered reward, or the function at "my_file.py:function" or "package.module:function".

    `args` are passed to it by name in every call; `spec` is the form of the completions, think_answer unless
    given. Raises ValueError for a name, file, module, function or argument that does not exist, with the
    nearest that does.
    """
    if ":" not in name_or_path:
        if name_or_path not in REWARDS:
            raise ValueError(
                f"there is no reward {name_or_path!r}: {nearest(name_or_path, REWARDS)}; "
                "or write my_file.py:function"
            )
        reward = REWARDS[name_or_path]
        reward = reward.with_options(**args) if args else reward
    else:
        reward = as_reward(load_function(name_or_path), name_or_path.rpartition(":")[2], **(args or {}))
    return reward if spec is None else reward.with_spec(spec)
