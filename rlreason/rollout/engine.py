"""What every rollout engine offers, and the sampling parameters they all understand."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rlreason.types import Rollout


@dataclass(frozen=True)
class Sampling:
    """How to draw tokens. `temperature` 0 means greedy; the log-probs are then those of temperature 1."""

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


@dataclass(frozen=True)
class Request:
    """One prompt and the seeds of the completions wanted of it: one completion a seed."""

    prompt_ids: list[int]
    seeds: tuple[int, ...]


Told = Callable[[int], None]
"""Called now and then with the number of completions that are done."""


class Engine(Protocol):
    """Samples completions from the policy's current weights."""

    name: str

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, told: Told | None = None
    ) -> list[list[Rollout]]:
        """Return for each request its completions, in the order of its seeds."""
        ...

    def release(self) -> None:
        """Give back what memory its copy of the weights takes. It samples again after `refresh`."""
        ...

    def refresh(self) -> None:
        """Take over the policy's weights after an update."""
        ...
