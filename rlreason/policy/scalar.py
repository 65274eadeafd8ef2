"""Models with one number as their output: reward models, and the trunks of critics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from rlreason.config.model import ModelConfig
from rlreason.errors import UserError
from rlreason.policy.embedded import EMBEDDED, embedded_model
from rlreason.policy.model import Policy

_HEAD = "score."


def load_scalar_model(config: ModelConfig, path: str | Path, field: str) -> tuple[Any, bool]:
    """Load any model at `path` with a scalar head, in float32; returns it, and whether it brought the head.

    `field` is the config key that asked for it. Raises UserError if there is no whole model.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it says that a head is new, which is meant
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            _source(path),
            num_labels=1,
            dtype=torch.float32,
            attn_implementation=config.attention,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(f"{field}: no scalar model can be made of {str(path)!r} ({_first(error)})") from error
    finally:
        logging.set_verbosity(verbosity)
    missing = {str(name) for name in found["missing_keys"]} | {str(m[0]) for m in found["mismatched_keys"]}
    lacking = sorted(name for name in missing if not name.startswith(_HEAD))
    if lacking:
        raise UserError(f"{field}: {str(path)!r} is no whole model: it lacks {lacking[0]}")
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model, f"{_HEAD}weight" not in missing


def check_same_tokens(path: str | Path, policy: Policy, field: str) -> None:
    """Raise UserError unless the model at `path` reads the same tokens as the policy."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(_source(path))
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        raise UserError(f"{field}: no tokenizer at {str(path)!r} ({_first(error)})") from error
    other: Mapping[str, int] = tokenizer.get_vocab()
    own = policy.tokenizer.get_vocab()
    if other != own:
        different = sorted(own.items() ^ other.items(), key=lambda item: (item[1], item[0]))[0]
        raise UserError(
            f"{field}: {str(path)!r} reads other tokens than the policy ({len(other)} and {len(own)} in "
            f"their vocabularies, token {different[1]} differs), so that it could not judge its completions; "
            "take a model of the same family"
        )


def _source(path: str | Path) -> str:
    return str(embedded_model()) if path == EMBEDDED else str(Path(path).expanduser())


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
