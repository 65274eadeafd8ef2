"""What several completions go on from, held once for them: the prompt of a group, or what all begin with.

The queries of all that go on from the same keys meet them in one product, and what each has written itself
in another, with one softmax over both (Hydragen, arXiv 2402.05099, has two). The keys are read once a token
for all, and take the memory of one copy.

Shapes: S slots, K key-value heads, R query heads of each, H = K R, D head size, T positions of a slot's own;
G prompts, P positions of the longest, M slots that go on from the same one at most.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlreason.rollout.kernels import Cache

_NOWHERE = 2**40
"""The place of padding: no token sees as far."""


@dataclass(frozen=True)
class _Layout:
    """Which slots go on from what: `member_GM` are those of each prompt, or 0, and `back_S` reverses it."""

    member_GM: Tensor
    back_S: Tensor
    length_S: Tensor
    place_SP: Tensor


class Shared:
    """Keys and values in front of the slots in use, in a cache that has one slot for each of G prompts."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._held: list[tuple[int, int]] = []  # the number and the length of each prompt
        self._place_of: list[int] = []  # where the prompt of each slot is
        self._layout: _Layout | None = None

    @property
    def positions(self) -> int:
        return self._cache.positions

    @property
    def prompts(self) -> int:
        return len(self._held)

    @property
    def length_S(self) -> Tensor:
        """How many positions stand in front of each slot's own."""
        return self._now.length_S

    def place_SW(self, own: Cache) -> Tensor:
        """The place in its sequence of each key that a slot meets, of which the last T are its own."""
        now = self._now
        own_ST = now.length_S.unsqueeze(1) + torch.arange(own.positions)
        return torch.cat([now.place_SP, own_ST], dim=1)

    # ------------------------------------------------------------------ who comes and goes

    def enter(self, count: int, number: int, parts: list[tuple[Tensor, Tensor]]) -> None:
        """Put the prompt of that number in front of the next `count` slots.

        `parts` are its keys and values (L, K, N, D), one after the other; one that is held is not read again.
        """
        numbers = [held for held, _ in self._held]
        if number not in numbers:
            numbers.append(number)
            self._held.append((number, sum(keys.shape[2] for keys, _ in parts)))
            self._cache.reserve(max(length for _, length in self._held), len(self._held))
            place, end = slice(len(self._held) - 1, len(self._held)), 0
            for keys_LKND, values_LKND in parts:
                end += keys_LKND.shape[2]
                self._cache.fill(place, keys_LKND, values_LKND, end=end)
        self._place_of += [numbers.index(number)] * count
        self._layout = None

    def drop(self, order: list[int]) -> None:
        """Keep the slots of `order`, in that order, and the prompts that they go on from."""
        self._place_of = [self._place_of[slot] for slot in order]
        self._layout = None
        living = set(self._place_of)
        for place in reversed(range(len(self._held))):
            if place in living:
                continue
            last = len(self._held) - 1
            if place != last:  # all behind it live
                self._cache.move(torch.tensor([last]), torch.tensor([place]))
                self._held[place] = self._held[last]
                self._place_of = [place if one == last else one for one in self._place_of]
            self._held.pop()

    @property
    def _now(self) -> _Layout:
        if self._layout is None:
            self._layout = self._lay_out()
        return self._layout

    def _lay_out(self) -> _Layout:
        members: list[list[int]] = [[] for _ in self._held]
        back = []
        for slot, place in enumerate(self._place_of):
            back.append((place, len(members[place])))
            members[place].append(slot)
        most = max(map(len, members))
        lengths = torch.tensor([length for _, length in self._held])
        places = torch.arange(self._cache.positions)
        place_GP = places.expand(len(lengths), -1).masked_fill(places >= lengths.unsqueeze(1), _NOWHERE)
        of_S = torch.tensor(self._place_of)
        return _Layout(
            member_GM=torch.tensor([slots + [0] * (most - len(slots)) for slots in members]),
            back_S=torch.tensor([place * most + number for place, number in back]),
            length_S=lengths[of_S],
            place_SP=place_GP[of_S],
        )

    # ------------------------------------------------------------------ attention

    def attend(self, layer: int, own: Cache, query_SHD: Tensor, mask_S11W: Tensor, scale: float) -> Tensor:
        """Attention of one query a head over what is in front of each slot and what is its own, (S, H, D)."""
        slots, heads, width = query_SHD.shape
        query_SKRD = (query_SHD * scale).view(slots, own.kv_heads, -1, width)
        front_GKMRP = self._cache.scores(layer, self._gather(query_SKRD))
        scores = torch.cat([self._spread(front_GKMRP, slots), own.scores(layer, query_SKRD)], dim=-1)
        weights = torch.softmax(scores.add_(mask_S11W), -1)
        front, behind = weights.split([self.positions, own.positions], dim=-1)
        mixed = own.mix(layer, behind)
        mixed += self._spread(self._cache.mix(layer, self._gather(front)), slots)
        return mixed.view(slots, heads, width)

    def _gather(self, x_SKRX: Tensor) -> Tensor:
        """The slots of each prompt side by side, (G, K, M R, X)."""
        (prompts, most), (_, heads, rows, _) = self._now.member_GM.shape, x_SKRX.shape
        taken = x_SKRX.index_select(0, self._now.member_GM.flatten())
        taken = taken.unflatten(0, (prompts, most)).transpose(1, 2)
        return taken.reshape(prompts, heads, most * rows, -1)

    def _spread(self, x_GKXX: Tensor, slots: int) -> Tensor:
        """The reverse: (G, K, M R, X) -> (S, K, R, X)."""
        most = self._now.member_GM.shape[1]
        apart = x_GKXX.unflatten(2, (most, -1)).transpose(1, 2).flatten(0, 1)
        return apart.index_select(0, self._now.back_S)
