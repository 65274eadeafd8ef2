"""A rule of the doctor: when it holds, what that usually means, and what to try."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rlreason.doctor.history import History

Level = Literal["note", "warning"]
"""A note is worth knowing; with a warning, going on as before is likely in vain or does harm."""


@dataclass(frozen=True)
class Seen:
    """A rule holds: how bad it is, and what was seen, in numbers.

    `means` and `hints` take the place of the rule's own where what was seen tells more.
    """

    level: Level
    text: str
    means: str = ""
    hints: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """One thing that goes wrong in training. docs/doctor.md gives each rule's formula and why.

    `holds` is asked after every step, and looks at nothing but the history. `needs` are the numbers without
    which it cannot say anything. `hints` name fields of the config in backquotes, `{stage}` standing for the
    section of the stage that runs; `trl` are the same for TRL's GRPOConfig.
    """

    name: str
    title: str
    needs: tuple[str, ...]
    holds: Callable[[History], Seen | None]
    means: str
    hints: tuple[str, ...]
    trl: tuple[str, ...]


def note(text: str) -> Seen:
    return Seen("note", text)


def warning(text: str) -> Seen:
    return Seen("warning", text)


def percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def points(change: float) -> str:
    return f"{100 * change:.1f} points"
