"""What one reward said about one completion."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A finite value, or None where the reward abstains, and the reason in words."""

    value: float | None
    reason: str

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score must be a finite number or None, not {self.value} ({self.reason})")
