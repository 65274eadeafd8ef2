"""What the families of decoder models are made of, in the one vocabulary that the native engine knows.

A `DecoderSpec` names the modules that hold the weights, and the numbers of this computation (s for scale):

    h = embedding_s * E[token]
    for each layer:
        h += residual_s * norm(output(attention(qkv(norm(h)))))    queries and keys may be normed, and rotated
        h += residual_s * norm(down(activation(gate(x)) * up(x)))  with x = norm(h)
    logits = softcap(logit_s * head(norm(h)))

Every norm of a layer may be absent. A family is a function that says how its models differ from Llama, which
has the norms before attention and feed-forward, and no scales.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh")
# Rotary embeddings whose frequencies do not depend on the length of the sequence.
_STATIC_ROPES = ("default", "linear", "llama3", "yarn")


class NoNativePathError(ValueError):
    """A model that the native engine cannot run; the message is the reason."""


@dataclass(frozen=True, eq=False)
class RopeSpec:
    """A rotary position embedding over whole heads, in the half-split layout (arXiv 2104.09864).

    `frequencies` are radians a position, (D / 2,); `scale` multiplies cosine and sine (YaRN's).
    """

    frequencies: Tensor
    scale: float


@dataclass(frozen=True)
class LayerSpec:
    """The modules of one layer; projections of one input stand in the order of their outputs.

    A norm of queries or keys goes over each head or over all heads at once, as its weight is wide.
    `window` counts the positions that a token sees, its own among them; None is all. `rope` None is no
    position embedding.
    """

    attention_norm: Any | None
    qkv: tuple[Any, ...]
    output: Any
    mlp_norm: Any | None
    gate_up: tuple[Any, ...]
    down: Any
    query_norm: Any | None = None
    key_norm: Any | None = None
    output_norm: Any | None = None
    down_norm: Any | None = None
    window: int | None = None
    rope: RopeSpec | None = None


@dataclass(frozen=True)
class DecoderSpec:
    """A decoder in the terms of this module. `norm_offset` is added to the weight of every norm."""

    embedding: Any
    layers: tuple[LayerSpec, ...]
    final_norm: Any
    head: Any
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    activation: str
    attention_scale: float
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None


def describe(causal_lm: Any) -> DecoderSpec:
    """Describe a causal language model of transformers, adapters left in place.

    Reads no weight, so that a model on the meta device will do. Raises NoNativePathError, which says why.
    """
    name = type(causal_lm).__name__
    if name not in _FAMILIES:
        raise NoNativePathError(f"{name} has no native path")
    try:
        spec = _FAMILIES[name](causal_lm)
    except AttributeError as error:
        raise NoNativePathError(f"this {name} is not built like that of transformers: {error}") from error
    if spec.activation not in ACTIVATIONS:
        raise NoNativePathError(f"activation {spec.activation!r}")
    return spec


def unsupported(causal_lm: Any) -> str | None:
    """Return why `causal_lm` has no native path, or None if it has one."""
    try:
        describe(causal_lm)
    except NoNativePathError as error:
        return str(error)
    return None


# ---------------------------------------------------------------------- the families


def _llama(model: Any) -> DecoderSpec:
    return _decoder(model)


def _mistral(model: Any) -> DecoderSpec:
    """One window for all layers."""
    return _decoder(model, windows=[model.config.sliding_window] * len(model.model.layers))


def _qwen2(model: Any) -> DecoderSpec:
    """A window for some layers."""
    return _decoder(model, windows=_windows_by_type(model.config))


def _qwen3(model: Any) -> DecoderSpec:
    """As Qwen2, and norms of queries and keys over each head."""
    return _decoder(model, _normed_heads, windows=_windows_by_type(model.config))


def _gemma3(model: Any) -> DecoderSpec:
    """Norms of weight 1 + w before and after; local layers have a window and a rotary embedding of their own.

    arXiv 2503.19786, section 2.
    """
    config = model.config
    if config.use_bidirectional_attention:
        raise NoNativePathError("attention to later tokens")
    ropes = {kind: _rope(model, kind) for kind in dict.fromkeys(config.layer_types)}
    return _decoder(
        model,
        _normed_all_around,
        windows=_windows_by_type(config),
        ropes=[ropes[kind] for kind in config.layer_types],
        activation=config.hidden_activation,
        attention_scale=config.query_pre_attn_scalar**-0.5,
        norm_offset=1.0,
        embedding_scale=config.hidden_size**0.5,
        logit_softcap=config.final_logit_softcapping,
    )


def _smollm3(model: Any) -> DecoderSpec:
    """Some layers have no position embedding (NoPE, arXiv 2501.18795)."""
    config, rope = model.config, _rope(model)
    ropes = [rope if rotated else None for rotated in config.no_rope_layers]
    return _decoder(model, windows=_windows_by_type(config), ropes=ropes)


def _granite(model: Any) -> DecoderSpec:
    """Llama with scales."""
    config = model.config
    return _decoder(
        model,
        attention_scale=config.attention_multiplier,
        embedding_scale=config.embedding_multiplier,
        residual_scale=config.residual_multiplier,
        logit_scale=1.0 / config.logits_scaling,
    )


def _olmo2(model: Any) -> DecoderSpec:
    """Norms after attention and feed-forward in place of before; queries and keys normed over all heads.

    arXiv 2501.00656, section 3.
    """
    return _decoder(model, _normed_after)


def _phi3(model: Any) -> DecoderSpec:
    """One window for all layers, and projections that are fused already."""
    return _decoder(model, _fused, windows=[model.config.sliding_window] * len(model.model.layers))


_FAMILIES: dict[str, Callable[[Any], DecoderSpec]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "Gemma3ForCausalLM": _gemma3,
    "SmolLM3ForCausalLM": _smollm3,
    "GraniteForCausalLM": _granite,
    "Olmo2ForCausalLM": _olmo2,
    "Phi3ForCausalLM": _phi3,
}

# ---------------------------------------------------------------------- their layers


def _plain(layer: Any) -> LayerSpec:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerSpec(
        attention_norm=layer.input_layernorm,
        qkv=(attention.q_proj, attention.k_proj, attention.v_proj),
        output=attention.o_proj,
        mlp_norm=layer.post_attention_layernorm,
        gate_up=(mlp.gate_proj, mlp.up_proj),
        down=mlp.down_proj,
    )


def _normed_heads(layer: Any) -> LayerSpec:
    return replace(_plain(layer), query_norm=layer.self_attn.q_norm, key_norm=layer.self_attn.k_norm)


def _normed_all_around(layer: Any) -> LayerSpec:
    return replace(
        _normed_heads(layer),
        output_norm=layer.post_attention_layernorm,
        mlp_norm=layer.pre_feedforward_layernorm,
        down_norm=layer.post_feedforward_layernorm,
    )


def _normed_after(layer: Any) -> LayerSpec:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerSpec(
        attention_norm=None,
        qkv=(attention.q_proj, attention.k_proj, attention.v_proj),
        output=attention.o_proj,
        mlp_norm=None,
        gate_up=(mlp.gate_proj, mlp.up_proj),
        down=mlp.down_proj,
        query_norm=attention.q_norm,
        key_norm=attention.k_norm,
        output_norm=layer.post_attention_layernorm,
        down_norm=layer.post_feedforward_layernorm,
    )


def _fused(layer: Any) -> LayerSpec:
    attention, mlp = layer.self_attn, layer.mlp
    return LayerSpec(
        attention_norm=layer.input_layernorm,
        qkv=(attention.qkv_proj,),
        output=attention.o_proj,
        mlp_norm=layer.post_attention_layernorm,
        gate_up=(mlp.gate_up_proj,),
        down=mlp.down_proj,
    )


# ---------------------------------------------------------------------- what they have in common


def _decoder(
    model: Any,
    layer_spec: Callable[[Any], LayerSpec] = _plain,
    *,
    windows: Sequence[int | None] | None = None,
    ropes: Sequence[RopeSpec | None] | None = None,
    **numbers: Any,
) -> DecoderSpec:
    """The spec of `model`: `windows` and `ropes` have one entry a layer, `numbers` are fields of the spec."""
    config, modules = model.config, model.model.layers
    windows = [None] * len(modules) if windows is None else windows
    ropes = [_rope(model)] * len(modules) if ropes is None else ropes
    layers = tuple(
        replace(layer_spec(module), window=window, rope=rope)
        for module, window, rope in zip(modules, windows, ropes, strict=True)
    )
    head_dim = _head_dim(config)
    # A family that names its activation otherwise gives it among `numbers`.
    settings = {
        "activation": getattr(config, "hidden_act", None),
        "attention_scale": head_dim**-0.5,
        **numbers,
    }
    return DecoderSpec(
        embedding=model.model.embed_tokens,
        layers=layers,
        final_norm=model.model.norm,
        head=model.lm_head,
        heads=config.num_attention_heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or config.num_attention_heads,
        head_dim=head_dim,
        eps=config.rms_norm_eps,
        **settings,
    )


def _head_dim(config: Any) -> int:
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width


def _windows_by_type(config: Any) -> list[int | None]:
    windows = {"full_attention": None, "sliding_attention": config.sliding_window}
    unknown = sorted(set(config.layer_types) - set(windows))
    if unknown:
        raise NoNativePathError(f"layers of type {unknown[0]!r}")
    return [windows[kind] for kind in config.layer_types]


def _rope(model: Any, kind: str | None = None) -> RopeSpec:
    """The rotary embedding of `model`, or that of its layers of type `kind` where each type has its own."""
    config, rotary = model.config, model.model.rotary_emb
    settings = config.rope_parameters if kind is None else config.rope_parameters[kind]
    rope_type = settings.get("rope_type", "default")
    if rope_type not in _STATIC_ROPES:
        raise NoNativePathError(f"rope_type {rope_type!r}")
    prefix = "" if kind is None else f"{kind}_"
    frequencies = getattr(rotary, f"{prefix}inv_freq")
    if 2 * len(frequencies) != _head_dim(config):
        raise NoNativePathError("a rotary embedding of a part of each head")
    return RopeSpec(frequencies, float(getattr(rotary, f"{prefix}attention_scaling")))
