"""LoRA through peft: wrapping a model, and its weights with the adapter folded in."""

from typing import Any

import torch
from torch import Tensor

from rlreason.errors import UserError


def causal_lm_of(model: Any) -> Any:
    """The transformers model inside a peft model, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def with_adapter(model: Any, lora: Any, *, task_type: str | None = "CAUSAL_LM") -> Any:
    """Wrap `model` with a fresh adapter of shape `lora` (`config.LoraConfig`), which starts as the identity.

    Raises UserError if its targets fit no layer, or one of two layers that share their weight.
    """
    from peft import LoraConfig, get_peft_model

    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    adapter = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        task_type=task_type,
    )
    try:
        adapted = get_peft_model(model, adapter)
    except ValueError as error:
        raise UserError(f"model.lora.targets: {targets!r} fit no layer of this model ({error})") from error
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if getattr(model.config, "tie_word_embeddings", False) and any(hasattr(end, "lora_A") for end in ends):
        raise UserError(
            f"model.lora.targets: {targets!r} name the embeddings or the head, which share one weight in "
            "this model, so that the adapter could not be merged into it; leave them out"
        )
    return adapted


def effective_weight(layer: Any) -> Tensor:
    """The weight of a linear layer or an embedding with its active adapters added.

    W + scaling * B A (arXiv 2106.09685, eq. 3).
    """
    weight: Tensor = layer.weight
    if not hasattr(layer, "get_delta_weight") or getattr(layer, "disable_adapters", False):
        return weight
    for adapter in layer.active_adapters:
        if adapter in layer.lora_A or adapter in layer.lora_embedding_A:
            weight = weight + layer.get_delta_weight(adapter)
    return weight


@torch.no_grad()
def merged_state(model: Any) -> dict[str, Tensor]:
    """The base model's state with the adapter folded in, computed beside the live weights.

    Merging in place and unmerging afterwards would leave rounding in the weights that go on training.
    """
    state: dict[str, Tensor] = {}
    base = causal_lm_of(model)
    for name, value in base.state_dict().items():
        if "lora_" not in name:
            state[name.replace(".base_layer", "")] = value
    for name, module in base.named_modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "base_layer"):
            state[f"{name}.weight"] = effective_weight(module)
    return state
