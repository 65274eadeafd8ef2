"""Attention in rows of prompts and several completions of each, or of documents, without unseen pairs.

In such a row a completion sees its prompt and itself. Under a mask over the row, attention costs the square
of its length, most of it for pairs of tokens of different completions. Here each completion is a sequence of
its own, whose keys and values are those of the prompt and its own. So is each prompt: where several begin
with the same tokens of a row, attention alone computes those for each.

Shapes: N rows, W row width, G prompts, P prompt tokens, C completions, T completion tokens, L = P + T, H
query heads, K key-value heads, R = H / K, D head size. All lengths are those of the longest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlreason.policy.transfer import to_device

NAME = "rlreason_blocks"
"""The name of this attention among those of transformers."""

# Keys and values in blocks are at most so many times those of the rows, which bounds their memory; and the
# pairs of tokens at most this share of those under a mask, so that gathering them is paid for; but rows of
# several groups would be too long for a mask in any case.
_MOST_COPIES, _MOST_PAIRS = 3.0, 0.7

MOST_PADDED = 1.5
"""Documents, all padded to the longest, are at most so many times the tokens of their rows."""

# What some models do to their scores; they keep the mask, as do those that pass tensors we know nothing of.
_NOT_HERE = ("sliding_window", "softcap", "s_aux", "position_bias", "indices", "block_indices")
_KNOWN_TENSORS = ("position_ids", "cache_position", "num_items_in_batch")


@dataclass(frozen=True)
class Blocks:
    """Where prompts and completions lie in packed rows; or documents alone, as prompts of no completions.

    Places count along the flattened rows; behind the end of a shorter one they are 0. `group_C` is the number
    of each completion's prompt. `origin_NW` says for each place of the rows where its result lies among those
    of all prompts and then all completions; `seen_C1TL` is true where a completion's token sees one of its
    prompt and completion.
    """

    prompt_GP: Tensor
    own_CT: Tensor
    group_C: Tensor
    origin_NW: Tensor
    seen_C1TL: Tensor
    _masks: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict, kw_only=True)

    def to(self, device: torch.device) -> "Blocks":
        parts = (self.prompt_GP, self.own_CT, self.group_C, self.origin_NW, self.seen_C1TL)
        return Blocks(*(to_device(part, device) for part in parts))

    @property
    def unread_mask(self) -> Tensor:
        """What a model is given as its mask, (N, 1, 1, W): of four dimensions, so that none is made of it."""
        rows, width = self.origin_NW.shape
        return torch.ones((rows, 1, 1, width), dtype=torch.bool, device=self.origin_NW.device)

    def mask(self, repeated: int, dtype: torch.dtype) -> Tensor:
        """0 and -inf for `seen_C1TL`, for R heads behind each other: (C, 1, R T, L).

        One tensor for all layers. Of a boolean mask each would make such a one and keep it for its gradient.
        """
        key = repeated, dtype
        if key not in self._masks:
            count, _, tokens, length = self.seen_C1TL.shape
            # Kernels of CUDA copy a mask whose rows do not begin at a multiple of 16 numbers.
            shape = (count, 1, repeated, tokens, -(-length // 16) * 16)
            mask = torch.zeros(shape, dtype=dtype, device=self.seen_C1TL.device)
            mask[..., :length].masked_fill_(~self.seen_C1TL.unsqueeze(2), -math.inf)
            self._masks[key] = mask.flatten(2, 3)[..., :length]
        return self._masks[key]


def affordable(completions: int, longest_prompt: int, longest: int, tokens: int) -> bool:
    """Whether so many completions copy few enough keys, in blocks, for rows of so many tokens in all.

    A long prompt is copied to each of its completions, and all are padded to the longest.
    """
    return completions * (longest_prompt + longest) <= _MOST_COPIES * tokens


def pays(prompts: Sequence[int], completions: Sequence[int], *, rows: int, width: int) -> bool:
    """Whether blocks of these lengths cost less than a mask over so many rows of that width."""
    count, longest_prompt, longest = len(completions), max(prompts), max(completions)
    pairs = len(prompts) * longest_prompt**2 + longest * count * (longest_prompt + longest)
    few = affordable(count, longest_prompt, longest, rows * width)
    return few and pairs <= _MOST_PAIRS * rows * width**2


def documents_pay(documents: Sequence[int], *, rows: int, width: int) -> bool:
    """Whether documents of these lengths, each by itself, cost less than a mask over their rows."""
    padded = len(documents) * max(documents)
    return padded <= MOST_PADDED * rows * width and padded * max(documents) <= _MOST_PAIRS * rows * width**2


def lay_out(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    groups: Sequence[int],
    *,
    rows: int,
    width: int,
) -> Blocks:
    """The blocks of rows in which these are the places of each prompt and of each completion.

    `groups` holds the number of each completion's prompt.
    """
    group_C = torch.tensor(groups, dtype=torch.long)
    of_prompts = [torch.tensor(places) for places in prompts]
    of_own = [torch.tensor(places) for places in completions]
    prompt = pad_sequence(of_prompts, batch_first=True)
    own = pad_sequence(of_own, batch_first=True) if of_own else torch.zeros((0, 0), dtype=torch.long)
    (count, longest_prompt), longest = prompt.shape, own.shape[1]
    starts = [number * longest_prompt for number in range(count)]
    starts += [count * longest_prompt + slot * longest for slot in range(len(completions))]
    origin = torch.zeros(rows * width, dtype=torch.long)
    # Of several results of a token the first prompt's is taken: it is written last.
    for start, places in reversed(list(zip(starts, of_prompts + of_own, strict=True))):
        origin[places] = start + torch.arange(len(places))
    length_G = torch.tensor([len(places) for places in prompts])
    of_prompt_C1P = torch.arange(longest_prompt) < length_G[group_C, None, None]
    causal_TT = torch.ones((longest, longest), dtype=torch.bool).tril()
    seen_CTL = torch.cat([of_prompt_C1P.expand(-1, longest, -1), causal_TT.expand(len(own), -1, -1)], dim=-1)
    return Blocks(prompt, own, group_C, origin.view(rows, width), seen_CTL.unsqueeze(1))


def block_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    blocks: Blocks | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: queries (N, H, W, D), keys and values (N, K, W, D) -> (N, W, H, D).

    Without `blocks` it is transformers' `sdpa`. With them the mask is not looked at. Raises
    NotImplementedError for what these kernels cannot add.
    """
    if blocks is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **rest
        )
    rows, heads, width, _ = query.shape
    _refuse_what_differs(blocks, query, key, value, attention_mask, rest)
    repeated = heads // key.shape[1]
    # Rotary embeddings are float32 also under autocast, and gathering that is twice the work.
    query, key, value = (part.to(_computed_in(query)) for part in (query, key, value))
    options: dict[str, Any] = {"scale": scaling, "dropout_p": dropout}
    flat_query, flat_key, flat_value = (part.transpose(1, 2).flatten(0, 1) for part in (query, key, value))

    prompt_key, prompt_value = (_take(flat, blocks.prompt_GP) for flat in (flat_key, flat_value))
    results = [
        F.scaled_dot_product_attention(
            _take(flat_query, blocks.prompt_GP).transpose(1, 2),
            repeat_kv(prompt_key.transpose(1, 2), repeated),
            repeat_kv(prompt_value.transpose(1, 2), repeated),
            is_causal=True,
            **options,
        )
    ]
    if len(blocks.own_CT):
        seen_key, seen_value = (
            torch.cat([prompt.index_select(0, blocks.group_C), _take(flat, blocks.own_CT)], 1).transpose(1, 2)
            for prompt, flat in ((prompt_key, flat_key), (prompt_value, flat_value))
        )
        # The R query heads of a key-value head stand behind each other, as if they were more tokens.
        own = _take(flat_query, blocks.own_CT).unflatten(2, (-1, repeated)).permute(0, 2, 3, 1, 4)
        of_completions = F.scaled_dot_product_attention(
            own.flatten(2, 3),
            seen_key,
            seen_value,
            attn_mask=blocks.mask(repeated, query.dtype),
            **options,
        )
        results.append(of_completions.unflatten(2, (repeated, -1)).flatten(1, 2))
    flat = torch.cat([of.transpose(1, 2).flatten(0, 1) for of in results])  # (G P + C T, H, D)
    return flat.index_select(0, blocks.origin_NW.flatten()).view(rows, width, heads, -1), None


def _take(flat: Tensor, places: Tensor) -> Tensor:
    """(rows * W, heads, D) -> (a, b, heads, D) for places (a, b)."""
    return flat.index_select(0, places.flatten()).unflatten(0, places.shape)


def _computed_in(query: Tensor) -> torch.dtype:
    """What the kernel gets: under autocast its precision, whatever the tensors' own."""
    device = query.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype


def _refuse_what_differs(
    blocks: Blocks, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, rest: dict[str, Any]
) -> None:
    """Raise NotImplementedError for a layer that asks for more than causal attention of these rows."""
    rows, width = blocks.origin_NW.shape
    wanted = [name for name in _NOT_HERE if rest.get(name) is not None]
    wanted += [name for name, part in rest.items() if torch.is_tensor(part) and name not in _KNOWN_TENSORS]
    if mask is None or mask.shape != (rows, 1, 1, width) or mask.dtype != torch.bool:
        wanted.append("a mask of its own")
    if rest.get("is_causal") is False:
        wanted.append("attention that is not causal")
    if any((part.shape[0], part.shape[2]) != (rows, width) for part in (query, key, value)):
        wanted.append("keys of other tokens")
    if wanted:
        raise NotImplementedError(f"attention in blocks is without: {', '.join(wanted)}")


def switch(causal_lm: Any, *, on: bool) -> None:
    """Let a model whose attention is `sdpa` take blocks, or make it `sdpa` again."""
    causal_lm.set_attn_implementation(NAME if on else "sdpa")


def takes_blocks(model: Any) -> bool:
    return bool(model.config.get_text_config()._attn_implementation == NAME)


AttentionInterface.register(NAME, block_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
