"""Transformers' Trainer, made to go on exactly where it was, and to leave out steps that are not finite.

A Trainer resumes from a folder with `trainer_state.json`; the rest of what it reads there are pickles. Here
all of it is safetensors and JSON: the weights that train, AdamW's moments, the schedule, every random
state, and the loss since the last line of metrics. The place in the data follows from the step, since the
order of each epoch is seeded by its number.
"""

import json
import math
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.utils import get_total_norm
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import PrinterCallback

from rlreason.errors import UserError
from rlreason.policy.checkpoint import load_optimizer, load_weights, save_parameters
from rlreason.policy.examples import IGNORED, ExampleLoss
from rlreason.runs.manifest import other_versions
from rlreason.stages.context import RunContext
from rlreason.stages.guards import GRADIENT, FiniteGuard, check_labels
from rlreason.stages.interrupt import Interrupts

_LOGS = 10
"""Lines that a stage writes to the metrics, about; the last step has one always."""

_DUMPED_ROWS = 64


class ExactTrainer(Trainer):
    """A base to put in front of a kind of Trainer. `run_stage` takes the place of `train`.

    It expects one optimizer step for each batch (no accumulation). With an `example_loss`, that takes the
    place of the loss of the Trainer behind, which is to be the mean over labelled tokens.
    """

    optimizer: Any
    lr_scheduler: Any
    example_loss: ExampleLoss | None = None

    def run_stage(self, context: RunContext, stage: str, carried: dict[str, Any] | None = None) -> int:
        """Train, going on from the newest checkpoint of the stage; return the optimizer steps reached.

        `carried` is kept in the checkpoints, and given back by `begin`. Raises KeyboardInterrupt after an
        interrupt, once a checkpoint is saved, and UserError where steps are not finite again and again.
        """
        self._context, self._stage, self._carried = context, stage, carried or {}
        self._guard = FiniteGuard(context.run, stage, context.view.note)
        self._loss_sum, self._losses, self._skipped = 0.0, 0, 0
        self._lr, self._norm = 0.0, 0.0
        self._clock = (0, time.perf_counter())
        self._labels_checked = False
        if not self._trainable():
            raise UserError("model: no parameter is trainable; check model.lora.targets")
        self.remove_callback(PrinterCallback)
        self.add_callback(_StepEnd(self))
        saved = context.run.latest_checkpoint(stage)
        with Interrupts() as self._interrupts:
            resume: dict[str, Any] = {"resume_from_checkpoint": str(saved[1])} if saved else {}
            self.train(**resume)
        if self._stop_asked():
            raise KeyboardInterrupt(self._interrupts.requested)
        return int(self.state.global_step)

    def _trainable(self) -> dict[str, Any]:
        model = self.accelerator.unwrap_model(self.model)
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    # ------------------------------------------------------------------ a step

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        if self.example_loss is None or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels_BN, count = inputs["labels"], num_items_in_batch
        if count is None:
            count = (labels_BN[:, 1:] != IGNORED).sum()  # nothing predicts the first
        total = self.example_loss(inputs["input_ids"], labels_BN, inputs["attention_mask"])
        return total / torch.as_tensor(count).clamp(min=1)

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> Tensor:
        """Forward and backward; what is not finite leaves no gradient, so that the optimizer does nothing."""
        if self._stage == "sft" and not self._labels_checked:
            tokenizer: Any = self.processing_class
            check_labels(inputs["input_ids"], inputs["labels"], tokenizer.eos_token_id)
            self._labels_checked = True
        loss = super().training_step(model, inputs, *rest)
        self._lr = float(self.optimizer.param_groups[0]["lr"])
        gradients = [p.grad for p in self._trainable().values() if p.grad is not None]
        own = torch.stack([loss.float(), get_total_norm(gradients).to(loss.device)])
        mean_loss, norm = (float(value) for value in self.accelerator.reduce(own, "mean"))
        self._norm = norm
        if math.isfinite(mean_loss) and math.isfinite(norm):
            self._guard.passed()
            self._loss_sum, self._losses = self._loss_sum + mean_loss, self._losses + 1
            return loss
        self._skipped += 1
        model.zero_grad(set_to_none=True)
        self._guard.skipped(
            self.state.global_step + 1, {"loss": mean_loss, GRADIENT: norm}, self._rows(inputs)
        )
        return loss

    def _rows(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of a batch, as tokens and as text."""
        tokenizer: Any = self.processing_class
        ids, labels = inputs["input_ids"].tolist(), inputs.get("labels")
        counted = (labels != IGNORED).sum(-1).tolist() if labels is not None else [None] * len(ids)
        return [
            {"row": row, "tokens_with_loss": count, "input_ids": one, "text": tokenizer.decode(one)}
            for row, (one, count) in enumerate(zip(ids[:_DUMPED_ROWS], counted, strict=False))
        ]

    def finish_step(self, control: Any) -> None:
        """Write the step's line, save when it is time, and stop where that was asked for."""
        step, last = self.state.global_step, self.state.max_steps
        if step % max(1, last // _LOGS) == 0 or step == last:
            self._write_line(step)
        stop = self._stop_asked()
        control.should_training_stop = control.should_training_stop or stop
        every = self._context.config.log.stage_checkpoint_every
        if stop or (every and step % every == 0 and step < last):
            self._write_checkpoint(step)

    def _write_line(self, step: int) -> None:
        (before, then), now = self._clock, time.perf_counter()
        self._clock = (step, now)
        seconds = (now - then) / max(1, step - before)
        record = {
            "stage": self._stage,
            "step": step,
            "steps": self.state.max_steps,
            "loss": self._loss_sum / self._losses if self._losses else None,
            "grad_norm": self._norm,
            "lr": self._lr,
            "skipped_updates": float(self._skipped),
            "time": {"total": seconds, "left": seconds * (self.state.max_steps - step)},
        }
        self._loss_sum, self._losses, self._skipped = 0.0, 0, 0
        self._context.record(record)
        self._context.view.step(record)

    def _stop_asked(self) -> bool:
        """Whether any process was asked to stop: all must stop at the same step."""
        asked = self._interrupts.requested is not None
        return any(gather_object([asked])) if self.args.world_size > 1 else asked

    # ------------------------------------------------------------------ save

    def _write_checkpoint(self, step: int) -> None:
        """Write the checkpoint of `step`. Random states are those of each process."""
        numbers, tensors = _random_states()
        everyone = gather_object([(numbers, tensors)]) if self.args.world_size > 1 else [(numbers, tensors)]
        schedule = self.lr_scheduler.state_dict()
        state = {
            "stage": self._stage,
            "step": step,
            "random": [one for one, _ in everyone],
            "schedule": {key: value for key, value in schedule.items() if key != "lr_lambdas"},
            "loss_sum": self._loss_sum,
            "losses": self._losses,
            "skipped": self._skipped,
            "skipped_in_a_row": self._guard.in_a_row,
            "carried": self._carried,
        }
        beside = {f"{name}/{rank}": t for rank, (_, own) in enumerate(everyone) for name, t in own.items()}

        def write(folder: Path) -> None:
            save_parameters(folder, self._trainable(), self.optimizer, state, beside)
            self.state.save_to_json(str(folder / "trainer_state.json"))

        self._context.run.save_checkpoint(step, write, stage=self._stage)

    # ------------------------------------------------------------------ what Trainer.train calls to resume

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_weights(Path(resume_from_checkpoint), self._trainable())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        state, self._beside = load_optimizer(Path(checkpoint), self._trainable(), self.optimizer)
        self.lr_scheduler.load_state_dict(
            {**state["schedule"], "lr_lambdas": [None] * len(self.optimizer.param_groups)}
        )
        for group, rate in zip(self.optimizer.param_groups, self.lr_scheduler.get_last_lr(), strict=True):
            group["lr"] = rate
        self._loss_sum, self._losses = state["loss_sum"], state["losses"]
        self._skipped, self._guard.in_a_row = state["skipped"], state["skipped_in_a_row"]
        self._numbers = state["random"]
        self._clock = (state["step"], time.perf_counter())

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Nothing is scaled: weights are float32, and bfloat16 has the range of float32."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            rank = self.args.process_index
            own = {key.split("/")[0]: t for key, t in self._beside.items() if key.endswith(f"/{rank}")}
            _restore_random(self._numbers[rank], own)


class _StepEnd(TrainerCallback):
    def __init__(self, trainer: ExactTrainer) -> None:
        self._trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._trainer.finish_step(control)


def _random_states() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The states of all generators that a Trainer draws from: as JSON, and as tensors by device."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    numbers = {
        "python": [version, list(words), gauss],
        "numpy": [kind, [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
    }
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()
    return numbers, tensors


def _restore_random(numbers: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    version, words, gauss = numbers["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = numbers["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(tensors["cpu"])
    if "cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["cuda"])


def begin(context: RunContext, stage: str, title: str) -> dict[str, Any] | None:
    """Cut the metrics back to the stage's newest checkpoint; return what it `carried`, if there is one.

    Raises UserError where that is of another number of processes: rows and random numbers would be others.
    """
    saved = context.run.latest_checkpoint(stage)
    if saved is None:
        context.run.rewind(-1, stage)
        return None
    state = json.loads((saved[1] / "state.json").read_text(encoding="utf-8"))
    before, now = len(state["random"]), context.accelerator.num_processes
    if before != now:
        raise UserError(
            f"{saved[1]} was written by {before} processes and this run has {now}: in the middle of stage "
            f"{stage} it could not go on exactly. Start it with {before} (`accelerate launch --num_processes "
            f"{before}`), or begin a new run (name=...)"
        )
    context.run.rewind(saved[0], stage)
    context.view.note(f"{title}: going on after step {saved[0]}, from {saved[1]}")
    if changed := other_versions(saved[1]):
        context.view.note(f"warning: {saved[1].name} was {changed}")
    carried: dict[str, Any] = state["carried"]
    return carried
