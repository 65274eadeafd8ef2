"""Models made from nothing: any causal language model of transformers, by a few sizes and its own fields."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from rlreason.config.model import ModelConfig, ScratchConfig
from rlreason.errors import UserError

# What transformers' configs call our sizes. Where a class says so itself (`attribute_map`), that comes first.
_NAMES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "d_model", "n_embd"),
    "layers": ("num_hidden_layers", "num_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "intermediate_size": ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size"),
    "max_positions": ("max_position_embeddings", "max_seq_len"),
}
_OF_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
# Fields that say nothing of the network. Router logits are asked for where a stage has a use for them.
_BOOKKEEPING = {
    "output_router_logits",
    *(field.name for field in dataclasses.fields(transformers.PretrainedConfig)),
} - {"tie_word_embeddings"}
# What building a network of sizes that do not fit together has been seen to raise.
_MISFIT = (
    ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError, AssertionError, ImportError,
    NotImplementedError, ZeroDivisionError,
)  # fmt: skip


def scratch_config(shape: ScratchConfig, tokenizer: Any = None) -> Any:
    """The transformers config of `shape`; its vocabulary and special tokens are those of `tokenizer`.

    Embeddings are tied, and a head is `hidden_size / heads` wide, unless `overrides` say otherwise. Raises
    UserError for an architecture that is not known or has other parts than text, for sizes that it does not
    have, and for overrides that it does not know, that name a size, or that it refuses.
    """
    name = shape.architecture
    if name not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"model.scratch.architecture: {name!r} is no language model of transformers "
            f"{transformers.__version__}; {_nearest(name, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)}"
        )
    plain = _built(shape, {})
    if plain.get_text_config() is not plain:
        text = plain.get_text_config().model_type
        raise UserError(f"model.scratch.architecture: {name!r} is more than a language model; give {text}")
    if plain.is_encoder_decoder:
        raise UserError(f"model.scratch.architecture: {name!r} has an encoder; take one without")
    fields = {field.name for field in dataclasses.fields(plain)}
    sizes = _sizes(shape, type(plain), fields)
    for key in shape.overrides:
        _check_override(shape, key, sizes, fields - _BOOKKEEPING)
    settings: dict[str, Any] = {own: getattr(shape, ours) for ours, own in sizes.items()}
    # Their defaults belong to the sizes of a published model.
    width = shape.overrides.get("head_dim", shape.hidden_size // shape.heads)
    settings |= {key: width for key in ("head_dim", "query_pre_attn_scalar") if key in fields}
    settings |= {"tie_word_embeddings": True, **shape.overrides}
    if tokenizer is not None:
        # A tokenizer may have holes, or names for ids beyond its length.
        ids = [len(tokenizer) - 1, *tokenizer.get_vocab().values()]
        settings["vocab_size"] = max(ids) + 1
    for key in _OF_TOKENIZER[1:]:
        settings[key] = getattr(tokenizer, key, None)
    return _built(shape, settings)


def _built(shape: ScratchConfig, settings: Mapping[str, Any]) -> Any:
    from huggingface_hub.errors import StrictDataclassError

    try:
        return AutoConfig.for_model(shape.architecture, **settings)
    except (*_MISFIT, StrictDataclassError) as error:
        raise UserError(
            f"model.scratch: {shape.architecture} refuses this config ({_last_line(error)}); change the "
            "sizes or model.scratch.overrides"
        ) from error


def _sizes(shape: ScratchConfig, kind: Any, fields: set[str]) -> dict[str, str]:
    """Which field of the architecture each of our sizes is."""
    found: dict[str, str] = {}
    for ours, names in _NAMES.items():
        mapped = [kind.attribute_map.get(name, name) for name in names]
        own = next((name for name in mapped if name in fields), None)
        if own is not None:
            found[ours] = own
        elif ours in ("hidden_size", "layers", "heads"):
            raise UserError(
                f"model.scratch.architecture: {shape.architecture} has no {names[0]}, so that it cannot be "
                "made by these sizes; take another"
            )
    if "kv_heads" not in found and shape.kv_heads != shape.heads:
        raise UserError(
            f"model.scratch.kv_heads: {shape.kv_heads} heads for keys and values are not for "
            f"{shape.architecture}, in which every head has its own; set it to {shape.heads}"
        )
    default = ScratchConfig.model_fields["intermediate_size"].default
    if "intermediate_size" not in found and shape.intermediate_size != default:
        raise UserError(
            f"model.scratch.intermediate_size: {shape.architecture} derives its own; remove it, or see "
            "model.scratch.overrides"
        )
    return found


def _check_override(shape: ScratchConfig, key: str, sizes: dict[str, str], fields: set[str]) -> None:
    place = f"model.scratch.overrides.{key}"
    ours = next((ours for ours, own in sizes.items() if key in (own, *_NAMES[ours])), None)
    if ours is not None:
        raise UserError(f"{place}: is what model.scratch.{ours} says; set that, and remove it here")
    if key in _OF_TOKENIZER:
        raise UserError(f"{place}: is what the tokenizer says; remove it")
    if key not in fields:
        known = fields - {*sizes.values(), *_OF_TOKENIZER}
        raise UserError(f"{place}: {shape.architecture} has no such field; {_nearest(key, known)}")


def scratch_model(config: ModelConfig, tokenizer: Any) -> Any:
    """A randomly initialised causal language model of `config.scratch`, in float32.

    Draws from torch's global generator: seed it first. Raises UserError as `scratch_config` does, and for an
    architecture that cannot be run on text alone, or lets a token see those behind it.
    """
    shape = config.scratch
    assert shape is not None
    model = _causal_lm(config, scratch_config(shape, tokenizer))
    model.eval()
    flash = config.attention == "flash_attention_2"
    if flash:  # it runs on GPUs in half precision, and here is neither; what a token sees is the same
        model.set_attn_implementation("sdpa")
    ids = torch.arange(6)[None] % model.get_input_embeddings().weight.shape[0]
    other = torch.cat([ids[:, :-1], ids[:, :1]], dim=1)
    try:
        with torch.no_grad():
            first, second = (model(input_ids=each, use_cache=False).logits[0, :-1] for each in (ids, other))
    except _MISFIT as error:
        raise UserError(
            f"model.scratch.architecture: {shape.architecture} of this shape cannot be run on text alone "
            f"({_last_line(error)}); change its sizes or overrides, or take another"
        ) from error
    if not (first - second).abs().max() <= 1e-4 * first.abs().max():
        raise UserError(
            f"model.scratch.architecture: {shape.architecture} lets a token see those behind it, so that it "
            "would learn to copy; take another, or see its model.scratch.overrides (is_decoder: true)"
        )
    if flash:
        model.set_attn_implementation(config.attention)
    return model.train()


def check_scratch(config: ModelConfig, *, scalar: str | None) -> Any:
    """Refuse, before any work, what cannot be built; returns the model without weights (meta device).

    `scalar` is the config field that asks for the same model with a scalar head, if one does.
    """
    shape = config.scratch
    assert shape is not None
    settings = scratch_config(shape)
    with torch.device("meta"):
        model = _causal_lm(config, settings)
        if scalar is not None and not _has_scalar_form(config, settings, model):
            raise UserError(
                f"{scalar}: needs a model with one number as its output, and transformers has none for "
                f"{shape.architecture} that takes over its weights; take another model.scratch.architecture"
            )
    return model


def _causal_lm(config: ModelConfig, settings: Any) -> Any:
    """The untrained model, in float32."""
    try:
        return AutoModelForCausalLM.from_config(
            settings, attn_implementation=config.attention, dtype=torch.float32
        )
    except _MISFIT as error:
        raise UserError(
            f"model.scratch: no {settings.model_type} of this shape can be made with model.attention = "
            f"{config.attention} ({_last_line(error)}); change sizes or overrides, or set model.attention to "
            "eager"
        ) from error


def _has_scalar_form(config: ModelConfig, settings: Any, model: Any) -> bool:
    """Whether its weights and a linear layer `score` make up transformers' classifier of the architecture."""
    if settings.model_type not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:
        return False
    try:
        other = AutoModelForSequenceClassification.from_config(
            settings, attn_implementation=config.attention, dtype=torch.float32
        )
    except _MISFIT:
        return False
    own = {name for name in other.state_dict() if not name.startswith("score.")}
    return isinstance(getattr(other, "score", None), nn.Linear) and own <= set(model.state_dict())


def _nearest(name: str, known: Any) -> str:
    """The end of an error: the name that may have been meant, or some that there are."""
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f"did you mean {close[0]}?"
    some = sorted(known)
    return f"give one of {', '.join(some[:12])}{', ...' if len(some) > 12 else ''}"


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[-1].strip()
    return text if len(text) <= 200 else f"{text[:200]} ..."
