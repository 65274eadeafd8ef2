"""The `model` section: which weights to start from and how to train them."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, PlainValidator

from rlreason.config.base import Section

Precision = Literal["auto", "float32", "bfloat16"]
ALL_LINEAR: Literal["all-linear"] = "all-linear"


def _targets(value: object) -> object:
    """Accept `all-linear` or a list of module names. A pydantic union would report one error a branch."""
    if value == ALL_LINEAR:
        return value
    if isinstance(value, list | tuple) and value and all(isinstance(name, str) and name for name in value):
        return tuple(value)
    raise ValueError("give all-linear, or a list of module names such as [q_proj, v_proj]")


Targets = Literal["all-linear"] | tuple[str, ...]


class LoraConfig(Section):
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685), trained in place of the weights themselves."""

    rank: int = Field(default=16, ge=1, description="rank of the two low-rank matrices")
    alpha: float = Field(default=32.0, gt=0, description="the adapter's output is multiplied by alpha / rank")
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="dropout in the adapter during SFT; GRPO trains with it off"
    )
    targets: Annotated[Targets, PlainValidator(_targets, json_schema_input_type=Targets)] = Field(
        default=ALL_LINEAR, description="modules that get an adapter: all-linear or a list of names"
    )


class ScratchConfig(Section):
    """Shape of a new, randomly initialised model, and its tokenizer: made for it, or another model's."""

    architecture: str = Field(
        default="llama",
        min_length=1,
        description="model type in transformers: llama, qwen3, gemma3_text, mixtral, gpt2, ...",
    )
    overrides: dict[str, JsonValue] = Field(
        default_factory=dict, description="further fields of the architecture's config in transformers"
    )
    tokenizer: str | None = Field(
        default=None,
        min_length=1,
        description="take the tokenizer of embedded, of a folder or a hub model; null = make one",
    )
    tokens: Literal["digits", "numbers", "bpe"] = Field(
        default="digits",
        description="a token is a word, or: digits = a digit, numbers = a number; bpe = learned byte pairs",
    )
    vocabulary: int = Field(default=4096, ge=300, description="tokens that bpe may make")

    hidden_size: int = Field(default=128, ge=8, description="width of the residual stream")
    layers: int = Field(default=4, ge=1, description="transformer blocks")
    heads: int = Field(default=4, ge=1, description="query heads; divides hidden_size")
    kv_heads: int = Field(default=4, ge=1, description="key and value heads; divides heads")
    intermediate_size: int = Field(default=384, ge=8, description="width of the feed-forward layers")
    max_positions: int = Field(
        default=512, ge=16, description="longest prompt and completion together, in tokens"
    )


class ModelConfig(Section):
    """Which model to train and in which form."""

    path: str = Field(
        default="embedded",
        min_length=1,
        description="embedded (SmolLM2-135M-Instruct, no download), a local folder, or a hub name",
    )
    revision: str | None = Field(
        default=None, min_length=1, description="branch, tag or commit of a hub model; null = its newest"
    )
    precision: Precision = Field(
        default="auto", description="number format in training; auto = measured on this machine at the start"
    )
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        default="sdpa", description="attention implementation in training"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="recompute activations in the backward pass: slower, less memory"
    )
    lora: LoraConfig | None = Field(
        default=None, description="train a low-rank adapter; null = train all weights"
    )
    scratch: ScratchConfig | None = Field(
        default=None, description="train a new model of this shape from nothing, in place of path"
    )
