"""What is checked while a stage trains, so that nothing that went wrong goes on in silence.

Before each optimizer step loss, gradient and ratio have to be finite. Where one is not, the step is left out,
its batch is written to `skipped/` in the run directory, and after a few in a row the run stops.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlreason.errors import UserError
from rlreason.runs import RunDirectory
from rlreason.types import Rollout

SKIPS_ALLOWED = 3
"""Optimizer steps in a row that may be left out."""


class FiniteGuard:
    """Counts the optimizer steps of a stage that are left out, and keeps their batches.

    `in_a_row` are those since the last step that was taken. `tell` is given a line for each that is left out.
    """

    def __init__(self, run: RunDirectory, stage: str, tell: Callable[[str], None]) -> None:
        self.in_a_row = 0
        self._run = run
        self._stage = stage
        self._tell = tell

    def passed(self) -> None:
        """An optimizer step had nothing in it that is not finite, and was taken."""
        self.in_a_row = 0

    def skipped(self, step: int, numbers: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
        """An optimizer step of loop step `step` was left out. `numbers` are what was checked, by name.

        `rows` describe its batch, one record a row. Raises UserError if it is one too many in a row.
        """
        self.in_a_row += 1
        broken = [name for name, value in numbers.items() if not math.isfinite(value)]
        head = {"stage": self._stage, "step": step, "not_finite": broken, **numbers, "rows": len(rows)}
        name = f"{self._stage}-step-{step:06d}-{self.in_a_row}"
        path = self._run.dump_batch(name, [head, *rows])
        kept = f"; its batch is in {path}" if path is not None else ""
        self._tell(
            f"step {step}: an optimizer step was left out, as its {' and '.join(broken)} "
            f"{'is' if len(broken) == 1 else 'are'} not finite{kept}"
        )
        if self.in_a_row > SKIPS_ALLOWED:
            # A loss that is not finite has no finite gradient.
            raise UserError(self._too_many("gradient" if "gradient" in broken else broken[0], numbers))

    def _too_many(self, what: str, numbers: Mapping[str, float]) -> str:
        shown = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
        saved = self._run.latest_checkpoint() or self._run.latest_checkpoint(self._stage)
        good = f"The last good checkpoint is {saved[1]}. " if saved else "No checkpoint has been saved yet. "
        online = self._stage in ("grpo", "ppo")
        start = f" stage={self._stage} model.path={saved[1]}" if saved and online else ""
        return (
            f"{self.in_a_row} optimizer steps in a row had a {what} that is not finite ({shown}); the "
            f"weights were not touched by them. {good}Their batches are in {self._run.root / 'skipped'}. "
            f"Lower {self._stage}.optim.lr or set model.precision=float32, and start a new run "
            f"(name=...{start})."
        )


def worst(one: float, other: float) -> float:
    """The larger of two numbers; one that is not finite is worse than any that is."""
    return next((value for value in (one, other) if not math.isfinite(value)), max(one, other))


def check_ends(rollouts: Sequence[Rollout], eos_ids: Sequence[int]) -> None:
    """A completion that stopped by itself ends with an end of sequence, which carries loss like the rest."""
    for rollout in rollouts:
        stopped = rollout.finish_reason == "stop"
        assert not stopped or rollout.completion_ids[-1] in eos_ids, (
            "a completion has stopped without an end-of-sequence token: the policy could not learn to stop"
        )


def check_labels(input_ids: Any, labels: Any, eos_id: int | None) -> None:
    """The end of sequence carries loss in every row of a batch of completions.

    Padding that has the id of the end, and is masked by that id, would hide it: the model would never stop.
    """
    ends = (labels == eos_id) & (input_ids == eos_id)
    assert bool(ends.any(-1).all()), (
        "a completion whose end-of-sequence token carries no loss: the model could not learn to stop"
    )
