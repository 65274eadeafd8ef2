"""Reward functions of users and of TRL, behind the interface of our own."""

import asyncio
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

from rewards.base import Reward, nearest, rows
from rewards.score import Score


class _Columns(dict[str, Any]):
    """The columns of one row; asking for one that is missing says which there are."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"there is no column {name!r}: {nearest(name, self)}")


_BATCH = {"completions", "completion_ids"}
"""A parameter of one of these names makes a function a batch function in the way of TRL."""


def _as_wanted(completions: list[Any], parameters: Mapping[str, inspect.Parameter]) -> list[Any]:
    """Completions as the function declares them: TRL's own rewards read conversations, lists of messages."""
    declared = parameters.get("completions")
    if declared is None or "dict" not in str(declared.annotation):
        return completions
    return [[{"role": "assistant", "content": c}] if isinstance(c, str) else c for c in completions]


class FunctionReward(Reward):
    """A reward around a TRL-style batch function or a plain function of one response (see `as_reward`)."""

    _given = ("completions", "prefill")

    def scores(
        self, /, *, completions: list[Any], prefill: list[str] | None = None, **columns: Any
    ) -> list[Score]:
        # A trainer adds arguments that are not columns; those that are lists are.
        for name, column in columns.items():
            if isinstance(column, list | tuple):
                rows(name, column, len(completions))
        parameters = inspect.signature(self._function).parameters
        if _BATCH & parameters.keys():
            values = self._score_batch(completions, prefill, columns, parameters)
        else:
            lists = {name: column for name, column in columns.items() if isinstance(column, list | tuple)}
            examples = [
                _Columns({name: column[row] for name, column in lists.items()})
                for row in range(len(completions))
            ]
            responses = self._responses(completions, prefill)
            values = _settle(
                [self._function(r, e, **self._options) for r, e in zip(responses, examples, strict=True)]
            )
        return self._checked(values, len(completions))

    def _score_batch(
        self,
        completions: list[Any],
        prefill: list[str] | None,
        columns: dict[str, Any],
        parameters: Mapping[str, inspect.Parameter],
    ) -> Any:
        self._require(columns)
        arguments = {**columns, "completions": _as_wanted(completions, parameters)}
        if prefill is not None or "prefill" in parameters:
            arguments["prefill"] = prefill
        if not self._open_ended:
            arguments = {name: value for name, value in arguments.items() if name in parameters}
        return _settle([self._function(**{**arguments, **self._options})])[0]

    def _checked(self, values: Any, count: int) -> list[Score]:
        if not hasattr(values, "__len__") or len(values) != count:
            size = len(values) if hasattr(values, "__len__") else repr(values)
            raise ValueError(f"reward {self.__name__!r} returned {size} values for {count} completions")
        scores = []
        for row, value in enumerate(values):
            try:
                number = None if value is None else float(value)
            except (TypeError, ValueError):
                number = math.nan
            if number is not None and not math.isfinite(number):
                raise ValueError(
                    f"reward {self.__name__!r} returned {value!r:.80} for completion {row}: "
                    "return a finite number, or None to abstain"
                )
            scores.append(Score(number, "abstained" if number is None else f"returned {number:g}"))
        return scores


def as_reward(function: Callable[..., Any], name: str | None = None, **options: Any) -> Reward:
    """Adapt a reward function; a Reward is returned as it is, or with the options set.

    Two forms are taken, sync or async: TRL's, a batch function with a parameter `completions` (strings, or
    conversations where it is annotated as lists of dicts) or `completion_ids`, that returns a list with one
    number or None each; and `function(response: Response, example: dict) -> float | None`,
    where `example` holds the row's columns. `options` are passed to it by name. Calls raise ValueError for
    a missing column, a wrong length, NaN or infinity. Raises ValueError for any other signature.
    """
    if isinstance(function, Reward):
        return function.with_options(**options) if options else function
    name = name or str(getattr(function, "__name__", type(function).__name__))
    parameters = list(inspect.signature(function).parameters.values())
    plain = [p for p in parameters[:2] if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if all(p.name not in _BATCH for p in parameters) and len(plain) < 2:
        raise ValueError(
            f"reward {name!r} must take (completions, **columns) or (response, example), "
            f"not {inspect.signature(function)}"
        )
    return FunctionReward(name, function, **options)


def load_function(path: str) -> Callable[..., Any]:
    """Import "my_file.py:function" or "package.module:function". Raises ValueError if it is not there."""
    where, _, attribute = path.rpartition(":")
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    function = getattr(module, attribute, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise ValueError(f"{where} has no reward function {attribute!r}: {nearest(attribute, names)}")
    return function


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no reward file {path}: looked in {Path.cwd()}")
    # The absolute path keeps two files of one name apart.
    name = f"reward_file:{path.resolve()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise  # the module is there; something that it imports is not
        raise ValueError(
            f"there is no reward module {name!r}: for a file, write my_file.py:function"
        ) from error


def _settle(values: list[Any]) -> list[Any]:
    """Return the values, those of coroutines awaited together, also where an event loop already runs."""
    if not any(inspect.isawaitable(value) for value in values):
        return values

    async def one(value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value

    async def gather() -> list[Any]:
        return await asyncio.gather(*map(one, values))

    # A thread of its own: asyncio.run refuses where the caller is inside a loop (a notebook, a trainer).
    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(lambda: asyncio.run(gather())).result()
