"""What is checked while a stage trains, so that nothing that went wrong goes on in silence.

Before each optimizer step loss, gradient and ratio have to be finite. Where one is not, the step is left out,
its batch is written to `skipped/` in the run directory, and after a few in a row the run stops.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlreason.errors import UserError
from rlreason.policy.checkpoint import training_state
from rlreason.runs import RunDirectory
from rlreason.types import Rollout

GRADIENT, CRITIC_GRADIENT = "gradient", "critic gradient"

SKIPS_ALLOWED = 3
"""Optimizer steps in a row that may be left out."""


class FiniteGuard:
    """Counts the optimizer steps of a stage that are left out, and keeps their batches.

    `in_a_row` are those since the last step that was taken. `tell` is given a line for each that is left out.
    """

    def __init__(self, run: RunDirectory, stage: str, tell: Callable[[str], None]) -> None:
        self.in_a_row = 0
        self._last = (0, 0)  # the loop step that skipped last, and how often it has
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
        # Checkpoints stand between steps, so that a resumed run counts from 1 in each step again.
        self._last = (step, self._last[1] + 1 if self._last[0] == step else 1)
        name = f"{self._stage}-step-{step:06d}-{self._last[1]}"
        path = self._run.dump_batch(name, [head, *rows])
        kept = f"; its batch is in {path}" if path is not None else ""
        self._tell(
            f"step {step}: an optimizer step was left out, as its {' and '.join(broken)} "
            f"{'is' if len(broken) == 1 else 'are'} not finite{kept}"
        )
        if self.in_a_row > SKIPS_ALLOWED:
            raise UserError(self._too_many(broken, numbers))

    def _too_many(self, broken: Sequence[str], numbers: Mapping[str, float]) -> str:
        shown = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
        # A loss that is not finite has no finite gradient, and says less of where it comes from.
        gradients = [name for name in broken if name in (GRADIENT, CRITIC_GRADIENT)]
        rates = {GRADIENT: f"{self._stage}.optim.lr", CRITIC_GRADIENT: f"{self._stage}.critic.optim.lr"}
        rate = " and ".join(rates[name] for name in gradients or [GRADIENT])
        return (
            f"{self.in_a_row} optimizer steps in a row had a {' and a '.join(gradients or broken[:1])} that "
            f"is not finite ({shown}); the weights were not touched by them. Their batches are in "
            f"{self._run.root / 'skipped'}. {self._remedy(rate)}"
        )

    def _remedy(self, rate: str) -> str:
        """What to do: only the checkpoints of the stages that sample are models that a run can start from."""
        lower = f"Lower {rate} or set model.precision=float32, and start a new run"
        if self._stage not in ("grpo", "ppo"):
            return f"{lower} (name=...); checkpoints within stage {self._stage} keep their rate."
        good = [
            path for _, path in self._run.checkpoints() if not training_state(path).get("skipped_in_a_row")
        ]
        if not good:
            return f"No good checkpoint has been saved yet. {lower} (name=...)."
        start = f"name=... stage={self._stage} model.path={good[-1]}"
        return f"The last good checkpoint is {good[-1]}. {lower} ({start})."


def worst(one: float, other: float) -> float:
    """The larger of two numbers; one that is not finite is worse than any that is."""
    return next((value for value in (one, other) if not math.isfinite(value)), max(one, other))


def check_ends(rollouts: Sequence[Rollout], eos_ids: Sequence[int]) -> None:
    """A completion that stopped by itself ends with an end of sequence, which carries loss like the rest.

    An assert: the sampler itself has told why the completion ended, so that only a bug of ours can break it.
    """
    for rollout in rollouts:
        stopped = rollout.finish_reason == "stop"
        assert not stopped or rollout.completion_ids[-1] in eos_ids, (
            "a completion has stopped without an end-of-sequence token: the policy could not learn to stop"
        )


def check_labels(input_ids: Any, labels: Any, eos_id: int | None) -> None:
    """The end of sequence carries loss in every row of a batch of completions.

    Padding that has the id of the end, and is masked by that id, would hide it: the model would never stop.
    Raises UserError where it does not.
    """
    silent = (~((labels == eos_id) & (input_ids == eos_id)).any(-1)).nonzero()
    if len(silent):
        raise UserError(
            f"model.path: in row {int(silent[0])} of the first batch the end-of-sequence token (id {eos_id}) "
            "carries no loss, so that the model could not learn to stop. Take a model with another tokenizer "
            "or chat template; `python -m rlreason check CONFIG` shows the tokens that carry loss"
        )
