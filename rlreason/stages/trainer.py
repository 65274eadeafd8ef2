"""What the stages that run on transformers' Trainer share: its arguments, and what becomes of its logs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import TrainerCallback

from rlreason.config.training import PretrainConfig, RewardModelConfig, SftConfig
from rlreason.policy.model import Policy
from rlreason.seeds import derive_seed
from rlreason.stages.context import RunContext

_LOGS = 10
"""Lines that a stage writes to the metrics."""


def trainer_arguments(
    context: RunContext,
    policy: Policy,
    name: str,
    settings: PretrainConfig | SftConfig | RewardModelConfig,
    *,
    rows: int,
) -> dict[str, Any]:
    """Arguments of transformers' TrainingArguments for `rows` rows: nothing saved, reported or sent."""
    optim = settings.optim
    return {
        "output_dir": str(context.run.root / "checkpoints"),
        "num_train_epochs": settings.epochs,
        "per_device_train_batch_size": max(1, settings.batch_size // context.accelerator.num_processes),
        "learning_rate": optim.lr,
        "lr_scheduler_type": {"constant": "constant_with_warmup"}.get(optim.schedule, optim.schedule),
        "warmup_steps": optim.warmup_steps,
        "weight_decay": optim.weight_decay,
        "adam_beta1": optim.beta1,
        "adam_beta2": optim.beta2,
        "adam_epsilon": optim.eps,
        "max_grad_norm": optim.max_grad_norm,
        "bf16": str(policy.dtype) == "torch.bfloat16",
        "use_cpu": policy.device.type == "cpu",
        "gradient_checkpointing": context.config.model.gradient_checkpointing,
        "seed": derive_seed(name, context.config.seed) % 2**31,
        "logging_steps": max(1, rows * settings.epochs // settings.batch_size // _LOGS),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


@contextmanager
def balanced_experts(model: Any) -> Iterator[None]:
    """While a mixture of experts is taught by examples, its config's load-balancing loss is added.

    TRL's trainers see to that themselves, and leave it switched on.
    """
    settings = model.config.get_text_config()
    if not hasattr(settings, "output_router_logits"):
        yield
        return
    settings.output_router_logits = bool(getattr(settings, "router_aux_loss_coef", 0.0))
    try:
        yield
    finally:
        settings.output_router_logits = False


class Recorder(TrainerCallback):
    """Writes what the trainer logs to the run's metrics and shows it."""

    def __init__(self, context: RunContext, name: str) -> None:
        self._context = context
        self._name = name
        self._last = (0, time.perf_counter())

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        (step, then), now = self._last, time.perf_counter()
        self._last = (state.global_step, now)
        seconds = (now - then) / max(1, state.global_step - step)
        record = {
            "stage": self._name,
            "step": state.global_step,
            "steps": state.max_steps,
            "loss": float(logs["loss"]),
            "grad_norm": float(logs["grad_norm"]) if "grad_norm" in logs else None,
            "lr": float(logs["learning_rate"]) if "learning_rate" in logs else None,
            "time": {"total": seconds, "left": seconds * (state.max_steps - state.global_step)},
        }
        self._context.record(record)
        self._context.view.step(record)
