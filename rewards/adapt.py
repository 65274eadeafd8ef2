"""Reward functions of users and of TRL, behind the interface of our own."""

import importlib
import importlib.util
import inspect
import math
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from rewards.base import Reward, nearest, rows
from rewards.response import Response
from rewards.score import Score

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from concurrent.futures import Future


class _Columns(dict[str, Any]):
    """The columns of one row; asking for one that is missing says which there are."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(f"there is no column {name!r}: {nearest(name, self)}")


_BATCH = {"completions", "completion_ids"}
"""A parameter of one of these names makes a function a batch function in the way of TRL."""


_NESTED = (list, tuple, dict)
_TEXT = (str, bytes, bytearray)
"""What float() would read, and is a number only by luck."""


def _as_wanted(completions: list[Any], parameters: Mapping[str, inspect.Parameter]) -> list[Any]:
    """Completions as the function declares them: TRL's own rewards read conversations, lists of messages."""
    declared = parameters.get("completions")
    if declared is None or "dict" not in str(declared.annotation):
        return completions
    return [[{"role": "assistant", "content": c}] if isinstance(c, str) else c for c in completions]


def _ignore(*args: Any, **named: Any) -> None:
    """What logs where no trainer listens."""


_TRAINER = {"trainer_state": None, "log_extra": _ignore, "log_metric": _ignore, "environments": None}
"""What a batch function of TRL may ask its trainer for, and what stands in for it where there is none."""


class FunctionReward(Reward):
    """A reward around a TRL-style batch function or a plain function of one response (see `as_reward`)."""

    _given = ("completions", "prefill")

    def __init__(self, name: str, function: Callable[..., Any], **options: Any) -> None:
        super().__init__(name, function, **options)
        self._asks_trainer = [n for n in self._required if n in _TRAINER and n not in options]
        self._required = [n for n in self._required if n not in _TRAINER]

    @property
    def kind(self) -> Literal["rows", "async", "batch"]:
        """Whether the function takes one response, takes one and is async, or takes a batch."""
        if _BATCH & inspect.signature(self._function).parameters.keys():
            return "batch"
        called = getattr(type(self._function), "__call__", None)  # noqa: B004 (an object may be async)
        is_async = inspect.iscoroutinefunction(self._function) or inspect.iscoroutinefunction(called)
        return "async" if is_async else "rows"

    def scores(
        self, /, *, completions: list[Any], prefill: list[str] | None = None, **columns: Any
    ) -> list[Score]:
        values = self.values(completions, prefill, columns)
        several = len(values) > 1
        return [
            self.score_of(value, f" for completion {row}" if several else "")
            for row, value in enumerate(values)
        ]

    def values(
        self, completions: list[Any], prefill: list[str] | None, columns: Mapping[str, Any]
    ) -> list[Any]:
        """What the function gives, awaited: one value a completion, of any kind (see `score_of`).

        Raises ValueError for a missing column, a column or a result of a wrong length, and a result of a
        batch function that is no list, tuple or array. The function gets copies of the lists: what it does to
        them is not seen by other rewards.
        """
        count = len(completions)
        if self.kind == "batch":
            values = settle([self._call_batch(completions, prefill, columns)])[0]
        else:
            asked = self.questions(completions, prefill, columns)
            values = settle([self.call(*response_and_row) for response_and_row in asked])
        array = hasattr(values, "tolist") and getattr(values, "ndim", 1) > 0  # of numpy, torch, pandas
        if not isinstance(values, list | tuple) and not array:
            raise ValueError(
                f"reward {self.__name__!r} returned a {type(values).__name__}, {values!r:.80}: return a list "
                f"of {count} values for {count} completions, each a number or None"
            )
        if len(values) != count:
            raise ValueError(
                f"reward {self.__name__!r} returned {len(values)} values for {count} completions"
            )
        return list(values)

    def questions(
        self, completions: list[Any], prefill: list[str] | None, columns: Mapping[str, Any]
    ) -> list[tuple[Response, dict[str, Any]]]:
        """The arguments of a function of one response, for each completion."""
        lists = _lists(columns, len(completions))
        responses = self._responses(completions, prefill)
        return [
            (response, _Columns({name: _copied(column[row]) for name, column in lists.items()}))
            for row, response in enumerate(responses)
        ]

    def call(self, response: Response, row: dict[str, Any]) -> Any:
        """What a function of one response returns, which may be awaitable."""
        return self._function(response, row, **self._options)

    def _call_batch(
        self, completions: list[Any], prefill: list[str] | None, columns: Mapping[str, Any]
    ) -> Any:
        self._require(columns)
        _lists(columns, len(completions))
        parameters = inspect.signature(self._function).parameters
        stand_ins = {name: _TRAINER[name] for name in self._asks_trainer}
        arguments = {**stand_ins, **columns, "completions": _as_wanted(completions, parameters)}
        arguments = {n: _copied(v) if isinstance(v, list | tuple) else v for n, v in arguments.items()}
        if prefill is not None or "prefill" in parameters:
            arguments["prefill"] = _copied(prefill)
        if not self._open_ended:
            arguments = {name: value for name, value in arguments.items() if name in parameters}
        return self._function(**{**arguments, **self._options})

    def score_of(self, value: Any, where: str = "") -> Score:
        """One value as a Score. Raises ValueError unless it is a finite number or None.

        A number may also be one of numpy or torch, or in an array or tensor that holds nothing else.
        """
        try:
            plain = value.item() if hasattr(value, "item") else value
            number = None if plain is None else math.nan if isinstance(plain, _TEXT) else float(plain)
        except (TypeError, ValueError, OverflowError, RuntimeError):
            number = math.nan
        if number is not None and not math.isfinite(number):
            raise ValueError(
                f"reward {self.__name__!r} returned {value!r:.80}{where}: "
                "return a finite number, or None to abstain"
            )
        return Score(number, "abstained" if number is None else f"returned {number:g}")


def _copied(value: Any) -> Any:
    """A copy of lists, tuples and dicts, and of those inside them; anything else is handed on."""
    if type(value) in (list, tuple):
        return type(value)([_copied(v) if isinstance(v, _NESTED) else v for v in value])
    if type(value) is dict:
        return {name: _copied(v) for name, v in value.items()}
    return value


def _lists(columns: Mapping[str, Any], count: int) -> dict[str, list[Any]]:
    """The columns among the arguments: a trainer adds others that are no lists."""
    return {
        name: rows(name, column, count)
        for name, column in columns.items()
        if isinstance(column, list | tuple)
    }


def as_reward(function: Callable[..., Any], name: str | None = None, **options: Any) -> Reward:
    """Adapt a reward function; a Reward is returned as it is, or with the options set.

    Two forms are taken, sync or async: TRL's, a batch function with a parameter `completions` (strings, or
    conversations where it is annotated as lists of dicts) or `completion_ids`, that returns a list with one
    number or None each; and `function(response: Response, example: dict) -> float | None`,
    where `example` holds the row's columns. `options` are passed to it by name. Calls raise ValueError for
    a missing column, a wrong length, NaN or infinity; in a rubric they are failed scores instead. Raises
    ValueError for any other signature.
    """
    if isinstance(function, Reward):
        return function.with_options(**options) if options else function
    name = name or str(getattr(function, "__name__", type(function).__name__))
    parameters = list(inspect.signature(function).parameters.values())
    batch = any(p.name in _BATCH for p in parameters)
    first = [] if batch else parameters[:2]
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    unnamed = [p for p in parameters if p.kind is p.POSITIONAL_ONLY and p not in first]
    if unnamed or not (batch or (len(first) == 2 and all(p.kind in by_place for p in first))):
        raise ValueError(
            f"reward {name!r} must take (completions, **columns), by name, or (response, example), "
            f"not {inspect.signature(function)}"
        )
    for p in [] if batch else parameters[2:]:
        required = p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        if required and p.name not in options:
            raise ValueError(
                f"reward {name!r} must take (response, example): it has no value for {p.name!r}, so give it "
                "a default or an option of that name"
            )
    return FunctionReward(name, function, **options)


# ---------------------------------------------------------------------- loading


def load_function(path: str) -> Callable[..., Any]:
    """Import "my_file.py:function" or "package.module:function". Raises ValueError if it is not there.

    A file may import its neighbours by name, as a script may: its folder goes to the front of `sys.path`.
    """
    where, _, attribute = path.rpartition(":")
    module = _load_file(Path(where)) if where.endswith(".py") else _load_module(where)
    function = getattr(module, attribute, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if callable(value) and name[0] != "_"]
        raise ValueError(f"{where} has no reward function {attribute!r}: {nearest(attribute, names)}")
    return function


_FOLDERS: set[str] = set()
"""Folders of the reward files loaded so far."""


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no reward file {path}: looked in {Path.cwd()}")
    folder = str(path.resolve().parent)
    _forget_namesakes(folder)
    _FOLDERS.add(folder)
    sys.path[:] = [folder, *(entry for entry in sys.path if entry != folder)]
    # The absolute path keeps two files of one name apart.
    name = f"reward_file:{path.resolve()}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _forget_namesakes(folder: str) -> None:
    """Let a file import its own neighbour `utils` where another reward file has imported one of that name."""
    for name, module in list(sys.modules.items()):
        origin = getattr(module, "__file__", None)
        if "." in name or not origin:
            continue
        home = Path(origin).parent if Path(origin).name != "__init__.py" else Path(origin).parent.parent
        here = Path(folder, name)
        ours = here.with_suffix(".py").exists() or (here / "__init__.py").exists()
        if ours and str(home) != folder and str(home) in _FOLDERS:
            for known in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
                del sys.modules[known]


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
            raise  # the module is there; something that it imports is not
        raise ValueError(
            f"there is no reward module {name!r}: for a file, write my_file.py:function"
        ) from error


# ---------------------------------------------------------------------- async functions


def settle(values: list[Any]) -> list[Any]:
    """Return the values, those of coroutines awaited together, also where an event loop already runs."""
    if not any(inspect.isawaitable(value) for value in values):
        return values
    import asyncio

    async def one(value: Any) -> Any:
        return await value if inspect.isawaitable(value) else value

    async def gather() -> list[Any]:
        return await asyncio.gather(*map(one, values))

    return on_event_loop(gather()).result()


def on_event_loop(work: Coroutine[Any, Any, Any]) -> "Future[Any]":
    """Start `work` on the one event loop of all async rewards; `result()` waits for it.

    The loop has a thread of its own, as the caller may be inside a loop already (a notebook, a trainer), and
    it lives as long as the process, so that a client that a reward keeps open stays usable.
    """
    import asyncio

    return asyncio.run_coroutine_threadsafe(work, _event_loop(os.getpid()))


@lru_cache(maxsize=1)
def _event_loop(process: int) -> "AbstractEventLoop":
    """The loop of this process: a fork has the object, but not the thread."""
    import asyncio

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="async rewards", daemon=True).start()
    return loop
