"""An estimate in words."""

from rlreason.memory.machine import Machine
from rlreason.memory.stages import Estimate

_SHOWN = 4
# An estimate may be this much too low, and the machine needs some memory for itself.
_CLOSE = 0.9


def in_gb(size: float) -> str:
    """Bytes as `3.52 GB`; a GB is 10^9 bytes."""
    return f"{size / 1e9:,.2f} GB"


def parts_text(estimate: Estimate) -> str:
    """The parts, largest first: `weights 0.54, reference 0.54, ...`."""
    parts = sorted((part for part in estimate.parts if part.size >= 5e6), key=lambda part: -part.size)
    return ", ".join(f"{part.name} {part.size / 1e9:,.2f}" for part in parts)


def summary_text(estimate: Estimate, has: Machine) -> str:
    """One line: what the run takes at most, when, of what the machine has, and its parts."""
    return (
        f"about {in_gb(estimate.total)} while {estimate.moment} in {estimate.stage}, of "
        f"{in_gb(has.total)} {'of the GPU' if has.kind == 'GPU' else ''}({in_gb(has.free)} free): "
        f"{parts_text(estimate)}"
    )


def warning_text(estimate: Estimate, has: Machine) -> str | None:
    """What to say where the run may not fit: the largest parts, and what lowers each; None where it fits."""
    if estimate.total <= _CLOSE * has.free:
        return None
    parts = sorted((part for part in estimate.parts if part.setting), key=lambda part: -part.size)[:_SHOWN]
    lowered = "; ".join(f"{part.name} {in_gb(part.size)}: {part.setting}" for part in parts)
    verb = "will not fit into" if estimate.total > has.free else "may not fit into"
    where = "of the GPU" if has.kind == "GPU" else "of memory"
    return (
        f"memory: {estimate.stage} takes about {in_gb(estimate.total)} while {estimate.moment}, which {verb} "
        f"the {in_gb(has.free)} {where} that are free. What can be lowered, largest first: {lowered}"
    )
