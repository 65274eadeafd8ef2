"""What later stages read from elsewhere is looked at before the first one trains."""

from typing import Any

from transformers import AutoTokenizer

from rlreason.config import RunConfig
from rlreason.policy.critic import FIELD
from rlreason.policy.scalar import check_outputs, check_same_tokens, model_config, source
from rlreason.stages.reward_model import pairs_of_files


def check_sources(config: RunConfig, *, reward_model_done: bool) -> None:
    """Raise UserError for files of pairs, a reference or a critic that a later stage could not use.

    No weights are read: what a model is, and its tokens, is told by its config and tokenizer.
    """
    if "reward_model" in config.stages and not reward_model_done:
        pairs_of_files(config)
    if not {"grpo", "ppo"} & set(config.stages):
        return
    reference, start = config.online.kl.reference, config.ppo.critic.start
    if reference not in ("start", "adapter_off"):
        model_config(config.model, reference, f"{config.online_stage}.kl.reference")
    if "ppo" in config.stages and start != "auto":
        check_outputs(model_config(config.model, start, FIELD), start, FIELD)
        tokenizer = _own_tokenizer(config)
        if tokenizer is not None:
            check_same_tokens(config.model, start, tokenizer, FIELD)


def _own_tokenizer(config: RunConfig) -> Any:
    """That of `model.path`; None for a model made here, and where the first stage will say what is wrong."""
    if config.model.scratch is not None:
        return None
    try:
        return AutoTokenizer.from_pretrained(source(config.model.path), revision=config.model.revision)
    except (OSError, ValueError, ImportError, TypeError, KeyError):
        return None
