"""What one reward said about one completion."""

import math
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Score:
    """A finite value, or None where the reward abstains, and the reason in words.

    `failed` tells an error or a time-out from an abstention on purpose. An error has no value; a time-out is
    worth 0, as a completion that makes its reward run away must not be better off than a wrong one. `trace`
    is the error's traceback, empty where there is none.
    """

    value: float | None
    reason: str
    failed: bool = False
    trace: str = field(default="", compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"a score must be a finite number or None, not {self.value} ({self.reason})")
