"""What the stages on transformers' Trainer share beside `exact.py`: its arguments, and balanced experts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from transformers import TrainingArguments

from rlreason.config.training import PretrainConfig, RewardModelConfig, SftConfig
from rlreason.policy.model import Policy
from rlreason.seeds import derive_seed
from rlreason.stages.context import RunContext

_Arguments = TypeVar("_Arguments", bound=TrainingArguments)


def trainer_arguments(
    kind: type[_Arguments],
    context: RunContext,
    policy: Policy,
    name: str,
    settings: PretrainConfig | SftConfig | RewardModelConfig,
    **more: Any,
) -> _Arguments:
    """The Trainer's arguments, of a kind and with `more`: by itself it saves, reports and sends nothing."""
    optim = settings.optim
    arguments: dict[str, Any] = {
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
        "logging_strategy": "no",  # what is written and saved, and when, is said in exact.py
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    made = kind(**arguments, **more)
    # Several GPUs in one process it would wrap in DataParallel, with as many times as large a batch.
    made._n_gpu = min(1, made.n_gpu)
    return made


def balances_experts(text: Any) -> bool:
    """Whether a config is that of a mixture of experts with a load-balancing loss."""
    return hasattr(text, "output_router_logits") and bool(getattr(text, "router_aux_loss_coef", 0.0))


@contextmanager
def balanced_experts(model: Any) -> Iterator[None]:
    """While a mixture of experts is taught by examples, its config's load-balancing loss is added.

    TRL's trainers see to that themselves, and leave it switched on.
    """
    settings = model.config.get_text_config()
    if not hasattr(settings, "output_router_logits"):
        yield
        return
    settings.output_router_logits = balances_experts(settings)
    try:
        yield
    finally:
        settings.output_router_logits = False
