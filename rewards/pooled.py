"""A reward that is scored by the workers of a pool, or begun by the caller and finished by them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rewards.base import Reward, nearest, rows
from rewards.guarded import guarded_scores
from rewards.score import Score

if TYPE_CHECKING:
    from rewards.pool import WorkerPool

_SLICE = 32  # completions scored by the caller between two looks at the clock
_WORTH_SHARING = 1.0  # seconds of work left from which on the workers take part


class PooledReward:
    """A reward of a pool, with the interface of `Reward`; made by `WorkerPool.reward`.

    Without `local` the caller's process never scores a completion. With it, the caller begins, and the
    workers take over if the rest would take longer than a second: starting them costs about as much.
    """

    def __init__(
        self, pool: "WorkerPool", name: str, key: bytes, traits: Mapping[str, Any], local: Reward | None
    ) -> None:
        self.__name__ = name
        self.pool = pool
        self.key = key
        self.kind: str = traits["kind"]
        self._needs: Sequence[str] = traits["needs"]
        self._reads: Sequence[str] | None = traits["reads"]
        self._local = local

    def __repr__(self) -> str:
        return f"PooledReward({self.__name__!r})"

    @property
    def isolated(self) -> bool:
        """Whether no completion is ever scored in the caller's process."""
        return self._local is None

    def __call__(
        self, /, *, completions: list[Any], prefill: list[str] | None = None, **columns: Any
    ) -> list[float | None]:
        return [score.value for score in self.scores(completions=completions, prefill=prefill, **columns)]

    def scores(
        self, /, *, completions: list[Any], prefill: list[str] | None = None, **columns: Any
    ) -> list[Score]:
        """As `Reward.scores`, without a time limit; errors are failed scores."""
        call = self.begin(completions, prefill, columns)
        self.pool.run([call])
        return call.result()

    def begin(
        self,
        completions: list[Any],
        prefill: list[str] | None,
        columns: Mapping[str, Any],
        *,
        seconds: float | None = None,
    ) -> "Call":
        """Prepare the scoring of a batch, for `WorkerPool.run`; `seconds` is the budget of a completion.

        Raises ValueError for a missing column, or one of a wrong length. What is no list is no column.
        """
        for name in self._needs:
            if name not in columns:
                raise ValueError(
                    f"reward {self.__name__!r} needs the column {name!r}: {nearest(name, columns)}"
                )
        count = len(completions)
        lists = {
            name: rows(name, column, count)
            for name, column in columns.items()
            if isinstance(column, list | tuple) and (self._reads is None or name in self._reads)
        }
        opened = None if prefill is None else rows("prefill", prefill, count)
        call = Call(self, list(completions), opened, lists, seconds, [None] * count)
        if self._local is not None:
            self._score_here(self._local, call)
        return call

    def _score_here(self, local: Reward, call: "Call") -> None:
        began, count = time.perf_counter(), len(call.completions)
        for start in range(0, count, _SLICE):
            chosen = range(start, min(start + _SLICE, count))
            for row, score in zip(chosen, guarded_scores(local, **call.part(chosen)), strict=True):
                call.scores[row] = score
            left = (time.perf_counter() - began) * (count / chosen.stop - 1)
            if left > _WORTH_SHARING and self.pool.workers > 1:
                return


@dataclass
class Call:
    """A reward asked about a batch; `scores` fill up, in `WorkerPool.run`.

    `traits` are what a worker told about the reward, `error` is why none could load it.
    """

    reward: PooledReward
    completions: list[Any]
    prefill: list[str] | None
    columns: dict[str, list[Any]]
    seconds: float | None
    scores: list[Score | None]
    traits: Mapping[str, Any] | None = None
    error: Score | None = None

    def part(self, chosen: Sequence[int]) -> dict[str, Any]:
        """The completions, prefills and columns of some rows."""
        return {
            "completions": [self.completions[row] for row in chosen],
            "prefill": None if self.prefill is None else [self.prefill[row] for row in chosen],
            "columns": {name: [column[row] for row in chosen] for name, column in self.columns.items()},
        }

    def result(self) -> list[Score]:
        """The scores, once `WorkerPool.run` is through."""
        known = [score for score in self.scores if score is not None]
        assert len(known) == len(self.scores)
        return known
