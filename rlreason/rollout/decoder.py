"""The forward pass of the native engine: a described decoder over a cache that is allocated once.

Shapes: S slots, H query heads, K key-value heads, R = H / K, D head size, T cache positions, L layers,
V vocabulary; B rows and N tokens a row in one pass.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreason.policy.adapter import effective_weight
from rlreason.rollout.families import ACTIVATIONS, DecoderSpec, LayerSpec

_Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Layer number, queries, keys and values of the new tokens -> attention's output, like the queries."""

_ACTIVATE: dict[str, Callable[[Tensor], Tensor]] = dict(
    zip(ACTIVATIONS, (F.silu, F.gelu, partial(F.gelu, approximate="tanh")), strict=True)
)


@dataclass
class _Layer:
    """The weights of one layer in the sampler's precision, fused where they share their input.

    `rope` is the place of its position embedding among the decoder's; None is no such embedding.
    """

    attention_norm: Tensor | None
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    output_norm: Tensor | None
    mlp_norm: Tensor | None
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    down_norm: Tensor | None
    rope: int | None


class Decoder:
    """Computes next-token logits with copies of a model's weights in `dtype`; none where dtypes agree."""

    def __init__(self, spec: DecoderSpec, *, dtype: torch.dtype, device: torch.device) -> None:
        self._spec = spec
        self._dtype = dtype
        self._device = device
        self._activate = _ACTIVATE[spec.activation]
        self._split = [spec.heads, spec.kv_heads, spec.kv_heads]
        self._ropes = list(dict.fromkeys(layer.rope for layer in spec.layers if layer.rope is not None))
        self._windows = list(dict.fromkeys(layer.window for layer in spec.layers))
        self._window_of = [self._windows.index(layer.window) for layer in spec.layers]
        self._tables: list[tuple[Tensor, Tensor]] = []
        self._reach = 0
        self.refresh()

    # ------------------------------------------------------------------ weights

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the model's weights, adapters folded in."""
        spec = self._spec
        embedding, head = effective_weight(spec.embedding), effective_weight(spec.head)
        self._embedding = self._copy(embedding)
        self._head = self._embedding if head.data_ptr() == embedding.data_ptr() else self._copy(head)
        final_norm = (spec.final_norm.weight + spec.norm_offset) * spec.logit_scale
        self._final_norm = self._copy(final_norm)
        self._layers = [self._copy_layer(layer) for layer in spec.layers]

    def _copy(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self._dtype)

    def _copy_norm(self, norm: Any | None) -> Tensor | None:
        return None if norm is None else self._copy(norm.weight + self._spec.norm_offset)

    def _copy_linear(self, *parts: Any) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of linear layers side by side."""
        weights = [self._copy(effective_weight(part)) for part in parts]
        biases = [part.bias for part in parts]
        bias = None if all(b is None for b in biases) else torch.cat([self._copy(b) for b in biases])
        return weights[0] if len(parts) == 1 else torch.cat(weights), bias

    def _copy_layer(self, layer: LayerSpec) -> _Layer:
        qkv, qkv_bias = self._copy_linear(*layer.qkv)
        output, output_bias = self._copy_linear(layer.output)
        gate_up, gate_up_bias = self._copy_linear(*layer.gate_up)
        down, down_bias = self._copy_linear(layer.down)
        return _Layer(
            attention_norm=self._copy_norm(layer.attention_norm),
            qkv=qkv,
            qkv_bias=qkv_bias,
            query_norm=self._copy_norm(layer.query_norm),
            key_norm=self._copy_norm(layer.key_norm),
            output=output,
            output_bias=output_bias,
            output_norm=self._copy_norm(layer.output_norm),
            mlp_norm=self._copy_norm(layer.mlp_norm),
            gate_up=gate_up,
            gate_up_bias=gate_up_bias,
            down=down,
            down_bias=down_bias,
            down_norm=self._copy_norm(layer.down_norm),
            rope=None if layer.rope is None else self._ropes.index(layer.rope),
        )

    # ------------------------------------------------------------------ prompts and next tokens

    def new_cache(self, slots: int, positions: int) -> tuple[Tensor, Tensor]:
        """Room for `(keys_LSKTD, values_LSKTD)`."""
        self._reserve(positions)
        spec = self._spec
        shape = (len(spec.layers), slots, spec.kv_heads, positions, spec.head_dim)
        # Zeros, because a masked position still meets its value, and 0 times an uninitialised NaN is NaN.
        keys = torch.zeros(shape, dtype=self._dtype, device=self._device)
        return keys, torch.zeros_like(keys)

    def prefill(self, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute one prompt: `(keys_LKTD, values_LKTD, logits_V)` of its last token."""
        self._reserve(len(ids))
        tokens = torch.tensor([ids], device=self._device)
        rotations = [(cos[: len(ids)], sin[: len(ids)]) for cos, sin in self._tables]
        bands = [self._band(len(ids), window) for window in self._windows]
        keys, values = [], []

        def attend(index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys.append(key[0])
            values.append(value[0])
            band = bands[self._window_of[index]]
            return F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=band,
                is_causal=band is None,
                scale=self._spec.attention_scale,
                enable_gqa=True,
            )

        hidden = self._forward(tokens, rotations, attend)
        return torch.stack(keys), torch.stack(values), self._logits(hidden[0, -1])

    def decode(
        self, tokens_S: Tensor, lengths_S: Tensor, keys_LSKTD: Tensor, values_LSKTD: Tensor, longest: int
    ) -> Tensor:
        """Append one token a slot to the cache and return the next logits_SV.

        `lengths_S` counts the positions in use before the call; `longest` is its maximum, known to the
        host, plus 1.
        """
        spec, slots = self._spec, len(tokens_S)
        rows = torch.arange(slots, device=self._device)
        rotations = [(cos[lengths_S, None, None], sin[lengths_S, None, None]) for cos, sin in self._tables]
        masks = self._masks(lengths_S, longest)

        def attend(index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = keys_LSKTD[index], values_LSKTD[index]
            keys[rows, :, lengths_S] = key[:, :, 0]
            values[rows, :, lengths_S] = value[:, :, 0]
            # The R query heads of a key-value head take the place of query positions: keys are not repeated.
            grouped = query.view(slots, spec.kv_heads, -1, spec.head_dim)
            out = F.scaled_dot_product_attention(
                grouped,
                keys[:, :, :longest],
                values[:, :, :longest],
                attn_mask=masks[self._window_of[index]],
                scale=spec.attention_scale,
            )
            return out.view(slots, spec.heads, 1, spec.head_dim)

        hidden = self._forward(tokens_S.unsqueeze(1), rotations, attend)
        return self._logits(hidden[:, 0])

    def _band(self, length: int, window: int | None) -> Tensor | None:
        """What each token of a prompt sees, (N, N); None where that is all before it and itself."""
        if window is None or window >= length:
            return None
        places = torch.arange(length, device=self._device)
        distance = places[:, None] - places
        return (distance >= 0) & (distance < window)

    def _masks(self, lengths_S: Tensor, longest: int) -> list[Tensor]:
        """For each distinct window, 0 where a slot's new token sees a position and -inf elsewhere."""
        # A window that no sequence has outgrown is none.
        reaches = [w if w is not None and w < longest else None for w in self._windows]
        distance_ST = lengths_S.unsqueeze(1) - torch.arange(longest, device=self._device)
        masks = {}
        for reach in dict.fromkeys(reaches):
            hidden_ST = distance_ST < 0 if reach is None else (distance_ST < 0) | (distance_ST >= reach)
            mask = torch.zeros(hidden_ST.shape, dtype=self._dtype, device=self._device)
            masks[reach] = mask.masked_fill_(hidden_ST, -math.inf)[:, None, None, :]
        return [masks[reach] for reach in reaches]

    # ------------------------------------------------------------------ the layers

    def _forward(self, tokens_BN: Tensor, rotations: list[tuple[Tensor, Tensor]], attend: _Attend) -> Tensor:
        spec = self._spec
        hidden = F.embedding(tokens_BN, self._embedding)
        if spec.embedding_scale != 1:
            hidden = hidden * spec.embedding_scale
        batch, length, _ = hidden.shape
        for index, layer in enumerate(self._layers):
            normed = self._norm(hidden, layer.attention_norm)
            qkv = F.linear(normed, layer.qkv, layer.qkv_bias)
            heads = qkv.view(batch, length, -1, spec.head_dim).transpose(1, 2)
            query, key, value = heads.split(self._split, dim=1)
            if layer.query_norm is not None:
                query = self._norm_heads(query, layer.query_norm)
            if layer.key_norm is not None:
                key = self._norm_heads(key, layer.key_norm)
            if layer.rope is not None:
                cos, sin = rotations[layer.rope]
                query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
            mixed = attend(index, query, key, value).transpose(1, 2).reshape(batch, length, -1)
            mixed = self._norm(F.linear(mixed, layer.output, layer.output_bias), layer.output_norm)
            hidden = torch.add(hidden, mixed, alpha=spec.residual_scale)
            normed = self._norm(hidden, layer.mlp_norm)
            gate, up = F.linear(normed, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
            fed = F.linear(self._activate(gate) * up, layer.down, layer.down_bias)
            hidden = torch.add(hidden, self._norm(fed, layer.down_norm), alpha=spec.residual_scale)
        return self._norm(hidden, self._final_norm)

    def _norm(self, x: Tensor, weight: Tensor | None) -> Tensor:
        """RMS norm (arXiv 1910.07467); without a weight there is none."""
        return x if weight is None else F.rms_norm(x, weight.shape, weight, self._spec.eps)

    def _norm_heads(self, x_BHND: Tensor, weight: Tensor) -> Tensor:
        """Over each head, or over all of them at once where the weight is as wide as they are together."""
        if weight.shape[0] == x_BHND.shape[-1]:
            return self._norm(x_BHND, weight)
        flat = self._norm(x_BHND.transpose(1, 2).flatten(2), weight)
        return flat.unflatten(-1, (-1, x_BHND.shape[-1])).transpose(1, 2)

    def _logits(self, hidden: Tensor) -> Tensor:
        logits = hidden @ self._head.T
        cap = self._spec.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _reserve(self, positions: int) -> None:
        """Have the cosines and sines (T, D) of each rotary embedding for that many positions."""
        if positions <= self._reach:
            return
        self._reach = positions
        places = torch.arange(positions, device=self._device, dtype=torch.float32)
        self._tables = []
        for rope in self._ropes:
            angles = places[:, None] * rope.frequencies.to(self._device, torch.float32)
            angles = torch.cat([angles, angles], dim=-1)
            cos, sin = angles.cos() * rope.scale, angles.sin() * rope.scale
            self._tables.append((cos.to(self._dtype), sin.to(self._dtype)))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout of transformers (arXiv 2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
