"""Prefixes that several slots share, held once: the prompt of a group, or what all prompts begin with.

The queries of all slots with the same prefix meet its keys in one product, and each slot's own keys in
another, with one softmax over both (Hydragen, arXiv 2402.05099, has two). The keys of a prefix are read once
a token for all of them, and take the memory of one copy. Its product has rows for M slots, also where fewer
have it. For processors: nothing here waits for a device or can be recorded.

Shapes: S slots, L layers, K key-value heads, R query heads of each, H = K R, D head size; G prefixes, N
positions of one, P room for the longest, M slots with the same one at most, B = M R; T positions of a slot's
own, W = P + T; A any.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlreason.rollout.kernels import Cache

_NOWHERE = 2**40
"""The position of padding: no token sees as far."""


@dataclass(frozen=True)
class _Layout:
    """Which slots have which prefix.

    `slot_GM` are the slots of each prefix, or 0 where there are fewer than M, and `rank_S` is the column of a
    slot in there; `length_S` are the positions of each slot's prefix, and `position_SP` names them.
    """

    slot_GM: Tensor
    prefix_S: Tensor
    rank_S: Tensor
    length_S: Tensor
    position_SP: Tensor


class Prefixes:
    """The prefix of each slot in use, in a cache of their own that grows to `most` of them."""

    def __init__(self, cache: Cache, most: int) -> None:
        self._cache = cache
        self._most = most
        self._held: list[tuple[int, int]] = []  # the number that each is known by, and its length
        self._prefix_of: list[int] = []  # of each slot
        self._layout: _Layout | None = None

    @property
    def spared(self) -> int:
        """How many positions copies would take beyond what is held, in slots as wide as the longest needs."""
        longest = max((length for _, length in self._held), default=0)
        return longest * (len(self._prefix_of) - len(self._held))

    @property
    def room(self) -> int:
        """P, the positions that the longest may have."""
        return self._cache.positions

    @property
    def length_S(self) -> Tensor:
        return self._now.length_S

    def position_SW(self, own: Cache) -> Tensor:
        """The position in its sequence of each key that a slot meets, those in `own` last."""
        own_ST = self.length_S.unsqueeze(1) + torch.arange(own.positions)
        return torch.cat([self._now.position_SP, own_ST], dim=1)

    # ------------------------------------------------------------------ who comes and goes

    def enter(self, count: int, number: int, parts: list[tuple[Tensor, Tensor]]) -> None:
        """Give the next `count` slots the prefix of that number.

        `parts` are its keys and values (L, K, N, D), one after the other; not read if it is held already.
        """
        numbers = [held for held, _ in self._held]
        if number not in numbers:
            numbers.append(number)
            self._held.append((number, sum(keys.shape[2] for keys, _ in parts)))
            count_held = len(self._held)
            self._cache.reserve(
                max(length for _, length in self._held),
                slots=min(self._most, 1 << (count_held - 1).bit_length()),
            )
            end = 0
            for keys_LKND, values_LKND in parts:
                end += keys_LKND.shape[2]
                self._cache.fill(slice(count_held - 1, count_held), keys_LKND, values_LKND, end=end)
        self._prefix_of += [numbers.index(number)] * count
        self._layout = None

    def drop(self, order: list[int]) -> None:
        """Keep the slots of `order`, in that order, and the prefixes that they have."""
        self._prefix_of = [self._prefix_of[slot] for slot in order]
        self._layout = None
        living = set(self._prefix_of)
        for prefix in reversed(range(len(self._held))):
            if prefix in living:
                continue
            last = len(self._held) - 1
            if prefix != last:  # all behind it live
                self._cache.move(torch.tensor([last]), torch.tensor([prefix]))
                self._held[prefix] = self._held[last]
                self._prefix_of = [prefix if one == last else one for one in self._prefix_of]
            self._held.pop()

    def copy_to(self, own: Cache, counts_S: list[int]) -> None:
        """Put a copy of each slot's prefix in front of its so many positions in `own`."""
        lengths_S = [self._held[prefix][1] for prefix in self._prefix_of]
        own.put_behind(self._cache, self._prefix_of, lengths_S, counts_S)

    @property
    def _now(self) -> _Layout:
        if self._layout is None:
            self._layout = self._lay_out()
        return self._layout

    def _lay_out(self) -> _Layout:
        slots_of: list[list[int]] = [[] for _ in self._held]
        rank = []
        for slot, prefix in enumerate(self._prefix_of):
            rank.append(len(slots_of[prefix]))
            slots_of[prefix].append(slot)
        most = max(map(len, slots_of))
        length_G = torch.tensor([length for _, length in self._held])
        positions = torch.arange(self.room)
        position_GP = positions.expand(len(length_G), -1).masked_fill(
            positions >= length_G.unsqueeze(1), _NOWHERE
        )
        prefix_S = torch.tensor(self._prefix_of)
        return _Layout(
            slot_GM=torch.tensor([slots + [0] * (most - len(slots)) for slots in slots_of]),
            prefix_S=prefix_S,
            rank_S=torch.tensor(rank),
            length_S=length_G[prefix_S],
            position_SP=position_GP[prefix_S],
        )

    # ------------------------------------------------------------------ attention

    def attend(self, layer: int, own: Cache, query_SHD: Tensor, mask_S11W: Tensor, scale: float) -> Tensor:
        """Attention of one query a head over each slot's prefix and what is its own, (S, H, D).

        The mask is added to the scores: 0 where a slot sees a key, and -inf elsewhere.
        """
        slots, heads, width = query_SHD.shape
        query_SKRD = (query_SHD * scale).view(slots, own.kv_heads, -1, width)
        of_prefix = self._spread(self._cache.scores(layer, self._gather(query_SKRD)))
        scores = torch.cat([of_prefix, own.scores(layer, query_SKRD)], dim=-1)
        weights = torch.softmax(scores.add_(mask_S11W), -1)
        of_prefix, of_own = weights.split([self.room, own.positions], dim=-1)
        mixed = own.mix(layer, of_own)
        mixed += self._spread(self._cache.mix(layer, self._gather(of_prefix)))
        return mixed.view(slots, heads, width)

    def _gather(self, x_SKRA: Tensor) -> Tensor:
        """The rows of the slots of each prefix side by side, (G, K, M R, A)."""
        slot_GM = self._now.slot_GM
        taken = x_SKRA.index_select(0, slot_GM.flatten()).unflatten(0, slot_GM.shape)
        return taken.transpose(1, 2).flatten(2, 3)

    def _spread(self, x_GKBA: Tensor) -> Tensor:
        """The reverse: to each slot its own, (S, K, R, A)."""
        now = self._now
        return x_GKBA.unflatten(2, (now.slot_GM.shape[1], -1))[now.prefix_S, :, now.rank_S]
