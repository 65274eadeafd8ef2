"""The native engine: batched decoding of Llama-shaped models with a preallocated cache.

Each prompt is computed once, however many completions it gets; its keys and values are copied into the
slot of every completion. A finished completion leaves its slot at once and the next one enters, so that no
step is spent on padding.

Shapes: S slots, H query heads, K key-value heads, R = H / K, D head size, T cache positions, L layers.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreason.policy.adapter import causal_lm_of, effective_weight
from rlreason.rollout.engine import Request, Sampling
from rlreason.rollout.sampler import sample_tokens
from rlreason.types import FinishReason, Rollout

_ARCHITECTURES = {"LlamaForCausalLM", "Qwen2ForCausalLM", "MistralForCausalLM"}

_Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Layer number, queries, keys and values of the new tokens -> attention's output, like the queries."""


def unsupported(model: Any) -> str | None:
    """Return why `model` has no native path, or None if it has one."""
    config = model.config
    name = type(model).__name__
    if name not in _ARCHITECTURES:
        return f"{name} has no native path"
    if getattr(config, "hidden_act", "silu") != "silu":
        return f"hidden_act {config.hidden_act!r}"
    if getattr(config, "mlp_bias", False):
        return "biases in its feed-forward layers"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") not in ("default", "llama3"):
        return f"rope_type {rope.get('rope_type')!r}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "sliding-window attention"
    return None


@dataclass
class _Layer:
    """The weights of one decoder layer in the sampler's precision, fused where they share their input."""

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass
class _Row:
    """One completion while it is being written."""

    request: int
    index: int
    prompt_ids: list[int]
    uniforms: list[float]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"


class NativeEngine:
    """Sample from a Llama-shaped transformers model, with weights copied into `dtype`.

    `model` is the plain causal LM, or a peft model whose adapter is folded into the copy at each refresh.
    """

    name = "native"

    def __init__(self, model: Any, *, eos_ids: Iterable[int], max_sequences: int, dtype: torch.dtype) -> None:
        causal_lm = causal_lm_of(model)
        reason = unsupported(causal_lm)
        if reason is not None:
            raise ValueError(f"the native engine cannot run this model ({reason}); use engine: transformers")
        config = causal_lm.config
        self._model = model
        self._eos_ids = frozenset(eos_ids)
        self._max_sequences = max_sequences
        self._dtype = dtype
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = getattr(config, "num_key_value_heads", None) or self._heads
        self._head_dim: int = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._eps: float = config.rms_norm_eps
        self._rotary = causal_lm.model.rotary_emb
        self.device = next(causal_lm.parameters()).device
        self.refresh()

    # ------------------------------------------------------------------ weights

    @torch.no_grad()
    def refresh(self) -> None:
        causal_lm = causal_lm_of(self._model)
        embedding = effective_weight(causal_lm.model.embed_tokens)
        head = effective_weight(causal_lm.lm_head)
        self._embedding = self._copy(embedding)
        self._head = self._embedding if head.data_ptr() == embedding.data_ptr() else self._copy(head)
        self._final_norm = self._copy(causal_lm.model.norm.weight)
        self._layers = [self._copy_layer(layer) for layer in causal_lm.model.layers]

    def _copy(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self._dtype)

    def _copy_layer(self, layer: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        biases = [projection.bias for projection in projections]
        fused_bias = None if biases[0] is None else torch.cat([self._copy(bias) for bias in biases])
        output_bias = attention.o_proj.bias
        return _Layer(
            attention_norm=self._copy(layer.input_layernorm.weight),
            qkv=torch.cat([self._copy(effective_weight(projection)) for projection in projections]),
            qkv_bias=fused_bias,
            output=self._copy(effective_weight(attention.o_proj)),
            output_bias=None if output_bias is None else self._copy(output_bias),
            mlp_norm=self._copy(layer.post_attention_layernorm.weight),
            gate_up=torch.cat([self._copy(effective_weight(p)) for p in (mlp.gate_proj, mlp.up_proj)]),
            down=self._copy(effective_weight(mlp.down_proj)),
        )

    # ------------------------------------------------------------------ the token loop

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request], sampling: Sampling) -> list[list[Rollout]]:
        """Sample every request; see `Engine.generate`. Raises ValueError on an empty prompt."""
        if any(not request.prompt_ids for request in requests):
            raise ValueError("a prompt without tokens cannot be sampled")
        waiting = deque(_rows(requests, sampling.max_new_tokens))
        done: list[list[Rollout | None]] = [[None] * len(request.seeds) for request in requests]
        slots = min(self._max_sequences, len(waiting))
        if slots == 0:
            return [[] for _ in requests]
        positions = max(len(request.prompt_ids) for request in requests) + sampling.max_new_tokens
        batch = _Batch(self, slots, positions)
        while True:
            batch.admit(waiting)
            if not batch.rows:
                break
            for row in batch.step(sampling, self._eos_ids):
                done[row.request][row.index] = Rollout(
                    row.prompt_ids, row.ids, row.logprobs, row.finish_reason
                )
        return [[rollout for rollout in group if rollout is not None] for group in done]

    # ------------------------------------------------------------------ the forward pass

    def prefill(self, ids: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute one prompt: `(keys_LKTD, values_LKTD, logits_V)` of its last token."""
        tokens = torch.tensor([ids], device=self.device)
        cos, sin = self._angles(torch.arange(len(ids), device=self.device).unsqueeze(0))
        keys, values = [], []

        def attend(_: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys.append(key[0])
            values.append(value[0])
            return F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)

        hidden = self._forward(tokens, cos, sin, attend)
        return torch.stack(keys), torch.stack(values), hidden[0, -1] @ self._head.T

    def decode(
        self, tokens_S: Tensor, lengths_S: Tensor, keys_LSKTD: Tensor, values_LSKTD: Tensor, longest: int
    ) -> Tensor:
        """Append one token a slot to the cache and return the next logits_SV.

        `lengths_S` counts the positions in use before the call; `longest` is its maximum, known to the
        host, plus 1.
        """
        slots = len(tokens_S)
        rows = torch.arange(slots, device=self.device)
        cos, sin = self._angles(lengths_S.unsqueeze(1))
        seen_ST = torch.arange(longest, device=self.device) <= lengths_S.unsqueeze(1)
        mask = torch.zeros(seen_ST.shape, dtype=self._dtype, device=self.device)
        mask = mask.masked_fill_(~seen_ST, -math.inf)[:, None, None, :]

        def attend(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            keys, values = keys_LSKTD[layer], values_LSKTD[layer]
            keys[rows, :, lengths_S] = key[:, :, 0]
            values[rows, :, lengths_S] = value[:, :, 0]
            # The R query heads of a key-value head take the place of query positions: keys are not repeated.
            grouped = query.view(slots, self._kv_heads, -1, self._head_dim)
            out = F.scaled_dot_product_attention(
                grouped, keys[:, :, :longest], values[:, :, :longest], attn_mask=mask
            )
            return out.view(slots, self._heads, 1, self._head_dim)

        hidden = self._forward(tokens_S.unsqueeze(1), cos, sin, attend)
        return hidden[:, 0] @ self._head.T

    def _forward(self, tokens: Tensor, cos: Tensor, sin: Tensor, attend: _Attend) -> Tensor:
        hidden = F.embedding(tokens, self._embedding)
        batch, length, _ = hidden.shape
        split = [self._heads, self._kv_heads, self._kv_heads]
        for index, layer in enumerate(self._layers):
            qkv = F.linear(self._norm(hidden, layer.attention_norm), layer.qkv, layer.qkv_bias)
            heads = qkv.view(batch, length, -1, self._head_dim).transpose(1, 2)
            query, key, value = heads.split(split, dim=1)
            mixed = attend(index, _rotate(query, cos, sin), _rotate(key, cos, sin), value)
            mixed = mixed.transpose(1, 2).reshape(batch, length, -1)
            hidden = hidden + F.linear(mixed, layer.output, layer.output_bias)
            gate, up = F.linear(self._norm(hidden, layer.mlp_norm), layer.gate_up).chunk(2, dim=-1)
            hidden = hidden + F.linear(F.silu(gate) * up, layer.down)
        return self._norm(hidden, self._final_norm)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(hidden, (hidden.shape[-1],), weight, self._eps)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = self._rotary(self._embedding[:1], positions)
        return cos.unsqueeze(1).to(self._dtype), sin.unsqueeze(1).to(self._dtype)


class _Batch:
    """The slots that decode together: their cache, their last logits and their rows."""

    def __init__(self, engine: NativeEngine, slots: int, positions: int) -> None:
        self._engine = engine
        shape = (len(engine._layers), slots, engine._kv_heads, positions, engine._head_dim)
        self._keys = torch.empty(shape, dtype=engine._dtype, device=engine.device)
        # Zeros, because a masked position still meets its value, and 0 times an uninitialised NaN is NaN.
        self._values = torch.zeros_like(self._keys)
        self._keys.zero_()
        self._capacity = slots
        self._lengths = torch.zeros(0, dtype=torch.long, device=engine.device)
        self._logits = torch.empty(0, device=engine.device)
        self._prefilled: tuple[list[int], tuple[Tensor, Tensor, Tensor]] | None = None
        self.rows: list[_Row] = []

    def admit(self, waiting: deque[_Row]) -> None:
        """Fill free slots with waiting rows, computing each prompt once."""
        lengths, logits = [], []
        while waiting and len(self.rows) < self._capacity:
            row = waiting.popleft()
            if self._prefilled is None or self._prefilled[0] is not row.prompt_ids:
                self._prefilled = (row.prompt_ids, self._engine.prefill(row.prompt_ids))
            keys, values, last = self._prefilled[1]
            slot, length = len(self.rows), len(row.prompt_ids)
            self._keys[:, slot, :, :length] = keys
            self._values[:, slot, :, :length] = values
            self.rows.append(row)
            lengths.append(length)
            logits.append(last)
        if lengths:
            added = torch.tensor(lengths, device=self._engine.device)
            self._lengths = torch.cat([self._lengths, added])
            fresh = torch.stack(logits)
            self._logits = torch.cat([self._logits, fresh]) if len(self._logits) else fresh

    def step(self, sampling: Sampling, eos_ids: frozenset[int]) -> list[_Row]:
        """Draw one token a row; drop and return the rows that are finished; compute the next logits."""
        uniforms = torch.tensor([row.uniforms[len(row.ids)] for row in self.rows], device=self._engine.device)
        tokens_S, logprobs_S = sample_tokens(self._logits, uniforms, sampling)
        keep, finished = [], []
        for slot, (row, token, logprob) in enumerate(
            zip(self.rows, tokens_S.tolist(), logprobs_S.tolist(), strict=True)
        ):
            row.ids.append(token)
            row.logprobs.append(logprob)
            if token in eos_ids:
                row.finish_reason = "stop"
            if token in eos_ids or len(row.ids) == sampling.max_new_tokens:
                finished.append(row)
            else:
                keep.append(slot)
        if finished:
            tokens_S = self._drop(keep, tokens_S)
        if self.rows:
            slots = len(self.rows)
            longest = max(len(row.prompt_ids) + len(row.ids) for row in self.rows)
            self._logits = self._engine.decode(
                tokens_S, self._lengths, self._keys[:, :slots], self._values[:, :slots], longest
            )
            self._lengths = self._lengths + 1
        return finished

    def _drop(self, keep: list[int], tokens_S: Tensor) -> Tensor:
        """Move rows from the end into the holes that finished rows leave; copy no more than that."""
        survivors = len(keep)
        holes = sorted(set(range(survivors)) - set(keep))
        movers = [slot for slot in keep if slot >= survivors]
        order = list(range(survivors))
        for hole, mover in zip(holes, movers, strict=True):
            self._keys[:, hole] = self._keys[:, mover]
            self._values[:, hole] = self._values[:, mover]
            order[hole] = mover
        self.rows = [self.rows[slot] for slot in order]
        index = torch.tensor(order, dtype=torch.long, device=self._engine.device)
        self._lengths = self._lengths[index]
        self._logits = self._logits[index]
        return tokens_S[index]


def _rows(requests: Sequence[Request], max_new_tokens: int) -> Iterable[_Row]:
    for number, request in enumerate(requests):
        for index, seed in enumerate(request.seeds):
            generator = torch.Generator().manual_seed(seed)
            uniforms = torch.rand(max_new_tokens, generator=generator, dtype=torch.float32).tolist()
            yield _Row(number, index, request.prompt_ids, uniforms)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding in the half-split layout of transformers (arXiv 2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
