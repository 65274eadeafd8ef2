"""The forward pass of the native engine: a described decoder over a cache.

Shapes: S slots, H query heads, K key-value heads, R = H / K, D head size, T cache positions, W keys that a
slot meets, L layers, V vocabulary; B rows and N tokens a row in one pass.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv

from rlreason.policy.adapter import effective_weight
from rlreason.rollout.families import ACTIVATIONS, DecoderSpec, LayerSpec
from rlreason.rollout.kernels import Cache, Linear
from rlreason.rollout.prefixes import Prefixes

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
    qkv: Linear
    query_norm: Tensor | None
    key_norm: Tensor | None
    output: Linear
    output_norm: Tensor | None
    mlp_norm: Tensor | None
    gate_up: Linear
    down: Linear
    down_norm: Tensor | None
    rope: int | None


@dataclass(frozen=True)
class Prompt:
    """Tokens that were computed: their keys and values in every layer, and the logits behind the last.

    `after` is what stands in front of them, whose keys and values are its own.
    """

    keys_LKND: Tensor
    values_LKND: Tensor
    logits_V: Tensor
    after: "Prompt | None" = None

    def __len__(self) -> int:
        return self.keys_LKND.shape[2] + (len(self.after) if self.after is not None else 0)

    def parts(self) -> list["Prompt"]:
        """What stands in front, from the first on, and itself."""
        return [*(self.after.parts() if self.after is not None else ()), self]

    def clone(self) -> "Prompt":
        """The same in tensors of its own; computed with others, it is a part of theirs."""
        own = self.keys_LKND.clone(), self.values_LKND.clone(), self.logits_V.clone()
        return Prompt(*own, self.after)


class Decoder:
    """Computes next-token logits with copies of a model's weights in `dtype`, laid out for this device."""

    def __init__(self, spec: DecoderSpec, *, dtype: torch.dtype, device: torch.device) -> None:
        self._spec = spec
        self._dtype = dtype
        self._device = device
        self._activate = _ACTIVATE[spec.activation]
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
        tied = head.data_ptr() == embedding.data_ptr()
        self._head = Linear(self._embedding if tied else self._copy(head), None)
        final_norm = (spec.final_norm.weight + spec.norm_offset) * spec.logit_scale
        self._final_norm = self._copy(final_norm)
        self._layers = [self._copy_layer(layer) for layer in spec.layers]

    def release(self) -> None:
        """Drop the copies. Nothing is computed until `refresh`."""
        self._layers.clear()
        del self._embedding, self._head, self._final_norm

    def _copy(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self._dtype)

    def _copy_norm(self, norm: Any | None) -> Tensor | None:
        return None if norm is None else self._copy(norm.weight + self._spec.norm_offset)

    def _copy_linear(self, *parts: Any) -> Linear:
        """Linear layers of one input as one."""
        weights = [self._copy(effective_weight(part)) for part in parts]
        biases = [part.bias for part in parts]
        bias = None if all(b is None for b in biases) else torch.cat([self._copy(b) for b in biases])
        return Linear(weights[0] if len(parts) == 1 else torch.cat(weights), bias)

    def _copy_layer(self, layer: LayerSpec) -> _Layer:
        return _Layer(
            attention_norm=self._copy_norm(layer.attention_norm),
            qkv=self._copy_linear(*layer.qkv),
            query_norm=self._copy_norm(layer.query_norm),
            key_norm=self._copy_norm(layer.key_norm),
            output=self._copy_linear(layer.output),
            output_norm=self._copy_norm(layer.output_norm),
            mlp_norm=self._copy_norm(layer.mlp_norm),
            gate_up=self._copy_linear(*layer.gate_up),
            down=self._copy_linear(layer.down),
            down_norm=self._copy_norm(layer.down_norm),
            rope=None if layer.rope is None else self._ropes.index(layer.rope),
        )

    # ------------------------------------------------------------------ prompts and next tokens

    def new_cache(self, slots: int, *, block: int) -> Cache:
        spec = self._spec
        return Cache(
            layers=len(spec.layers),
            slots=slots,
            kv_heads=spec.kv_heads,
            head_dim=spec.head_dim,
            like=self._embedding,
            columns=self._device.type == "cpu",
            block=block,
        )

    def prefill(self, prompts: Sequence[Sequence[int]], after: Prompt | None = None) -> list[Prompt]:
        """Compute prompts side by side, or what each goes on with behind `after`.

        Shorter ones are padded behind their end, where none of their tokens looks.
        """
        lengths = [len(prompt) for prompt in prompts]
        longest, start = max(lengths), len(after) if after is not None else 0
        self._reserve(start + longest)
        tokens = torch.zeros((len(prompts), longest), dtype=torch.long)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        span = slice(start, start + longest)
        rotations = [(cos[span], sin[span]) for cos, sin in self._tables]
        bands = [self._band(start, longest, window) for window in self._windows]
        keys, values = [], []

        def attend(index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys.append(key)
            values.append(value)
            if after is not None:
                key, value = (
                    torch.cat([before[index].expand(len(prompts), -1, -1, -1), own], dim=2)
                    for before, own in ((after.keys_LKND, key), (after.values_LKND, value))
                )
            band = bands[self._window_of[index]]
            if band is not None:  # with a mask, kernels that group heads compute all scores at once
                key, value = (repeat_kv(one, query.shape[1] // one.shape[1]) for one in (key, value))
            return F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=band,
                is_causal=band is None,
                scale=self._spec.attention_scale,
                enable_gqa=band is None,
            )

        hidden = self._forward(tokens.to(self._device), rotations, attend)
        last = torch.tensor(lengths, device=self._device) - 1
        logits = self._logits(hidden[torch.arange(len(prompts), device=self._device), last])
        keys_LBKND, values_LBKND = torch.stack(keys), torch.stack(values)
        return [
            Prompt(keys_LBKND[:, row, :, :length], values_LBKND[:, row, :, :length], logits[row], after)
            for row, length in enumerate(lengths)
        ]

    def decode(
        self, tokens_S: Tensor, lengths_S: Tensor, store: Cache, prefixes: Prefixes | None = None
    ) -> Tensor:
        """Append one token to each of the first S slots of `store` and return the next logits_SV.

        `lengths_S` counts the positions in use before the call, those of its prefix among them; `store` has
        room for one more.
        """
        longest = store.positions + (0 if prefixes is None else prefixes.room)
        self._reserve(longest)
        rows = torch.arange(len(tokens_S), device=self._device)
        rotations = [(cos[lengths_S, None, None], sin[lengths_S, None, None]) for cos, sin in self._tables]
        if prefixes is None:
            own_S, positions = lengths_S, torch.arange(longest, device=self._device)
        else:
            own_S, positions = lengths_S - prefixes.length_S, prefixes.position_SW(store)
        masks = self._masks(lengths_S, positions)
        scale = self._spec.attention_scale

        def attend(index: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            store.append(index, rows, own_S, key[:, :, 0], value[:, :, 0])
            mask = masks[self._window_of[index]]
            if prefixes is None:
                return store.attend(index, query[:, :, 0], mask, scale).unsqueeze(2)
            return prefixes.attend(index, store, query[:, :, 0], mask, scale).unsqueeze(2)

        hidden = self._forward(tokens_S.unsqueeze(1), rotations, attend)
        return self._logits(hidden[:, 0])

    def _band(self, start: int, length: int, window: int | None) -> Tensor | None:
        """What each of N tokens at `start` and after sees, (N, start + N).

        None where that is all before it and itself, and nothing stands in front.
        """
        if start == 0 and (window is None or window >= length):
            return None
        places = torch.arange(start + length, device=self._device)
        distance = places[start:, None] - places
        seen = distance >= 0
        return seen if window is None else seen & (distance < window)

    def _masks(self, lengths_S: Tensor, positions: Tensor) -> list[Tensor]:
        """For each distinct window, 0 where a slot's new token sees a key and -inf elsewhere, (S, 1, 1, W).

        The W keys stand at the same positions in all sequences, (W,), or at those of each, (S, W).
        """
        # A window that no sequence can outgrow in this cache is none.
        longest = positions.shape[-1]
        reaches = [w if w is not None and w < longest else None for w in self._windows]
        distance_SW = lengths_S.unsqueeze(1) - positions
        masks = {}
        for reach in dict.fromkeys(reaches):
            hidden_SW = distance_SW < 0 if reach is None else (distance_SW < 0) | (distance_SW >= reach)
            mask = torch.zeros(hidden_SW.shape, dtype=self._dtype, device=self._device)
            masks[reach] = mask.masked_fill_(hidden_SW, -math.inf)[:, None, None, :]
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
            heads = layer.qkv(normed).view(batch, length, -1, spec.head_dim).transpose(1, 2)
            both, value = heads.split([spec.heads + spec.kv_heads, spec.kv_heads], dim=1)
            if layer.query_norm is not None and layer.key_norm is not None:
                query, key = both.split([spec.heads, spec.kv_heads], dim=1)
                norms = layer.query_norm, layer.key_norm
                both = torch.cat([self._norm_heads(*one) for one in zip((query, key), norms, strict=True)], 1)
            if layer.rope is not None:
                both = _rotate(both, *rotations[layer.rope])
            query, key = both.split([spec.heads, spec.kv_heads], dim=1)
            mixed = attend(index, query, key, value).transpose(1, 2).reshape(batch, length, -1)
            mixed = self._norm(layer.output(mixed), layer.output_norm)
            hidden = torch.add(hidden, mixed, alpha=spec.residual_scale)
            normed = self._norm(hidden, layer.mlp_norm)
            gate, up = layer.gate_up(normed).chunk(2, dim=-1)
            fed = layer.down(self._activate(gate) * up)
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
        logits = self._head(hidden)
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
            cos, sin = angles.cos() * rope.scale, angles.sin() * rope.scale
            # The sign that the rotation gives to the second half stands in the table.
            tables = torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)
            self._tables.append((tables[0].to(self._dtype), tables[1].to(self._dtype)))


def _rotate(x: Tensor, cos: Tensor, signed_sin: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout of transformers (arXiv 2104.09864)."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), signed_sin)
