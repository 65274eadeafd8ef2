"""The loss of labelled examples: what they begin with once, and the head on labelled tokens only.

The rows of a batch of the cold start begin with the same system prompt, and most of their tokens carry no
loss. They are laid out as a prompt and its completions are (`packing`): what all begin with is the prompt.

Shapes: B examples, N tokens.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlreason.policy.adapter import causal_lm_of
from rlreason.policy.blocks import takes_blocks
from rlreason.policy.forward import CompletionLogprobs, probe_forward
from rlreason.policy.model import Policy, drops
from rlreason.policy.packing import (
    SHARED_ROW,
    Completion,
    Packed,
    PassSize,
    Sharing,
    common_beginning,
    pack,
    plan_rows,
)

IGNORED = -100
"""The label of a token without loss, as in transformers."""

# A beginning is shared where that saves at least this part of the tokens: attention over a row of many
# examples costs more than over each.
_WORTH = 0.25


class ExampleLoss:
    """Sums `-log p(token)` over the labelled tokens of a batch, in nats, with gradient.

    It goes through the modules of the policy's model, not through what wraps that for several processes.
    Runs a few short forward passes to find out what the model allows; `notes` says what it does not. With
    dropout nothing is shared, so that each example has zeros of its own; nor by a model that cannot do
    without a mask over the row.
    """

    def __init__(self, policy: Policy) -> None:
        self._forward = CompletionLogprobs(policy)
        self._pad_id = policy.pad_id
        self.notes = probe_forward(policy, self._forward)
        self._share = shares(policy.model)

    def __call__(self, ids_BN: Tensor, labels_BN: Tensor, valid_BN: Tensor) -> Tensor:
        """A scalar. `valid_BN` is 1 on tokens and 0 on the padding behind them; labels are not shifted.

        A label of -100 is no loss. That of a row's first token is none either, as nothing predicts it.
        """
        lengths = valid_BN.sum(-1).tolist()
        rows = [row[:length] for row, length in zip(ids_BN.tolist(), lengths, strict=True)]
        labels = [row[:length] for row, length in zip(labels_BN.tolist(), lengths, strict=True)]
        packed = pack_examples(rows, labels, share=self._share, pad_id=self._pad_id)
        logprobs_CT, _ = self._forward(packed.to(ids_BN.device), 1.0)
        return -logprobs_CT.sum()


def shares(model: Any) -> bool:
    """Whether examples of this model, which was probed, may be laid out in one row."""
    return takes_blocks(causal_lm_of(model)) and not drops(model)


def pack_examples(
    rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]], *, share: bool, pad_id: int
) -> Packed:
    """One micro-batch of examples of at least two tokens each; its mask is 1 on labelled tokens.

    With `share`, what all begin with before the first label is laid out once for as many as fit into a row,
    if that saves a quarter of the tokens or more.
    """
    starts = [_first_label(row) for row in labels]
    common = min(common_beginning(rows), *starts) if share else 0
    saved = common * (len(rows) - 1)
    shared = len(rows) > 1 and saved >= _WORTH * sum(map(len, rows))
    if shared:
        starts = [common] * len(rows)
    sequences = [
        Completion(0 if shared else number, row[:start], row[start:])
        for number, (row, start) in enumerate(zip(rows, starts, strict=True))
    ]
    size = PassSize(sys.maxsize, _even_width(sequences) if shared else sys.maxsize)
    (packed,) = pack(sequences, share=Sharing.PROMPT if shared else Sharing.NOTHING, size=size, pad_id=pad_id)
    mask_CT = torch.zeros_like(packed.mask_CT)
    for place, index in enumerate(packed.order):
        own = torch.tensor(labels[index][starts[index] :])
        mask_CT[place, : len(own)] = (own != IGNORED).float()
    return packed.with_mask(mask_CT)


def tokens_computed(rows: Sequence[dict[str, Any]], batch_size: int, *, share: bool) -> int:
    """Tokens of one pass over rows of `input_ids` and `completion_mask` in batches, padding included."""
    count = 0
    for start in range(0, len(rows), batch_size):
        ids = [row["input_ids"] for row in rows[start : start + batch_size]]
        masks = [row["completion_mask"] for row in rows[start : start + batch_size]]
        labels = [
            [token if kept else IGNORED for token, kept in zip(*pair, strict=True)]
            for pair in zip(ids, masks, strict=True)
        ]
        count += pack_examples(ids, labels, share=share, pad_id=0).ids_NW.numel()
    return count


def _first_label(labels: Sequence[int]) -> int:
    """Where the first token with loss stands, 1 or more; the last token of a row without any."""
    places = (place for place, label in enumerate(labels) if place and label != IGNORED)
    return next(places, len(labels) - 1)


def _even_width(sequences: Sequence[Completion]) -> int:
    """About the least width at which no more rows are needed than at the greatest, for less padding."""
    prompt, lengths = len(sequences[0].prompt_ids), [len(one.completion_ids) for one in sequences]

    def rows(width: int) -> int:
        return len(plan_rows(sequences, share=Sharing.PROMPT, width=width))

    fewest = rows(SHARED_ROW)
    width = prompt + max(max(lengths), -(-sum(lengths) // fewest))
    while rows(width) > fewest:
        width += 16
    return min(width, SHARED_ROW)
