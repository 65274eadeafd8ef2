"""Rows for the forward pass: what sequences begin with once, and behind it how they go on.

A row is `prompt, completion 1, completion 2, ...`, or `beginning, rest of prompt 1, its completions, rest of
prompt 2, its completions, ...` where prompts begin alike, with a system prompt as a rule. Every part sees
what it continues and itself, through a mask or in blocks, and counts its positions on from there, so each
completion is computed as if it stood alone. With one completion a row this is the plain layout.

Shapes: N rows, W row width, G groups, C completions, T completion tokens, F tokens with loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rlreason.policy.blocks import Blocks, affordable, lay_out, pays
from rlreason.policy.transfer import to_device


class Sharing(IntEnum):
    """What is computed once; each includes those before it. Of several models the least is what all allow."""

    NOTHING = 0
    PROMPT = 1
    """a prompt, for its completions"""
    BEGINNING = 2
    """what prompts begin with, for those of a row; needs attention in blocks"""


@dataclass(frozen=True)
class Packed:
    """One micro-batch. `source_CT` indexes the flattened rows: the predictor of each token in `targets_CT`.

    `mask_CT` is 1 on completion tokens, or on those of them that carry loss, and `places_F` is where, in the
    flattened mask: to look for them on a device is to wait for it. `order` names the caller's completion
    behind each of the C rows.
    `part_NW`, where a row is shared, is 0 on what all of it continues, 1, 2, ... on the parts behind and -1
    on padding; `parent_NW` is the part that a token's own continues, which may be 0. `blocks` says the same
    to attention that can do without a mask, where that pays.
    """

    ids_NW: Tensor
    positions_NW: Tensor
    part_NW: Tensor | None
    parent_NW: Tensor | None
    blocks: Blocks | None
    source_CT: Tensor
    targets_CT: Tensor
    mask_CT: Tensor
    places_F: Tensor
    order: tuple[int, ...]

    @property
    def source_F(self) -> Tensor:
        return self.source_CT.flatten().index_select(0, self.places_F)

    @property
    def targets_F(self) -> Tensor:
        return self.targets_CT.flatten().index_select(0, self.places_F)

    def spread(self, values_F: Tensor) -> Tensor:
        """One value a token with loss as (C, T), 0 elsewhere; with gradient."""
        zeros = values_F.new_zeros(self.mask_CT.numel())
        return zeros.index_copy(0, self.places_F, values_F).view(self.mask_CT.shape)

    def with_mask(self, mask_CT: Tensor) -> "Packed":
        """The same with loss elsewhere."""
        return replace(self, mask_CT=mask_CT, places_F=_places(mask_CT))

    @property
    def attention_N1WW(self) -> Tensor | None:
        """Who may look at whom in shared rows: backwards only, at one's own part and at what that continues.

        Padding looks at padding, so that no row is empty.
        """
        if self.part_NW is None or self.parent_NW is None:
            return None
        width = self.part_NW.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=self.part_NW.device).tril()
        query, parent = self.part_NW[:, :, None], self.parent_NW[:, :, None]
        key = self.part_NW[:, None, :]
        return (causal & ((key == query) | (key == parent) | ((key == 0) & (query > 0)))).unsqueeze(1)

    def to(self, device: torch.device) -> "Packed":
        moved: dict[str, Any] = {
            name: to_device(part, device) for name, part in vars(self).items() if isinstance(part, Tensor)
        }
        if self.blocks is not None:
            moved["blocks"] = self.blocks.to(device)
        return replace(self, **moved)


def _places(mask_CT: Tensor) -> Tensor:
    return mask_CT.flatten().nonzero().squeeze(1)


@dataclass(frozen=True)
class Completion:
    """One completion on its way into a row. Equal `group` means equal prompt."""

    group: int
    prompt_ids: Sequence[int]
    completion_ids: Sequence[int]


LEAST_BEGINNING = 16
"""What prompts begin with is set apart from so many tokens on."""

# Beyond this many tokens a mask over a shared row costs more than it saves in prompt tokens: measured on a
# processor. On a GPU, where nothing was, attention is a smaller part of a pass, and rows are twice as long.
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
        tokens, row = (768, SHARED_ROW) if device.type == "cpu" else (8192, 2 * SHARED_ROW)
        return cls(tokens, row) if asked is None else cls(asked, min(asked, row))


def common_beginning(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows begin with. There is at least one."""
    # What the first and the last of them in alphabetical order have in common, all have.
    first, last = min(map(list, rows)), max(map(list, rows))
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(last)))


class Row(NamedTuple):
    """One row: how many tokens the prompts of its groups begin with alike, and each group's completions.

    With one group nothing is set apart: `common` is 0.
    """

    common: int
    groups: list[list[int]]

    def width(self, sequences: Sequence[Completion]) -> int:
        return self.common + sum(_length(sequences, group) - self.common for group in self.groups)


def _length(sequences: Sequence[Completion], group: Sequence[int]) -> int:
    """Tokens of a prompt and these of its completions."""
    return len(sequences[group[0]].prompt_ids) + sum(len(sequences[i].completion_ids) for i in group)


def plan_rows(sequences: Sequence[Completion], *, share: Sharing, width: int) -> list[list[int]]:
    """Group completion indices into rows of at most `width` tokens (a single completion may exceed it)."""
    rows: list[list[int]] = []
    group, used = None, 0
    for index, sequence in enumerate(sequences):
        length = len(sequence.completion_ids)
        if share >= Sharing.PROMPT and rows and group == sequence.group and used + length <= width:
            rows[-1].append(index)
            used += length
        else:
            rows.append([index])
            group, used = sequence.group, len(sequence.prompt_ids) + length
    return rows


def plan_passes(sequences: Sequence[Completion], *, share: Sharing, size: PassSize) -> list[list[Row]]:
    """The rows of each micro-batch, of at most `size.tokens` in all, rows of like length together.

    A row that is longer makes a micro-batch of its own. With `Sharing.BEGINNING` rows may hold several groups
    behind what all prompts begin with, where that takes less.
    """
    rows = [Row(0, [row]) for row in plan_rows(sequences, share=share, width=size.row)]
    passes = _batched(sequences, rows, size)
    if share >= Sharing.BEGINNING and len(rows) > 1:
        joined = _batched(sequences, _join(sequences, rows, size), size)
        if _cost(sequences, joined, size) < _cost(sequences, passes, size):
            return joined
    return passes


def _batched(sequences: Sequence[Completion], rows: Sequence[Row], size: PassSize) -> list[list[Row]]:
    widths = {id(row): row.width(sequences) for row in rows}
    batches: list[list[Row]] = []
    # Longest first: the first row of a batch is its width.
    for row in sorted(rows, key=lambda row: -widths[id(row)]):
        last = batches[-1] if batches else []
        fits = bool(last) and (len(last) + 1) * widths[id(last[0])] <= size.tokens
        joined = any(one.common for one in [*last, row])
        if fits and (not joined or _affordable(sequences, [*last, row], size)):
            last.append(row)
        else:
            batches.append([row])
    return batches


def _tokens(sequences: Sequence[Completion], rows: Sequence[Row]) -> int:
    return len(rows) * max(row.width(sequences) for row in rows)


def _cost(
    sequences: Sequence[Completion], passes: Sequence[Sequence[Row]], size: PassSize
) -> tuple[int, int]:
    """Tokens, where a pass of less than half of what it may take is as dear as one of half; and tokens."""
    tokens = [_tokens(sequences, rows) for rows in passes]
    return sum(max(count, size.tokens // 2) for count in tokens), sum(tokens)


def pack(sequences: Sequence[Completion], *, share: Sharing, size: PassSize, pad_id: int) -> list[Packed]:
    """Cut `sequences` into micro-batches, as `plan_passes` plans them."""
    passes = plan_passes(sequences, share=share, size=size)
    return [_pack_rows(sequences, rows, pad_id) for rows in passes]


def computed_tokens(sequences: Sequence[Completion], *, share: Sharing, size: PassSize) -> int:
    """How many tokens the micro-batches of `pack` hold, padding included."""
    passes = plan_passes(sequences, share=share, size=size)
    return sum(_tokens(sequences, rows) for rows in passes)


def alike(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """The numbers of the prompts, those together that begin with the same `LEAST_BEGINNING` tokens."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, prompt in enumerate(prompts):
        found.setdefault(tuple(prompt[:LEAST_BEGINNING]), []).append(number)
    return list(found.values())


def _join(sequences: Sequence[Completion], rows: Sequence[Row], size: PassSize) -> list[Row]:
    """Rows of several groups behind what their prompts begin with, and those that fit in none."""
    groups = [row.groups[0] for row in rows]
    prompts = [sequences[group[0]].prompt_ids for group in groups]
    joined: list[Row] = []
    for numbers in alike(prompts):
        common = common_beginning([prompts[number] for number in numbers])
        joined += _join_alike(sequences, [groups[number] for number in numbers], common, size)
    return joined


def _join_alike(
    sequences: Sequence[Completion], groups: Sequence[list[int]], common: int, size: PassSize
) -> list[Row]:
    """The same for groups whose prompts begin with so many tokens alike.

    A row grows until it is full, or until what blocks of it would copy is no longer affordable.
    """
    if common < LEAST_BEGINNING:
        return [Row(0, [group]) for group in groups]
    joined: list[Row] = []
    width = count = prompt = longest = 0  # of the last row: its width, completions, and longest of either
    for group in sorted(groups, key=lambda group: -_length(sequences, group)):
        own = _length(sequences, group) - common
        prompts = len(sequences[group[0]].prompt_ids)
        longer = max(len(sequences[index].completion_ids) for index in group)
        grown = count + len(group), max(prompt, prompts), max(longest, longer)
        # In rows of one group each, whose blocks may copy so many times as many as they hold.
        apart = width + own + common * len(joined[-1].groups) if joined else 0
        fits = bool(joined) and width + own <= size.tokens
        if fits and affordable(*grown, min(size.tokens, apart)):
            joined[-1].groups.append(group)
            width, (count, prompt, longest) = width + own, grown
        else:
            joined.append(Row(common, [group]))
            width, count, prompt, longest = common + own, len(group), prompts, longer
    return [row if len(row.groups) > 1 else Row(0, row.groups) for row in joined]


def _lengths(sequences: Sequence[Completion], rows: Sequence[Row]) -> tuple[list[int], list[int]]:
    """Tokens of each prompt and of each completion, as blocks hold them."""
    groups = [group for row in rows for group in row.groups]
    prompts = [len(sequences[group[0]].prompt_ids) for group in groups]
    return prompts, [len(sequences[index].completion_ids) for group in groups for index in group]


def _affordable(sequences: Sequence[Completion], rows: Sequence[Row], size: PassSize) -> bool:
    """Whether blocks of these rows copy no more than those of a full pass may."""
    prompts, completions = _lengths(sequences, rows)
    return affordable(len(completions), max(prompts), max(completions), size.tokens)


class _Canvas:
    """Rows that are written part by part, (N, W) each. What is not written is padding."""

    def __init__(self, rows: int, width: int, pad_id: int) -> None:
        self.width = width
        self.ids = torch.full((rows, width), pad_id, dtype=torch.long)
        self.positions = torch.zeros((rows, width), dtype=torch.long)
        self.part = torch.full((rows, width), -1, dtype=torch.long)
        self.parent = self.part.clone()
        self._row, self._cursor = -1, 0

    def next_row(self) -> None:
        self._row, self._cursor = self._row + 1, 0

    def write(self, tokens: Sequence[int], *, first: int, part: int, parent: int) -> range:
        """Write `part` behind what stands in the row, positions from `first` on.

        Returns where it is in the flattened rows.
        """
        start, end = self._cursor, self._cursor + len(tokens)
        self._cursor = end
        self.ids[self._row, start:end] = torch.tensor(tokens, dtype=torch.long)
        self.positions[self._row, start:end] = torch.arange(first, first + len(tokens))
        self.part[self._row, start:end] = part
        self.parent[self._row, start:end] = parent
        return range(self._row * self.width + start, self._row * self.width + end)


def _pack_rows(sequences: Sequence[Completion], rows: Sequence[Row], pad_id: int) -> Packed:
    order = [index for row in rows for group in row.groups for index in group]
    longest = max(len(sequences[index].completion_ids) for index in order)
    canvas = _Canvas(len(rows), max(row.width(sequences) for row in rows), pad_id)
    source = torch.zeros((len(order), longest), dtype=torch.long)
    targets = torch.zeros((len(order), longest), dtype=torch.long)
    mask = torch.zeros((len(order), longest))
    prompts: list[list[int]] = []  # of each group, where the tokens of its prompt are
    completions: list[range] = []
    groups_C: list[int] = []
    for common, groups in rows:
        canvas.next_row()
        beginning = canvas.write(sequences[groups[0][0]].prompt_ids[:common], first=0, part=0, parent=0)
        last = 0
        for group in groups:
            prompt = sequences[group[0]].prompt_ids
            last = last + 1 if common else 0
            own = last
            prompts.append([*beginning, *canvas.write(prompt[common:], first=common, part=own, parent=0)])
            for index in group:
                last += 1
                tokens = sequences[index].completion_ids
                where = canvas.write(tokens, first=len(prompt), part=last, parent=own)
                slot = len(completions)
                # The first token is predicted at the prompt's end, each later one at its predecessor.
                source[slot, : len(tokens)] = torch.tensor([prompts[-1][-1], *where[:-1]])
                targets[slot, : len(tokens)] = torch.tensor(tokens)
                mask[slot, : len(tokens)] = 1.0
                completions.append(where)
                groups_C.append(len(prompts) - 1)
    shared = any(row.common or len(row.groups[0]) > 1 for row in rows)
    blocks = None
    lengths = _lengths(sequences, rows)
    joined = any(row.common for row in rows)  # which would be too long for a mask
    if shared and (joined or pays(*lengths, rows=len(rows), width=canvas.width)):
        blocks = lay_out(prompts, completions, groups_C, rows=len(rows), width=canvas.width)
    return Packed(
        ids_NW=canvas.ids,
        positions_NW=canvas.positions,
        part_NW=canvas.part if shared else None,
        parent_NW=canvas.parent if shared else None,
        blocks=blocks,
        source_CT=source,
        targets_CT=targets,
        mask_CT=mask,
        places_F=_places(mask),
        order=tuple(order),
    )
