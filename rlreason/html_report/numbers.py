"""The metrics of a run as columns for the page: by stage, bounded in length, rounded."""

from collections.abc import Mapping, Sequence
from typing import Any

from rlreason.doctor.history import finite

_NOT_CURVES = ("stage", "step", "steps", "findings", "non_finite")
_COUNTS = ("reward_failed/", "reward_abstained/", "failed", "abstained", "skipped_updates")


def stages(lines: Sequence[Mapping[str, Any]], *, points: int) -> list[dict[str, Any]]:
    """The columns of each stage, in the order in which the stages ran.

    A stage holds `name`, `planned` steps, `last` step, `x` (the step of each point), `series` (name to
    column), `parts` (seconds of each part of a step) and `bin`, the number of steps in a point: 1 unless
    there are more than `points`. Lines of the same step are one; what both have is the later one's.
    """
    by_stage: dict[str, dict[int, dict[str, Any]]] = {}
    for line in lines:
        stage, step = line.get("stage"), line.get("step")
        if isinstance(stage, str) and isinstance(step, int) and not isinstance(step, bool) and step >= 0:
            steps = by_stage.setdefault(stage, {})
            steps[step] = steps.get(step, {}) | dict(line)
    return [
        _columns(name, [steps[step] for step in sorted(steps)], points) for name, steps in by_stage.items()
    ]


def _columns(name: str, lines: Sequence[Mapping[str, Any]], points: int) -> dict[str, Any]:
    flat = [_flat(line) for line in lines]
    width = -(-len(lines) // points)
    cuts = [range(start, min(start + width, len(lines))) for start in range(0, len(lines), width)]
    names = dict.fromkeys(key for line in flat for key in line)
    series = {key: [_mean([flat[row].get(key) for row in cut]) for cut in cuts] for key in names}
    return {
        "name": name,
        "planned": next((p for line in reversed(lines) if (p := finite(line.get("steps")))), None),
        "last": lines[-1]["step"],
        "bin": width,
        "x": [lines[cut[-1]]["step"] for cut in cuts],
        # Counts that are 0 in every step say nothing, and there are two for each reward.
        "series": {k: column for k, column in series.items() if not k.startswith(_COUNTS) or any(column)},
        "parts": _parts(flat),
    }


def _parts(flat: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    """Seconds that went into each part of a step, summed over all steps."""
    clocks = ("total", "tokens_per_s", "left")
    names = [f"time/{part}" for part in ("sample", "score", "advantage", "update", "record")]
    names += [key for line in flat for key in line if key.startswith("time/") and key[5:] not in clocks]
    known = {key: sum(line.get(key) or 0.0 for line in flat) for key in dict.fromkeys(names)}
    return {key[5:]: rounded(seconds) for key, seconds in known.items() if seconds > 0}


def _flat(line: Mapping[str, Any]) -> dict[str, float | None]:
    numbers = {key: finite(value) for key, value in line.items() if key not in _NOT_CURVES}
    clocks = line.get("time")
    if isinstance(clocks, Mapping):
        numbers |= {f"time/{key}": finite(value) for key, value in clocks.items()}
    return {key: value for key, value in numbers.items() if value is not None}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return rounded(sum(known) / len(known)) if known else None


def rounded(value: Any, digits: int = 5) -> float | None:
    """A number to so many digits, which no curve shows more of; None for what is none."""
    number = finite(value)
    if number is None:
        return None
    short = float(f"{number:.{digits}g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short
