"""Models with one number as their output: reward models, and the trunks of critics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from rlreason.config.model import ModelConfig
from rlreason.errors import UserError
from rlreason.policy.embedded import EMBEDDED, embedded_model
from rlreason.runs.manifest import refuse_damaged

_HEAD = "score."
_OUTPUTS = (
    "{field}: {path!r} is a classifier of several outputs, and a score or a value is one; give a reward "
    "model of one output, or a language model"
)


def load_scalar_model(config: ModelConfig, path: str | Path, field: str) -> tuple[Any, bool]:
    """Load any model at `path` with a scalar head, in float32; returns it, and whether it brought the head.

    `field` is the config key that asked for it. Raises UserError if there is no whole model, or one that
    has several outputs or numbers that are not finite.
    """
    if Path(source(path)).is_dir():
        refuse_damaged(Path(source(path)), field=field)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it says that a head is new, which is meant
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source(path),
            num_labels=1,
            dtype=torch.float32,
            attn_implementation=config.attention,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **_revision(config, path),
        )
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(f"{field}: no scalar model can be made of {str(path)!r} ({_first(error)})") from error
    finally:
        logging.set_verbosity(verbosity)
    other_shape = {str(mismatch[0]) for mismatch in found["mismatched_keys"]}
    if f"{_HEAD}weight" in other_shape:
        raise UserError(_OUTPUTS.format(field=field, path=str(path)))
    missing = {str(name) for name in found["missing_keys"]} | other_shape
    lacking = sorted(name for name in missing if not name.startswith(_HEAD))
    if lacking:
        raise UserError(f"{field}: {str(path)!r} is no whole model: it lacks {lacking[0]}")
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise UserError(
            f"{field}: {str(path)!r} holds weights that are no finite numbers; take another model"
        )
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    return model, f"{_HEAD}weight" not in missing


def model_config(config: ModelConfig, path: str | Path, field: str) -> Any:
    """The transformers config of the model at `path`. Raises UserError if there is none."""
    try:
        return AutoConfig.from_pretrained(source(path), trust_remote_code=False, **_revision(config, path))
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(f"{field}: there is no model at {str(path)!r} ({_first(error)})") from error


def check_outputs(found: Any, path: str | Path, field: str) -> None:
    """Raise UserError if the config `found` at `path` is that of a classifier of several outputs."""
    kinds = found.architectures or ()
    if any("SequenceClassification" in kind for kind in kinds) and found.num_labels != 1:
        raise UserError(_OUTPUTS.format(field=field, path=str(path)))


def check_same_tokens(config: ModelConfig, path: str | Path, own_tokenizer: Any, field: str) -> None:
    """Raise UserError unless the model at `path` reads the same tokens as the policy, `own_tokenizer`'s."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source(path), trust_remote_code=False, **_revision(config, path)
        )
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        raise UserError(f"{field}: no tokenizer at {str(path)!r} ({_first(error)})") from error
    other: Mapping[str, int] = tokenizer.get_vocab()
    own = own_tokenizer.get_vocab()
    if other != own:
        different = sorted(own.items() ^ other.items(), key=lambda item: (item[1], item[0]))[0]
        raise UserError(
            f"{field}: {str(path)!r} reads other tokens than the policy ({len(other)} and {len(own)} in "
            f"their vocabularies, token {different[1]} differs), so that it could not judge its completions; "
            "take a model of the same family"
        )


def _revision(config: ModelConfig, path: str | Path) -> dict[str, Any]:
    """`model.revision` is that of the model of the config alone."""
    return {"revision": config.revision} if config.revision and str(path) == config.path else {}


def source(path: str | Path) -> str:
    """What transformers loads for a path of the config: `embedded` is a folder of its own."""
    return str(embedded_model()) if path == EMBEDDED else str(Path(path).expanduser())


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
