"""Rows for the forward pass: a prompt once, then as many of its completions as fit.

A row is `prompt, completion 1, completion 2, ...`. Every completion sees the prompt and itself, through a
mask or in blocks, and counts its positions on from the prompt's end, so each is computed as if it stood
alone. With one completion a row this is the plain layout.

Shapes: N rows, W row width, C completions, T completion tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlreason.policy.blocks import Blocks, lay_out, pays


@dataclass(frozen=True)
class Packed:
    """One micro-batch. `source_CT` indexes the flattened rows: the predictor of each token in `targets_CT`.

    `mask_CT` is 1 on completion tokens, or on those of them that carry loss; `order` names the caller's
    completion behind each of the C rows.
    `part_NW`, where a row is shared, is 0 on a prompt, 1, 2, ... on its completions and -1 on padding;
    `blocks` says the same to attention that can do without a mask, where that pays.
    """

    ids_NW: Tensor
    positions_NW: Tensor
    part_NW: Tensor | None
    blocks: Blocks | None
    valid_NW: Tensor
    source_CT: Tensor
    targets_CT: Tensor
    mask_CT: Tensor
    order: tuple[int, ...]

    @property
    def attention_N1WW(self) -> Tensor | None:
        """Who may look at whom in shared rows: backwards only, at the prompt or at one's own part.

        Padding looks at padding, so that no row is empty.
        """
        if self.part_NW is None:
            return None
        width = self.part_NW.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=self.part_NW.device).tril()
        query, key = self.part_NW[:, :, None], self.part_NW[:, None, :]
        return (causal & ((key == query) | ((key == 0) & (query > 0)))).unsqueeze(1)

    def to(self, device: torch.device) -> "Packed":
        kinds = (Tensor, Blocks)
        moved = {name: value.to(device) for name, value in vars(self).items() if isinstance(value, kinds)}
        return Packed(**{**vars(self), **moved})


@dataclass(frozen=True)
class Completion:
    """One completion on its way into a row. Equal `group` means equal prompt."""

    group: int
    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]


# Beyond this many tokens a mask over a shared row costs more than it saves in prompt tokens.
SHARED_ROW = 2048


class PassSize(NamedTuple):
    """How much a forward and backward pass takes: padded tokens in all, and in a row that a group shares."""

    tokens: int
    row: int

    @classmethod
    def suited(cls, asked: int | None, device: torch.device) -> "PassSize":
        """At most what is asked for; without that, what suits the device.

        A processor works about as fast on 600 tokens as on more, and holds the activations of fewer; on half
        as many it takes a fifth longer for each. But a group that is cut in two has its prompt computed
        twice, so that a row of one may be longer. A GPU would be idle half of the time.
        """
        if asked is not None:
            return cls(asked, min(asked, SHARED_ROW))
        return cls(768 if device.type == "cpu" else 8192, SHARED_ROW)


def common_beginning(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows, of which there is one, begin with."""
    # What the first and the last of them in alphabetical order have in common, all have.
    first, last = min(map(list, rows)), max(map(list, rows))
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))


def plan_rows(sequences: Sequence[Completion], *, share_prompt: bool, width: int) -> list[list[int]]:
    """Group completion indices into rows of at most `width` tokens (a single completion may exceed it)."""
    rows: list[list[int]] = []
    group, used = None, 0
    for index, sequence in enumerate(sequences):
        length = len(sequence.completion_ids)
        if share_prompt and rows and group == sequence.group and used + length <= width:
            rows[-1].append(index)
            used += length
        else:
            rows.append([index])
            group, used = sequence.group, len(sequence.prompt_ids) + length
    return rows


def pack(sequences: Sequence[Completion], *, share_prompt: bool, size: PassSize, pad_id: int) -> list[Packed]:
    """Cut `sequences` into micro-batches of at most `size.tokens`, rows of like length together.

    A row that is longer makes a micro-batch of its own.
    """
    rows = plan_rows(sequences, share_prompt=share_prompt, width=size.row)
    lengths = [
        len(sequences[row[0]].prompt_ids) + sum(len(sequences[i].completion_ids) for i in row) for row in rows
    ]
    batches: list[list[int]] = []
    for number in sorted(range(len(rows)), key=lambda n: (-lengths[n], n)):
        # Longest first: the first row of a batch is its width.
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= size.tokens:
            batches[-1].append(number)
        else:
            batches.append([number])
    return [_pack_rows(sequences, [rows[n] for n in batch], pad_id) for batch in batches]


def _pack_rows(sequences: Sequence[Completion], rows: list[list[int]], pad_id: int) -> Packed:
    order = [index for row in rows for index in row]
    width = max(
        len(sequences[r[0]].prompt_ids) + sum(len(sequences[i].completion_ids) for i in r) for r in rows
    )
    longest = max(len(sequences[index].completion_ids) for index in order)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    positions = torch.zeros((len(rows), width), dtype=torch.long)
    part = torch.full((len(rows), width), -1, dtype=torch.long)
    source = torch.zeros((len(order), longest), dtype=torch.long)
    targets = torch.zeros((len(order), longest), dtype=torch.long)
    mask = torch.zeros((len(order), longest))
    slot = 0
    for number, row in enumerate(rows):
        prompt = sequences[row[0]].prompt_ids
        start = len(prompt)
        ids[number, :start] = torch.tensor(prompt)
        positions[number, :start] = torch.arange(start)
        part[number, :start] = 0
        cursor = start
        for place, index in enumerate(row, start=1):
            completion = sequences[index].completion_ids
            length = len(completion)
            span = slice(cursor, cursor + length)
            ids[number, span] = torch.tensor(completion)
            positions[number, span] = torch.arange(start, start + length)
            part[number, span] = place
            # The first token is predicted at the prompt's end, each later one at its predecessor.
            predictor = torch.arange(cursor - 1, cursor + length - 1)
            predictor[0] = start - 1
            source[slot, :length] = predictor + number * width
            targets[slot, :length] = ids[number, span]
            mask[slot, :length] = 1.0
            cursor += length
            slot += 1
    shared = any(len(row) > 1 for row in rows)
    prompts = [len(sequences[row[0]].prompt_ids) for row in rows]
    lengths = [[len(sequences[index].completion_ids) for index in row] for row in rows]
    in_blocks = shared and pays(prompts, lengths, width)
    return Packed(
        ids_NW=ids,
        positions_NW=positions,
        part_NW=part if shared else None,
        blocks=lay_out(prompts, lengths, width) if in_blocks else None,
        valid_NW=(part >= 0).long(),
        source_CT=source,
        targets_CT=targets,
        mask_CT=mask,
        order=tuple(order),
    )
