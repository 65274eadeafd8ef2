"""The forward and backward passes of an update: how large the largest are, and what they keep in memory."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from rlreason.algorithms import logit_bytes
from rlreason.config import RunConfig
from rlreason.memory.shape import ModelShape
from rlreason.policy.blocks import affordable, pays
from rlreason.policy.packing import LEAST_BEGINNING, PassSize, alike, common_beginning


@dataclass(frozen=True)
class Prompts:
    """Tokens of the longest prompt, and of the longest row of examples that a trainer's batch holds.

    `common` is how many those begin with alike of which there are most, 0 where that is not known.
    """

    longest: int
    row: int
    common: int = 0

    @classmethod
    def rendered(
        cls, config: RunConfig, train: Sequence[Sequence[int]], held_out: Sequence[Sequence[int]]
    ) -> "Prompts":
        """The prompts that are learned from and those that are only asked, as tokens."""
        longest = max(map(len, [*train, *held_out]), default=config.prompt.max_tokens)
        most = max(alike(train), key=len, default=[])
        common = common_beginning([train[number] for number in most]) if len(most) > 1 else 0
        return cls(longest, longest + config.rollout.max_new_tokens, common)

    @classmethod
    def of_config(cls, config: RunConfig) -> "Prompts":
        """Upper bounds, before anything is rendered."""
        longest = config.prompt.max_tokens
        return cls(longest, longest + config.rollout.max_new_tokens)


class Pass(NamedTuple):
    """A forward and backward pass: whether completions share rows, rows, their width, tokens in all.

    `groups` is the number of those that are joined behind what their prompts begin with, and `completions`
    that of their completions; 0 where each row is of one group.
    """

    shared: bool
    rows: int
    width: int
    tokens: int
    groups: int = 0
    completions: int = 0


def largest_passes(config: RunConfig, prompts: Prompts, device: torch.device) -> list[Pass]:
    """The largest pass with one completion a row, and that in which a group shares one, if there are.

    As `policy.packing` cuts them. Where two completions of full length do not fit into a row, shorter ones
    may, and both kinds occur. Behind them those in which groups are joined.
    """
    online, limit = config.online, config.rollout.max_new_tokens
    size = PassSize.suited(online.micro_batch_tokens, device)

    def largest(shared: bool, width: int, in_a_row: int) -> Pass:
        in_step = -(-online.learned_size // in_a_row) * online.prompts_per_step // online.minibatches
        # Rows of other lengths come closer to what a pass takes than those of one.
        rows = max(1, min(in_step, -(-size.tokens // width)))
        return Pass(shared, rows, width, max(width, min(size.tokens, in_step * width)))

    shares = online.share_prompt and online.learned_size > 1
    found = []
    if not shares or prompts.longest + 2 * limit > size.row:
        found.append(largest(False, prompts.longest + limit, 1))
    if shares and prompts.longest + 2 <= size.row:
        width = min(size.row, prompts.longest + limit * online.learned_size)
        found.append(largest(True, width, max(1, (width - prompts.longest) // limit)))
    return found + _joined_passes(config, prompts, size)


def _joined_passes(config: RunConfig, prompts: Prompts, size: PassSize) -> list[Pass]:
    """Rows of several groups behind what their prompts begin with, for completions of several lengths.

    Of shorter ones more groups are joined, each of which has its prompt laid out once more.
    """
    online = config.online
    if not online.share_prompt or config.model.attention != "sdpa" or prompts.common < LEAST_BEGINNING:
        return []
    found, length = [], config.rollout.max_new_tokens
    while length >= 1:
        in_a_row = min(online.learned_size, max(1, (size.row - prompts.longest) // length))
        own = prompts.longest - prompts.common + length * in_a_row
        in_step = -(-online.learned_size // in_a_row) * online.prompts_per_step // online.minibatches
        most = min((size.tokens - prompts.common) // own, in_step)

        def fits(groups: int, tokens: int, in_a_row: int = in_a_row, length: int = length) -> bool:
            return affordable(groups * in_a_row, prompts.longest, length, min(size.tokens, tokens))

        # As `packing` joins them: blocks copy as much as those of rows of one group each may.
        groups = next((n for n in range(most, 1, -1) if fits(n, n * (prompts.common + own))), 0)
        if groups:
            width = prompts.common + groups * own
            many = range(min(size.tokens // width, in_step // groups), 1, -1)
            rows = next((n for n in many if fits(n * groups, size.tokens)), 1)
            of_all = rows * groups
            found.append(Pass(True, rows, width, rows * width, of_all, of_all * in_a_row))
        length //= 2
    return found


def activation_bytes(shape: ModelShape, tokens: int, dtype: torch.dtype, *, checkpointing: bool) -> int:
    """What the forward pass of a decoder keeps for the backward pass, its head aside.

    H hidden, Q queries of all heads, I feed-forward width. Of a token and layer, in float32: input,
    normalised input and product of each of two norms (6 H); queries, keys, values and output of attention,
    keys and values repeated for all heads (4 Q); gate, activation, up and their product (4 I). Under autocast
    the norms stay float32 (4 H), and every product keeps its own input in half precision (5 H + 4 Q + 4 I).
    """
    hidden, queries = shape.hidden, shape.heads * shape.head_dim
    if dtype == torch.float32:
        layer = 4 * (6 * hidden + 4 * queries + 4 * shape.intermediate)
    else:
        layer = 4 * 4 * hidden + 2 * (5 * hidden + 4 * queries + 4 * shape.intermediate)
    kept = tokens * (4 * hidden * shape.layers + layer if checkpointing else layer * shape.layers)
    # Autocast keeps the weights it has converted until the backward pass is over.
    return kept + (0 if dtype == torch.float32 else 2 * shape.body)


def pass_bytes(config: RunConfig, shape: ModelShape, one: Pass, prompts: Prompts, dtype: torch.dtype) -> int:
    """What such a pass keeps for the backward pass, its head aside."""
    kept = activation_bytes(shape, one.tokens, dtype, checkpointing=config.model.gradient_checkpointing)
    return kept + (shared_bytes(config, shape, one, prompts, dtype) if one.shared else 0)


def shared_bytes(
    config: RunConfig, shape: ModelShape, one: Pass, prompts: Prompts, dtype: torch.dtype
) -> int:
    """What attention keeps besides, where rows share a prompt.

    In blocks: queries, keys, values and results of prompts and completions as they are laid out there, their
    results in the rows' order, and one mask for all layers. Under a mask over rows each layer keeps its own
    copy of it. C completions of T tokens, G prompts of P.
    """
    limit, repeated = config.rollout.max_new_tokens, shape.heads // shape.kv_heads
    if one.groups:
        prompt_count, count = one.groups, one.completions
        of_prompts = one.rows * prompts.common + one.groups * (prompts.longest - prompts.common)
        limit = (one.tokens - of_prompts) // count
    else:
        several = max(2, (one.width - prompts.longest) // limit)
        limit = min(limit, -(-(one.width - prompts.longest) // several))
        prompt_count, count = one.rows, several * one.rows
        in_blocks = pays([prompts.longest] * one.rows, [limit] * count, rows=one.rows, width=one.width)
        if config.model.attention != "sdpa" or not in_blocks:
            return shape.layers * one.rows * one.width * one.width * dtype.itemsize
    length, queries = prompts.longest + limit, shape.heads * shape.head_dim
    keys = 2 * shape.kv_heads * shape.head_dim * count * length
    laid_out = queries * (4 * prompt_count * prompts.longest + 2 * count * limit)
    # Queries, repeated keys and values, and results of the rows' own tokens are counted already.
    more = queries * one.tokens + max(0, laid_out + keys - 4 * queries * one.tokens)
    layers = 1 if config.model.gradient_checkpointing else shape.layers
    return dtype.itemsize * (layers * more + count * repeated * limit * length)


def head_bytes(shape: ModelShape, tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """Logits of a chunk, and the gradient of the head before it is added to that of the weights."""
    logits = logit_bytes(tokens, shape.vocabulary, dtype, device)
    return logits + (4 * shape.embedding if shape.trainable > shape.parameters // 2 else 0)
