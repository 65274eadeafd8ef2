"""The numbers of a model that its memory follows from."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from rlreason.config.model import ModelConfig
from rlreason.policy.adapter import causal_lm_of, with_adapter
from rlreason.policy.architecture import scratch_config
from rlreason.policy.scalar import model_config
from rlreason.rollout.families import unsupported

# Tokens that a tokenizer made for a task has, where it has not been made yet: of words and digits.
_WORDS = 2000


@dataclass(frozen=True)
class ModelShape:
    """`trainable` of `parameters` train; `embedding` are those of the token embedding.

    `tied` says whether it is the head too. `intermediate` is the width of the feed-forward part that one
    token goes through. `native` says whether the native engine knows models of this kind.
    """

    parameters: int
    trainable: int
    embedding: int
    tied: bool
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    native: bool = True

    @property
    def body(self) -> int:
        """Parameters without embedding and head."""
        return self.parameters - self.embedding * (1 if self.tied else 2)

    @property
    def plain(self) -> "ModelShape":
        """The same model as it is frozen: nothing of it trains."""
        return replace(self, trainable=0)


def shape_of(model: Any) -> ModelShape:
    """The shape of a model, adapters and all; one on the meta device will do."""
    causal_lm = causal_lm_of(model)
    settings = causal_lm.config.get_text_config()
    embedding = causal_lm.get_input_embeddings().weight
    head = causal_lm.get_output_embeddings()
    hidden = _size(settings, "hidden_size", int(embedding.shape[1]))
    heads = _size(settings, "num_attention_heads", 1)
    inner = _size(settings, "intermediate_size", _size(settings, "n_inner", 4 * hidden))
    return ModelShape(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        embedding=embedding.numel(),
        tied=head is None or getattr(head, "weight", None) is embedding,
        layers=_size(settings, "num_hidden_layers", 1),
        hidden=hidden,
        heads=heads,
        kv_heads=_size(settings, "num_key_value_heads", heads),
        head_dim=_size(settings, "head_dim", hidden // heads),
        intermediate=inner * _size(settings, "num_experts_per_tok", 1),
        vocabulary=int(embedding.shape[0]),
        native=unsupported(causal_lm) is None,
    )


def scalar_parameters(config: ModelConfig, path: str, field: str) -> int:
    """The parameters of the model of one output at `path`, of which no weights are read.

    Raises UserError if there is none; `field` is the config key that names it.
    """
    settings = model_config(config, path, field)
    with torch.device("meta"):
        model: Any = AutoModelForSequenceClassification.from_config(settings)
    return sum(parameter.numel() for parameter in model.parameters())


def _size(settings: Any, name: str, default: int) -> int:
    """A size of a transformers config, the largest where layers differ; `default` where it has none."""
    value = getattr(settings, name, None)
    if isinstance(value, list | tuple):
        value = max(value, default=None)
    return int(value) if value else default


def new_shape(config: ModelConfig) -> ModelShape:
    """The shape of the model that `config` names, before it is loaded: no weights are read or made.

    Raises UserError if there is no such model. The vocabulary of a tokenizer still to be made is a guess.
    """
    if config.scratch is None:
        settings = model_config(config, config.path, "model.path")
    else:
        settings = scratch_config(config.scratch)
        size = config.scratch.vocabulary if config.scratch.tokens == "bpe" else _WORDS
        settings.get_text_config().vocab_size = size
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(settings)
        model.tie_weights()
        if config.lora is not None:
            model = with_adapter(model, config.lora)
    return shape_of(model)
