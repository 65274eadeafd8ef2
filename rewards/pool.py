"""Rewards in worker processes: in parallel, within a time budget, and without harm to the caller.

How a worker is kept from leaving anything behind is said in `rewards.worker`.
"""

import math
import os
import pickle
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from rewards.base import Reward
from rewards.guarded import describe, timed_out
from rewards.pooled import Call, PooledReward
from rewards.process import WorkerProcess
from rewards.score import Score

ISOLATED = frozenset({"code", "reasoning_gym"})
"""Registered rewards that always run in workers: they run programs, or verifiers of somebody else's."""

CALLER_ONLY = frozenset({"learned"})
"""Registered rewards that never do: a model is held once, and works on a whole batch."""

LOAD_SECONDS = 120.0
_GRACE = 1.0  # seconds in which an async function's own time limit acts before the worker is given up
_CHUNKS = 4  # for each worker, so that none is left with most of the slow completions
_GIB = 1 << 30


@dataclass
class _Job:
    """Rows of a call for one worker. `left` are those not yet answered, in their order."""

    call: Call
    rows: list[int]
    left: dict[int, None] = field(init=False)
    loaded: bool = False

    def __post_init__(self) -> None:
        self.left = dict.fromkeys(self.rows)

    @property
    def seconds(self) -> float:
        """How long to wait for the next sign of life."""
        budget, kind = self.call.seconds, self.call.reward.kind
        if not self.loaded:
            return LOAD_SECONDS
        if budget is None:
            return math.inf
        return budget * len(self.rows) if kind == "batch" else budget + (_GRACE if kind == "async" else 0.0)

    def answer(self, row: int, score: Score) -> None:
        del self.left[row]
        self.call.scores[row] = score


class _Worker(WorkerProcess):
    """A worker, the job it is at, and until when it may take. `known` are the rewards it has loaded."""

    def __init__(self, *, memory: int, folder: str) -> None:
        super().__init__(memory=memory, folder=folder)
        self.known: set[bytes] = set()
        self.job: _Job | None = None
        self.deadline = math.inf

    def wait_on(self, job: _Job | None) -> None:
        """Go on with a job, or be idle; the clock starts again."""
        self.job = job
        self.deadline = math.inf if job is None else time.monotonic() + job.seconds


class WorkerPool:
    """Up to `workers` processes (default: one a core) that score; each may allocate `memory_gib`.

    Completions are split over the workers, but a batch function gets them all in one call. What happens to
    a completion whose reward

    - takes longer than its budget: 0, and the worker is killed with all that it started. An async function
      is stopped alone. A batch function has the budget of all its completions, which share its fate.
    - raises, returns no finite number or too few values, or ends its process: no value.

    Either is a failed score, with the reason in words. The other completions are scored by another worker.

    Workers start when they are first needed, stay for the next call, and end with `close`, with the pool
    object, or with the calling process, however that ends. Any thread may call; calls take turns.
    """

    def __init__(self, workers: int | None = None, *, memory_gib: float = 4.0) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}: give 1 or more, or None for one a core")
        self.workers = workers or cores()
        self._memory = int(memory_gib * _GIB)
        self._folder = os.getcwd()
        self._team: list[_Worker] = []
        self._lock = threading.Lock()
        self._finalizer = weakref.finalize(self, _close_all, self._team, os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers. A later call would start new ones."""
        with self._lock:
            _close_all(self._team, os.getpid())

    def reward(
        self, name_or_path: str, args: Mapping[str, Any] | None = None, spec: Any = None
    ) -> Reward | PooledReward:
        """As `load_reward`, for a reward that uses this pool.

        A reward named by import path is loaded in a worker only. Registered ones are bounded by construction
        and begin in the caller's process, but for those in `ISOLATED`; those in `CALLER_ONLY` are returned
        as they are. Raises ValueError as `load_reward` does, and for code that fails when it is loaded.
        """
        from rewards import load_reward

        key = pickle.dumps((name_or_path, dict(args or {}), spec))
        if ":" not in name_or_path:
            local = load_reward(name_or_path, args, spec)
            if name_or_path in CALLER_ONLY:
                return local
            here = None if name_or_path in ISOLATED else local
            return PooledReward(self, name_or_path, key, describe(local), here)
        name = name_or_path.rpartition(":")[2]
        unknown = PooledReward(self, name, key, {"kind": "rows", "needs": (), "reads": None}, None)
        probe = Call(unknown, [], None, {}, None, [])
        self._run([_Job(probe, [])])
        if probe.error is not None:
            said, trace = probe.error.reason.removeprefix("ValueError: "), probe.error.trace
            raise ValueError(said if said != probe.error.reason else f"{said}\n{trace}".strip())
        assert probe.traits is not None
        return PooledReward(self, name, key, probe.traits, None)

    def run(self, calls: Sequence[Call]) -> None:
        """Score what the calls have not scored yet, all of them side by side.

        Raises ValueError for a column that holds something that cannot be sent to another process.
        """
        self._run([job for call in calls for job in self._jobs(call)])

    # ------------------------------------------------------------------ handing out

    def _jobs(self, call: Call) -> Iterator[_Job]:
        missing = [row for row, score in enumerate(call.scores) if score is None]
        parts = {"batch": 1, "async": self.workers}.get(call.reward.kind, self.workers * _CHUNKS)
        size = max(1, math.ceil(len(missing) / parts))
        for start in range(0, len(missing), size):
            yield _Job(call, missing[start : start + size])

    def _run(self, jobs: Sequence[_Job]) -> None:
        with self._lock:
            waiting = deque(jobs)
            try:
                while waiting or any(worker.job for worker in self._team):
                    self._hand_out(waiting)
                    self._listen(waiting)
            except BaseException:
                for worker in [worker for worker in self._team if worker.job]:
                    self._dismiss(worker)
                raise

    def _hand_out(self, waiting: deque[_Job]) -> None:
        while waiting:
            job = waiting[0]
            if job.call.error is not None:
                _blame(waiting.popleft(), job.call.error, waiting)
                continue
            idle = [worker for worker in self._team if worker.job is None]
            for worker in [worker for worker in idle if not worker.alive]:
                self._dismiss(worker)
                idle.remove(worker)
            at_home = [worker for worker in idle if job.call.reward.key in worker.known]
            if not idle:
                if len(self._team) >= self.workers:
                    return
                idle = [_Worker(memory=self._memory, folder=self._folder)]
                self._team += idle
            self._give((at_home or idle)[0], waiting.popleft())

    def _give(self, worker: _Worker, job: _Job) -> None:
        call = job.call
        request = {"reward": call.reward.key, "folder": self._folder, "seconds": call.seconds}
        worker.wait_on(job)
        try:
            worker.send({**request, **call.part(job.rows)})
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise ValueError(
                f"reward {call.reward.__name__!r} runs in a worker process, where a column cannot be sent "
                f"({error}): let the columns hold plain data"
            ) from error

    # ------------------------------------------------------------------ listening

    def _listen(self, waiting: deque[_Job]) -> None:
        """Wait for news of the workers that are at work, and act on it."""
        busy = [worker for worker in self._team if worker.job]
        if not busy:
            return
        poll = select.poll()
        for worker in busy:
            poll.register(worker.replies, select.POLLIN)
            poll.register(worker.life, select.POLLIN)
            if worker.sending:
                poll.register(worker.requests, select.POLLOUT)
        deadline = min(worker.deadline for worker in busy)
        left = None if deadline == math.inf else max(0, math.ceil((deadline - time.monotonic()) * 1000))
        poll.poll(left)
        for worker in busy:
            worker.flush()
            self._hear(worker, waiting)
            if worker.job is not None and time.monotonic() >= worker.deadline:
                self._expire(worker, worker.job, waiting)

    def _hear(self, worker: _Worker, waiting: deque[_Job]) -> None:
        alive = worker.alive  # asked first: what a worker said before its end is still heard
        garbled = ""
        try:
            for message in worker.receive():
                self._take(worker, message)
        except (ValueError, TypeError, KeyError, IndexError):
            garbled = "was stopped: it wrote to a pipe that is not its own"
        job = worker.job
        if (alive and not garbled) or worker not in self._team:
            return
        how, trace = self._dismiss(worker)
        if job is not None:
            during = "" if job.loaded else " while it loaded the reward"
            reason = f"the worker process {garbled or how}{during}"
            _blame(job, Score(None, reason, failed=True, trace=trace), waiting)

    def _take(self, worker: _Worker, message: Mapping[str, Any]) -> None:
        """Act on one reply. Raises ValueError, KeyError, TypeError or IndexError if it is none."""
        job = worker.job
        if job is None:
            raise ValueError("a reply that nobody waits for")
        if "ready" in message:
            job.loaded, job.call.traits = True, message["ready"]
            worker.known.add(job.call.reward.key)
        elif "row" in message:
            job.answer(job.rows[message["row"]], Score(**message["score"]))
        elif "error" in message:
            _blame(job, Score(**message["error"]), deque())
            return worker.wait_on(None)
        elif message["done"]:
            worker.wait_on(None)
            if message["spent"]:
                self._dismiss(worker)
            return None
        worker.wait_on(job)

    def _expire(self, worker: _Worker, job: _Job, waiting: deque[_Job]) -> None:
        self._dismiss(worker)
        late = Score(None, f"not loaded within {LOAD_SECONDS:g} s", failed=True)
        _blame(job, timed_out(job.seconds) if job.loaded else late, waiting)

    def _dismiss(self, worker: _Worker) -> tuple[str, str]:
        self._team.remove(worker)
        worker.wait_on(None)
        return worker.close()


def _blame(job: _Job, score: Score, waiting: deque[_Job]) -> None:
    """Give a failed score to the completion it is due to, and the others to another worker.

    Which one that is can only be told where they are scored in turn. A reward that cannot be loaded fails for
    all completions of the call.
    """
    if not job.loaded:
        job.call.error = score
    one_by_one = job.loaded and job.call.reward.kind == "rows"
    for row in list(job.left)[: 1 if one_by_one else None]:
        job.answer(row, score)
    if job.left:
        waiting.appendleft(_Job(job.call, list(job.left)))


def _close_all(team: list[_Worker], process: int) -> None:
    while team:
        worker = team.pop()
        if os.getpid() == process:  # a fork of the caller has the objects, but the workers are not its own
            worker.close()


def cores() -> int:
    """The processor cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
