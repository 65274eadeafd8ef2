"""What later stages read from elsewhere is looked at before the first one trains."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoTokenizer

from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.memory import Prompts, estimate_run, machine, new_shape, warning_text
from rlreason.policy.critic import FIELD
from rlreason.policy.scalar import check_outputs, check_same_tokens, model_config, source
from rlreason.stages.reward_model import pairs_of_files
from rlreason.types import Example


def check_sources(config: RunConfig, held_out: Sequence[Example], *, reward_model_done: bool) -> None:
    """Raise UserError for pairs, a tokenizer, a reference or a critic that a later stage could not use.

    No weights are read: what a model is, and its tokens, is told by its config and tokenizer.
    """
    if "pretrain" in config.stages and (len(config.stages) > 1 or config.eval.each_stage):
        _check_template(config)
    if "reward_model" in config.stages and not reward_model_done:
        pairs_of_files(config, held_out)
    if not {"grpo", "ppo"} & set(config.stages):
        return
    reference, start = config.online.kl.reference, config.ppo.critic.start
    if reference not in ("start", "adapter_off", "none"):
        model_config(config.model, reference, f"{config.online_stage}.kl.reference")
    if "ppo" in config.stages and start != "auto":
        check_outputs(model_config(config.model, start, FIELD), start, FIELD)
        tokenizer = _own_tokenizer(config)[1]
        if tokenizer is not None:
            check_same_tokens(config.model, start, tokenizer, FIELD)


def memory_warning(config: RunConfig, device: torch.device) -> str | None:
    """What to say of a run that the memory of this machine may not hold; None where it should.

    Nothing is refused for it: an estimate can be wrong. A model that cannot be had is for others to tell of.
    """
    try:
        shape = new_shape(config.model)
    except (UserError, ValueError, AttributeError, TypeError, NotImplementedError):
        return None
    estimate = estimate_run(config, shape, Prompts.of_config(config), device)
    return warning_text(estimate, machine(device))


def _check_template(config: RunConfig) -> None:
    """Pretraining needs no chat template; what comes after it does."""
    field, tokenizer = _own_tokenizer(config)
    if tokenizer is not None and not tokenizer.chat_template:
        raise UserError(
            f"{field}: its tokenizer has no chat template, so no question could be put to the model after "
            "pretraining; take that of an instruct model, or set chat_template in its tokenizer_config.json"
        )


def _own_tokenizer(config: RunConfig) -> tuple[str, Any]:
    """The tokenizer that the run starts with, and the field that names it.

    None for one that is made here, and where the first stage will say what is wrong.
    """
    model, shape = config.model, config.model.scratch
    field = "model.path" if shape is None else "model.scratch.tokenizer"
    path, revision = (model.path, model.revision) if shape is None else (shape.tokenizer, None)
    if path is None:
        return field, None
    try:
        return field, AutoTokenizer.from_pretrained(source(path), revision=revision, trust_remote_code=False)
    except (OSError, ValueError, ImportError, TypeError, KeyError):
        return field, None
