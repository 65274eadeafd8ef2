"""The way of a run in a table: held-out accuracy after each of its stages."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """What a stage has reached: shares of 1, None where nothing could be marked."""

    name: str
    accuracy: float | None
    ci95: Sequence[float] | None

    def record(self) -> dict[str, Any]:
        return asdict(self)


def step_table(steps: Sequence[Step]) -> list[str]:
    """The table as lines; nothing where there is only a before and an after."""
    if len(steps) < 3:
        return []
    width = max(len(step.name) for step in steps)
    lines = ["held-out accuracy, stage by stage"]
    for step in steps:
        value = "-" if step.accuracy is None else f"{100 * step.accuracy:.1f}%"
        interval = (
            "" if step.ci95 is None else "[{:.1f}, {:.1f}]".format(*(100 * bound for bound in step.ci95))
        )
        lines.append(f"  {step.name:<{width}}  {value:>6}  {interval}".rstrip())
    return lines
