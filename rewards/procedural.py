"""reasoning_gym: the verifier that comes with the generator of the question."""

import ast
import json
import os
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rewards.base import Reward, nearest
from rewards.pooled import PooledReward
from rewards.process import WorkerProcess
from rewards.response import Response
from rewards.score import Score
from rewards.symbolic import guard

MAX_CHARACTERS = 4000
MAX_PARSED = 1000
SECONDS = 10.0
"""How long a verifier may take where no pool says otherwise."""

_Verifier = Callable[[str, dict[str, Any]], float]

# Verifiers of reasoning-gym 0.1.25 that pass the answer to eval, or to sympy's parse_expr, which calls it.
_EVALUATED = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
_PARSED = frozenset(
    {"countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"}
)


def reasoning_gym(response: Response, *, reasoning_gym: dict[str, Any]) -> Score:
    """Score the answer as its generator does, mostly in [0, 1].

    Column `reasoning_gym`: {"dataset": name, "entry": the generated item, "params": the generator's}; without
    `params` its defaults are assumed, which only a few verifiers read. An answer is refused, with 0,
    where the verifier would execute it and it is more than a literal or a small expression. The verifier
    runs in a worker process, whoever calls and from whichever thread: one that takes longer than `SECONDS`
    gives 0, one that ends its process or fails on the known right answer, too, no value, both as failed
    scores. Raises ImportError where the library is missing, ValueError for an unknown generator or a
    malformed column.
    """
    if not isinstance(reasoning_gym, dict) or not {"dataset", "entry"} <= reasoning_gym.keys():
        raise ValueError(
            f"column 'reasoning_gym' must hold {{'dataset': ..., 'entry': ...}}, not {reasoning_gym!r:.80}"
        )
    name, entry, answer = reasoning_gym["dataset"], reasoning_gym["entry"], response.answer
    verify = _verifier(name, _params(reasoning_gym))
    if answer is None:
        return Score(0.0, f"no answer: {', '.join(response.problems)}")
    if len(answer) > MAX_CHARACTERS or not _harmless(name, answer, str(entry.get("answer"))):
        return Score(0.0, f"unreadable answer: {answer!r:.80}")
    if WorkerProcess.forbidden:  # this is a worker: its pool watches the time
        return _verified(verify, name, answer, entry)
    call = _elsewhere(os.getpid()).begin([answer], None, {"reasoning_gym": [reasoning_gym]}, seconds=SECONDS)
    call.reward.pool.run([call])
    return call.result()[0]


def _verified(verify: _Verifier, name: str, answer: str, entry: dict[str, Any]) -> Score:
    try:
        value = float(verify(answer, entry))
    except Exception as error:
        # Verifiers may fail on a text that no author thought of. One that fails on the known right answer
        # is broken, and that must not pass for a wrong answer.
        verify(entry["answer"], entry)
        return Score(0.0, f"unreadable answer: {answer!r:.80} ({type(error).__name__})")
    return Score(value, f"the verifier of {name} says {value:g}")


def _of_answer(response: Response, *, reasoning_gym: dict[str, Any]) -> Score:
    name, entry = reasoning_gym["dataset"], reasoning_gym["entry"]
    return _verified(_verifier(name, _params(reasoning_gym)), name, response.text, entry)


ANSWERS = Reward("reasoning_gym", _of_answer)
"""What the worker is asked: its completions are answers, taken out of their form and looked at before."""


@lru_cache(maxsize=1)
def _elsewhere(process: int) -> PooledReward:
    """The reward of the one worker of this process: a fork has the object, but not the worker."""
    from rewards.pool import WorkerPool

    pooled = WorkerPool(1).reward("rewards.procedural:ANSWERS")
    assert isinstance(pooled, PooledReward)
    return pooled


def _params(item: dict[str, Any]) -> str:
    return json.dumps(item.get("params") or {}, sort_keys=True)


@lru_cache(maxsize=128)
def _verifier(name: str, params_json: str) -> _Verifier:
    try:
        from reasoning_gym.factory import DATASETS, create_dataset, get_score_answer_fn
    except ImportError as error:
        raise ImportError(
            "the reward 'reasoning_gym' needs its library: pip install reasoning-gym"
        ) from error
    if name not in DATASETS:
        raise ValueError(f"reasoning_gym has no generator {name!r}: {nearest(name, DATASETS)}")
    params = json.loads(params_json)
    verify: _Verifier
    if params:
        verify = create_dataset(name, **{**params, "size": 1, "seed": 0}).score_answer
    else:
        verify = get_score_answer_fn(name)
    return verify


def _harmless(name: str, answer: str, gold: str) -> bool:
    """Whether the verifier may be shown this answer."""
    if answer == gold or name not in _EVALUATED | _PARSED:
        return True
    if name in _PARSED:
        return guard(re.sub(r"\bexp\b|\bC\b", "x", answer), MAX_PARSED) is not None
    try:
        tree = ast.parse(answer.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return True  # eval would not get further either
    try:
        ast.literal_eval(tree)
    except (ValueError, TypeError, MemoryError, RecursionError):
        return False
    return True
