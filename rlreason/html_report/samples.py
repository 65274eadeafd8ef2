"""Which completions of a run go into the page. `samples.jsonl` is read line by line, never as a whole.

The file is read twice through one open handle: first to learn where each group is and how much room it takes,
then to fetch the groups that were chosen. Of a line its place and size are kept in between, and whether it
was learned from.
"""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from rlreason.errors import UserError
from rlreason.html_report.completion import Group, Member, room_for

LARGEST_GROUP = 32
"""Completions of a group that are shown, at most."""
LONGEST_LINE = 1 << 28
"""Bytes of a line that is read; a longer one is left out, so that no line can take all memory."""

GroupKey = tuple[int, int]
"""Step and number of a group."""


@dataclass
class _Place:
    """Where the lines of a group begin, how many bytes each takes in the page, which were learned from."""

    offsets: array = field(default_factory=lambda: array("q"))
    rooms: array = field(default_factory=lambda: array("q"))
    learned: bytearray = field(default_factory=bytearray)
    question: int = 0  # bytes of what a group has once

    @property
    def shown(self) -> list[int]:
        """Which members are shown: those that were learned from before the others, in their order."""
        members = sorted(range(len(self.offsets)), key=lambda one: not self.learned[one])
        return sorted(members[:LARGEST_GROUP])

    @property
    def room(self) -> int:
        return self.question + sum(self.rooms[member] for member in self.shown)


@dataclass
class Sampled:
    """What was chosen: groups in order, and the counts with which the rule is told."""

    groups: dict[GroupKey, Group]
    completions: int = 0  # in the file
    steps: int = 0
    all_groups: int = 0
    per_step: int | None = None  # groups of a step, at most; None: all
    unreadable: int = 0

    @property
    def kept(self) -> int:
        return sum(len(group.members) for group in self.groups.values())


def sample(path: Path, *, room: int) -> Sampled:
    """Choose whole groups that take about `room` bytes in the page.

    All of them where they fit. Otherwise the same number of groups of each step, those of the lowest numbers;
    where even one of each does not fit, one group of steps that are spread evenly, the first and the last
    always among them. A group of more than `LARGEST_GROUP` gives its first ones, those that were
    left out by down-sampling last.

    Raises UserError where the file cannot be read. Lines that are no completion are counted and left out.
    """
    try:
        with path.open("rb") as file:
            places, unreadable = _index(file)
            chosen, per_step = choose({key: place.room for key, place in places.items()}, room=room)
            groups = {key: Group(len(places[key].offsets), list(_fetch(file, places[key]))) for key in chosen}
    except FileNotFoundError:
        return Sampled({})
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; make it readable") from error
    return Sampled(
        {key: group for key, group in groups.items() if group.members},
        completions=sum(len(place.offsets) for place in places.values()),
        steps=len({step for step, _ in places}),
        all_groups=len(places),
        per_step=per_step,
        unreadable=unreadable,
    )


def choose(rooms: Mapping[GroupKey, int], *, room: int) -> tuple[list[GroupKey], int | None]:
    """The groups to show, given how much each takes; and how many of a step, None for all."""
    by_step: dict[int, list[GroupKey]] = {}
    for key in sorted(rooms):
        by_step.setdefault(key[0], []).append(key)
    steps = list(by_step)
    if sum(rooms.values()) <= room:
        return sorted(rooms), None
    taken: list[GroupKey] = []
    for count in range(1, max(map(len, by_step.values())) + 1):
        wider = [key for step in steps for key in by_step[step][:count]]
        if sum(rooms[key] for key in wider) > room:
            break
        taken, per_step = wider, count
    if taken:
        return taken, per_step
    # Not even one of each step fits. More steps take more room, though not strictly: search, then shrink.
    count = len(steps)
    while count > 2:
        firsts = [by_step[step][0] for step in spread(steps, count)]
        needed = sum(rooms[key] for key in firsts)
        if needed <= room:
            return firsts, 1
        count = max(2, min(count - 1, count * room // needed))
    return [by_step[step][0] for step in spread(steps, min(count, 2))], 1


def spread(steps: Sequence[int], count: int) -> list[int]:
    """`count` of the steps, evenly, the first and the last among them."""
    if count >= len(steps):
        return list(steps)
    if count == 1:
        return [steps[-1]]
    return [steps[place * (len(steps) - 1) // (count - 1)] for place in range(count)]


def _index(file: BinaryIO) -> tuple[dict[GroupKey, _Place], int]:
    places: dict[GroupKey, _Place] = {}
    unreadable = 0
    for offset, line, ended in _lines(file):
        record = _parse(line)
        if record is None:
            unreadable += ended  # the last line of a run that goes on may be half there: no damage
            continue
        place = places.setdefault((record["step"], record["group"]), _Place())
        room = room_for(record, first=False)
        if not place.offsets:
            place.question = room_for(record, first=True) - room
        place.rooms.append(room)
        place.offsets.append(offset)
        place.learned.append(record.get("advantage") is not None)
    return places, unreadable


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """Each line with its offset, and whether it has its end. One that is too long comes empty."""
    offset = 0
    while line := file.readline(LONGEST_LINE):
        size, ended = len(line), line.endswith(b"\n")
        if not ended and size == LONGEST_LINE:
            line = b""
            while rest := file.readline(LONGEST_LINE):
                size += len(rest)
                if rest.endswith(b"\n"):
                    ended = True
                    break
        if line.strip() or size > LONGEST_LINE:
            yield offset, line, ended
        offset += size


def _fetch(file: BinaryIO, place: _Place) -> Iterator[Member]:
    for member in place.shown:
        file.seek(place.offsets[member])
        record = _parse(file.readline(LONGEST_LINE))
        if record is not None:  # the file may have been cut since, by a run that goes on
            yield Member(member, record)


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a completion; None for any other line."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return None
    whole = all(isinstance(record.get(name), int) for name in ("step", "group"))
    return record if whole else None
