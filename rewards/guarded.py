"""Scoring that does not raise: an error becomes a failed score of the completions that it happened for."""

import copy
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from rewards.adapt import FunctionReward, on_event_loop
from rewards.base import Reward, rows
from rewards.response import Response
from rewards.score import Score

_OURS = str(Path(__file__).parent)
_FRAMES = 8  # the innermost ones of a traceback; a deep recursion has a thousand alike
_ERRORS = (Exception, SystemExit)  # an interrupt is for the caller


def failure(error: BaseException) -> Score:
    """The failed score that an error becomes: its last line is the reason, its innermost frames the trace."""
    frames = error.__traceback__
    while frames is not None and str(Path(frames.tb_frame.f_code.co_filename).parent) == _OURS:
        frames = frames.tb_next  # the reward's author looks for a line of his own
    inner = traceback.extract_tb(frames)[-_FRAMES:]
    said = printable("".join(traceback.format_exception_only(error)).strip())
    places = [(inner[-1].filename, inner[-1].lineno)] if inner else []
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith("<"):
        places = [(error.filename, error.lineno)]  # where it is, not where it was loaded
    where = "".join(f" ({Path(name).name}, line {number})" for name, number in places)
    reason = f"{said.splitlines()[-1]:.300}{where}"
    return Score(None, reason, failed=True, trace="".join([*traceback.format_list(inner), said])[-4000:])


def printable(text: str) -> str:
    """`text` with what a terminal would act on escaped: an error may quote what a policy wrote."""
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape").decode()
        for character in text
    )


def timed_out(seconds: float) -> Score:
    """The score of a completion whose reward took longer than it may."""
    return Score(0.0, f"no value within {seconds:g} s", failed=True)


def kind_of(reward: Reward) -> str:
    """How a reward can be called.

    "rows": completion by completion. "async": all together, each awaited on its own. "batch": as a whole.
    """
    if isinstance(reward, FunctionReward):
        return reward.kind
    return "rows" if type(reward).scores is Reward.scores else "batch"


def describe(reward: Reward) -> dict[str, Any]:
    """What a pool has to know of a reward: how it is called, and which columns it needs and reads."""
    kind = kind_of(reward)
    if isinstance(reward, FunctionReward) and kind != "batch":
        return {"kind": kind, "needs": [], "reads": None}  # it takes what it wants from the row
    return {
        "kind": kind,
        "needs": [name for name in reward._required if name not in reward._options],
        "reads": None if reward._open_ended else [n for n in reward._accepted if n not in reward._options],
    }


def guarded_scores(
    reward: Reward,
    *,
    completions: Sequence[Any],
    prefill: list[str] | None = None,
    columns: Mapping[str, Any],
) -> list[Score]:
    """Like `reward.scores`, but errors inside the reward become failed scores.

    What the caller did wrong, such as a missing column, still raises ValueError.
    """
    if type(reward) is Reward:
        # The columns are checked once, and only the calls of the function are guarded.
        twin = copy.copy(reward)
        twin._function = _never_raising(reward._function)
        return twin.scores(completions=list(completions), prefill=prefill, **columns)
    if kind_of(reward) == "batch":  # a function of one response takes what it wants from the row
        reward._require(columns)
    for name, column in columns.items():
        if isinstance(column, list | tuple):
            rows(name, column, len(completions))
    found = dict(each_score(reward, list(completions), prefill, columns))
    return [found[row] for row in range(len(completions))]


def _never_raising(function: Callable[..., Score]) -> Callable[..., Score]:
    def call(*args: Any, **kwargs: Any) -> Score:
        try:
            return function(*args, **kwargs)
        except _ERRORS as error:
            return failure(error)

    return call


def each_score(
    reward: Reward,
    completions: list[Any],
    prefill: list[str] | None,
    columns: Mapping[str, Any],
    *,
    seconds: float | None = None,
) -> Iterator[tuple[int, Score]]:
    """Yield (row, score) as soon as each is known, every row once; errors are failed scores.

    `seconds` bounds the wait for each completion of an async function. A function that does not give the
    event loop a chance, and any that is not async, is the caller's to stop. Nothing is called for no
    completions: that is how a pool loads a reward, and it sets no limit on the time of a call then.
    """
    if not completions:
        return
    kind = kind_of(reward)
    if kind == "batch":
        yield from enumerate(_whole(reward, completions, prefill, columns))
    elif kind == "async" and isinstance(reward, FunctionReward):
        yield from _as_they_come(reward, reward.questions(completions, prefill, columns), seconds)
    else:
        lists = {name: column for name, column in columns.items() if isinstance(column, list | tuple)}
        for row, completion in enumerate(completions):
            opened = None if prefill is None else [prefill[row]]
            cells = {name: [column[row]] for name, column in lists.items()}
            try:
                yield row, reward.scores(completions=[completion], prefill=opened, **cells)[0]
            except _ERRORS as error:
                yield row, failure(error)


def _whole(
    reward: Reward, completions: list[Any], prefill: list[str] | None, columns: Mapping[str, Any]
) -> list[Score]:
    """A batch function fails as a whole, but for single values that are no numbers."""
    count = len(completions)
    try:
        if not isinstance(reward, FunctionReward):
            return reward.scores(completions=completions, prefill=prefill, **columns)
        values = reward.values(completions, prefill, columns)
    except _ERRORS as error:
        return [failure(error)] * count
    return [_checked(reward, value) for value in values]


def _checked(reward: FunctionReward, value: Any) -> Score:
    try:
        return reward.score_of(value)
    except _ERRORS as error:  # an object may raise whatever it likes when it is asked for its number
        return failure(error)


def _as_they_come(
    reward: FunctionReward, asked: Sequence[tuple[Response, dict[str, Any]]], seconds: float | None
) -> Iterator[tuple[int, Score]]:
    import asyncio

    known: SimpleQueue[tuple[int, Score]] = SimpleQueue()

    async def score(row: int) -> None:
        try:
            async with asyncio.timeout(seconds) as limit:
                value = reward.call(*asked[row])
                value = await value if inspect.isawaitable(value) else value
            known.put((row, reward.score_of(value)))
        except (*_ERRORS, asyncio.CancelledError) as error:
            late = seconds is not None and limit.expired()
            known.put((row, timed_out(seconds) if seconds is not None and late else failure(error)))

    async def all_of_them() -> None:
        await asyncio.gather(*map(score, range(len(asked))))

    running = on_event_loop(all_of_them())
    for _ in asked:
        yield known.get()
    running.result()
