"""What a decoding step spends its time on: products with fixed weights, and attention over a cache.

Shapes: S slots, H query heads, K key-value heads, R = H / K, D head size, T cache positions, L layers, N
positions of one slot; in `scores` and `mix` B slots of R queries for each key-value head.
"""

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

# The number of rows that oneDNN lays weights out for. Products with any other number are right as well.
_ROWS = 64


class Linear:
    """`x W^T + b` for a fixed W, (out, in).

    On a processor the weight is laid out once as oneDNN multiplies it, which `F.linear` does in every call.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self._bias = bias
        self._packed = weight.device.type == "cpu" and _packs(weight.dtype)
        self._weight = _pack(weight) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        if self._packed:
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
            return product
        return F.linear(x, self._weight, self._bias)


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
    return packed


@cache
def _packs(dtype: torch.dtype) -> bool:
    """Whether this build of torch has these operators, which are not public, and they compute a product."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(rows, 64, generator=generator).to(dtype) for rows in (3, 96))
    try:
        product = torch.ops.mkldnn._linear_pointwise(x, _pack(weight), None, "none", [], "")
    except (AttributeError, RuntimeError):  # no such operator, or none for this dtype or processor
        return False
    return torch.allclose(product.float(), F.linear(x.float(), weight.float()), rtol=1e-2, atol=0.1)


def room(longest: int, block: int) -> int:
    """The positions of a cache for `longest`: a sixteenth more, in whole blocks."""
    return -(-(longest + longest // 16) // block) * block


class Cache:
    """Keys and values of S slots in every layer, with room for T positions, a multiple of `block`.

    With `columns` keys are kept as (S, K, D, T), and attention is two batched products over whole tensors.
    On a processor that takes half the time of its fused kernel, which is made for many queries a sequence.
    `like` gives dtype and device.
    """

    def __init__(
        self,
        *,
        layers: int,
        slots: int,
        kv_heads: int,
        head_dim: int,
        like: Tensor,
        columns: bool,
        block: int,
    ) -> None:
        self._columns = columns
        self._like = like
        self._block = block
        self._shape = (slots, kv_heads, head_dim)
        self.positions = 0
        self._keys = [self._room(0, keys=True) for _ in range(layers)]
        self._values = [self._room(0) for _ in range(layers)]

    @property
    def kv_heads(self) -> int:
        return self._shape[1]

    def _room(self, positions: int, *, keys: bool = False) -> Tensor:
        slots, heads, width = self._shape
        shape = (
            (slots, heads, width, positions) if keys and self._columns else (slots, heads, positions, width)
        )
        # Zeros, because a masked position still meets its value, and 0 times an uninitialised NaN is NaN.
        return self._like.new_zeros(shape)

    def has_room(self, longest: int) -> bool:
        """Whether there is room for `longest` positions, and not for twice as many as that needs."""
        return longest <= self.positions < 2 * room(longest, self._block)

    def reserve(self, longest: int, slots: int = 0) -> None:
        """Have that room and so many slots; where one was not there, what is held moves to new storage."""
        before, heads, width = self._shape
        if slots <= before and self.has_room(longest):
            return
        if slots > before:
            self._shape = (slots, heads, width)
        wanted = self.positions if self.has_room(longest) else room(longest, self._block)
        kept = min(self.positions, wanted)
        for layer in range(len(self._keys)):
            # Layer by layer, so that the old and the new cache never stand side by side.
            keys, values = self._room(wanted, keys=True), self._room(wanted)
            axis = -1 if self._columns else -2
            keys[:before].narrow(axis, 0, kept).copy_(self._keys[layer].narrow(axis, 0, kept))
            values[:before, :, :kept] = self._values[layer][:, :, :kept]
            self._keys[layer], self._values[layer] = keys, values
        self.positions = wanted

    def fill(self, slots: slice, keys_LKND: Tensor, values_LKND: Tensor, *, end: int) -> None:
        """Put the same N positions, up to `end`, into each of `slots`, whose room is reserved."""
        places = slice(end - keys_LKND.shape[2], end)
        for layer, (keys, values) in enumerate(zip(keys_LKND, values_LKND, strict=True)):
            if self._columns:
                # Turned once and not for each slot: in half the time.
                self._keys[layer][slots, :, :, places] = keys.transpose(-1, -2).contiguous()
            else:
                self._keys[layer][slots, :, places] = keys
            self._values[layer][slots, :, places] = values

    def move(self, sources: Tensor, targets: Tensor) -> None:
        """Copy what is in some slots to others."""
        for part in (*self._keys, *self._values):
            part[targets] = part[sources]

    def put_behind(
        self, other: "Cache", sources_S: Sequence[int], lengths_S: Sequence[int], counts_S: Sequence[int]
    ) -> None:
        """Put what so many slots hold behind a copy of what a slot of another cache holds for each.

        For each slot `lengths_S` positions of the other come first, then `counts_S` of its own. The other
        cache is used up, and slots beyond them are given up.
        """
        _, heads, width = self._shape
        self._shape = (len(sources_S), heads, width)
        moves = list(zip(sources_S, lengths_S, counts_S, strict=True))
        self.positions = room(max(length + count for _, length, count in moves), self._block)
        # Layer by layer, as in `reserve`, and each layer of the other is freed with it.
        for layer in range(len(self._keys)):
            for parts, others, axis in (
                (self._keys, other._keys, -1 if self._columns else -2),
                (self._values, other._values, -2),
            ):
                fresh = self._room(self.positions, keys=parts is self._keys)
                for slot, (source, length, count) in enumerate(moves):
                    in_front = others[layer][source].narrow(axis, 0, length)
                    fresh[slot].narrow(axis, 0, length).copy_(in_front)
                    own = parts[layer][slot].narrow(axis, 0, count)
                    fresh[slot].narrow(axis, length, count).copy_(own)
                parts[layer], others[layer] = fresh, fresh.new_empty(0)

    def append(
        self, layer: int, rows_S: Tensor, places_S: Tensor, key_SKD: Tensor, value_SKD: Tensor
    ) -> None:
        """Write each slot's next position."""
        if self._columns:
            self._keys[layer][rows_S, :, :, places_S] = key_SKD
        else:
            self._keys[layer][rows_S, :, places_S] = key_SKD
        self._values[layer][rows_S, :, places_S] = value_SKD

    def attend(self, layer: int, query_SHD: Tensor, mask_S11T: Tensor, scale: float) -> Tensor:
        """Attention of one query a head over the first S slots, (S, H, D).

        The R query heads of a key-value head take the place of query positions: keys are not repeated.
        """
        slots, heads, width = query_SHD.shape
        kv_heads = self._shape[1]
        if not self._columns:
            keys, values = self._keys[layer][:slots], self._values[layer][:slots]
            grouped = query_SHD.reshape(slots, kv_heads, -1, width)
            out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask_S11T, scale=scale)
            return out.reshape(slots, heads, width)
        scores = self.scores(layer, (query_SHD * scale).view(slots, kv_heads, -1, width))
        return self.mix(layer, torch.softmax(scores.add_(mask_S11T), -1)).reshape(slots, heads, width)

    def scores(self, layer: int, query_BKRD: Tensor) -> Tensor:
        """The product of queries with each key of the first B slots, (B, K, R, T). Needs `columns`."""
        batch, kv_heads, rows, _ = query_BKRD.shape
        keys = self._keys[layer][:batch]
        return torch.bmm(query_BKRD.flatten(0, 1), keys.flatten(0, 1)).view(batch, kv_heads, rows, -1)

    def mix(self, layer: int, weights_BKRT: Tensor) -> Tensor:
        """The sum of the values of the first B slots, weighted, (B, K, R, D)."""
        batch, kv_heads, rows, _ = weights_BKRT.shape
        values = self._values[layer][:batch]
        return torch.bmm(weights_BKRT.flatten(0, 1), values.flatten(0, 1)).view(batch, kv_heads, rows, -1)
