"""Trackers of accelerate (TensorBoard, W&B, trackio, MLflow, ...): the numbers of a run, sent as they come.

Nothing is sent unless `log.trackers` names a tracker. Then its numbers and its resolved config are, and with
`log.track_samples` the shown samples. A tracker that fails is told of once and switched off: the run goes on,
and all that it would have shown is in the run directory.

`trackers.json` in the run directory says how far each tracker has come, so that a resumed run does not send a
step twice, and by which id a tracker knows the run.
"""

import difflib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.runs.atomic import write_text
from rlreason.runs.jsonl import read_lines

STATE = "trackers.json"
# What has to be installed for a tracker, where that is not its name.
_PACKAGES = {"comet_ml": "comet-ml"}
_FIRST_LINE = 200
# What the state of a tracker may hold, besides how far it is with each evaluation.
_KNOWN: dict[str, type] = {"config": bool, "id": str, "metrics": int, "sample": int}
_EVALUATION = "evaluation/"


def check_trackers(names: Sequence[str]) -> None:
    """Raise UserError for a tracker that accelerate does not know, or whose package is not installed."""
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    known = {str(name) for name in LOGGER_TYPE_TO_CLASS}
    built_in = {str(kind) for kind in LoggerType} - {"all"}
    installed = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"give some of {', '.join(sorted(known))}"
            raise UserError(f"log.trackers: {name!r} is no tracker of accelerate; {remedy}")
        if name in built_in - installed:
            package = _PACKAGES.get(name, name)
            raise UserError(
                f"log.trackers: {name} needs a package that is not installed; run pip install {package}, or "
                f"take {name} out of log.trackers"
            )


class Trackers:
    """The trackers of a run; none of them where `log.trackers` is empty, and in all processes but the first.

    Steps count on over the stages: that of `grpo` after 30 steps of `sft` is 31. Names begin with the stage.
    """

    def __init__(self, order: Sequence[str] = (), tell: Callable[[str], None] = print) -> None:
        self._order = list(order)
        self._tell = tell
        self._root: Path | None = None
        self._running: dict[str, Any] = {}
        self._state: dict[str, dict[str, Any]] = {}
        self._last: dict[str, int] = {}

    @classmethod
    def start(
        cls, config: RunConfig, root: Path, accelerator: Any, tell: Callable[[str], None]
    ) -> "Trackers":
        """Start the trackers of `config` for the run in `root`; `tell` is how the user hears of failures.

        Raises UserError if one cannot start. In a run that goes on that is told only, as nobody may be there.
        """
        trackers = cls(config.stages, tell)
        if not config.log.trackers or not accelerator.is_main_process:
            return trackers
        trackers._root = root
        trackers._state = _read_state(root / STATE)
        for line in read_lines(root / "metrics.jsonl")[0] if (root / "metrics.jsonl").is_file() else []:
            stage, step = line.get("stage"), line.get("step")
            if isinstance(stage, str) and isinstance(step, int):  # others place nothing
                trackers._last[stage] = step
        for name in dict.fromkeys(config.log.trackers):
            try:
                trackers._start(name, config, accelerator)
            except Exception as error:  # whatever a package raises where its server cannot be reached
                if not trackers._last:
                    trackers.close()
                    raise UserError(
                        f"log.trackers: {name} cannot start ({_short(error)}); correct that, or take {name} "
                        "out of log.trackers"
                    ) from error
                trackers._off(name, error)
        return trackers

    def _start(self, name: str, config: RunConfig, accelerator: Any) -> None:
        """Through accelerate's own `init_trackers`, one at a time, so that one fails alone."""
        from accelerate.tracking import filter_trackers

        known = self._state.setdefault(name, {})
        accelerator.project_configuration.set_directories(str(self._root))
        accelerator.log_with = filter_trackers([name], accelerator.logging_dir)
        accelerator.trackers = []
        values = None if known.get("config") else flat_config(config)
        options = _options(name, config, self._root, known)
        # TensorBoard's folder is named by the project; those of others are projects of many runs.
        project = "tensorboard" if name == "tensorboard" else config.log.project
        accelerator.init_trackers(project, config=values, init_kwargs={name: options})
        (self._running[name],) = accelerator.trackers
        known["config"] = True
        if name == "mlflow":
            known["id"] = self._running[name].tracker.info.run_id
        self._write_state()

    # ------------------------------------------------------------------ what is sent

    def metrics(self, record: Mapping[str, Any]) -> None:
        """The numbers of a line of `metrics.jsonl`."""
        stage, step = record["stage"], record["step"]
        self._last[stage] = step
        self._send("metrics", self._place(stage, step), {f"{stage}/{k}": v for k, v in _numbers(record)})

    def evaluation(self, label: str, summary: Mapping[str, Any]) -> None:
        """The numbers of an evaluation: `before`, `after`, `step-000040`, or after the stage `label`."""
        online = self._order[-1] if self._order else label
        if label in self._order:
            stage, step = label, self._last.get(label, 0)
        elif label.startswith("step-"):
            stage, step = online, int(label.removeprefix("step-"))
        else:
            stage, step = online, 0 if label == "before" else self._last.get(online, 0)
        # By label: the one after a stage and `before` the next have the same place.
        self._send(
            f"{_EVALUATION}{label}", self._place(stage, step), {f"eval/{k}": v for k, v in _numbers(summary)}
        )

    def sample(self, stage: str, step: int, text: str) -> None:
        """A question and its completion, as text."""
        self._send("sample", self._place(stage, step), {f"{stage}/sample": text})

    def close(self) -> None:
        """End all trackers; calling it twice is fine."""
        for name, tracker in list(self._running.items()):
            try:
                tracker.finish()
            except Exception as error:
                self._off(name, error)
        self._running = {}

    def _place(self, stage: str, step: int) -> int:
        before = self._order[: self._order.index(stage)] if stage in self._order else []
        return sum(self._last.get(earlier, 0) for earlier in before) + step

    def _send(self, kind: str, place: int, values: dict[str, Any]) -> None:
        for name, tracker in list(self._running.items()):
            # A resumed run goes through some steps again: these have been sent.
            if place <= self._state[name].get(kind, -1) or not values:
                continue
            try:
                tracker.log(values, step=place)
                self._state[name][kind] = place
                self._write_state()
            except Exception as error:  # a network that is down, a disk that is full: no reason to stop
                self._off(name, error)

    def _off(self, name: str, error: Exception) -> None:
        self._running.pop(name, None)
        self._tell(
            f"log.trackers: {name} failed ({_short(error)}) and is switched off. The run goes on; its "
            "numbers are in metrics.jsonl"
        )

    def _write_state(self) -> None:
        assert self._root is not None
        write_text(self._root / STATE, json.dumps(self._state, indent=1) + "\n")


def flat_config(config: RunConfig) -> dict[str, str | int | float | bool]:
    """The resolved config as one level of dotted keys; what is no text or number is written as JSON."""
    flat: dict[str, str | int | float | bool] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                add(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value if isinstance(value, str | int | float | bool) else json.dumps(value)

    add("", config.model_dump(mode="json"))
    return flat


def _numbers(record: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """Every number of a record, those of mappings in it as `name/key`; `step` is the place, not a number."""
    found: list[tuple[str, float]] = []
    for key, value in record.items():
        if isinstance(value, Mapping):
            found += _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and key not in ("step", "steps"):
            found.append((f"{prefix}{key}", value))
    return found


def _options(name: str, config: RunConfig, root: Path | None, known: dict[str, Any]) -> dict[str, Any]:
    """By which name, and as which earlier run, a tracker is to know this one."""
    if name == "wandb":
        known.setdefault("id", uuid.uuid4().hex[:12])
        return {"name": config.name, "id": known["id"], "resume": "allow", "dir": str(root)}
    if name == "trackio":
        return {"name": config.name, "resume": "allow"}
    if name == "mlflow":
        return {"run_name": config.name, **({"run_id": known["id"]} if "id" in known else {})}
    return {}


def _read_state(path: Path) -> dict[str, dict[str, Any]]:
    """The state of each tracker; what is damaged is left out, as if it had not been written."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(state, dict):
        return {}
    return {
        name: {key: value for key, value in known.items() if type(value) is _kind(key)}
        for name, known in state.items()
        if isinstance(known, dict)
    }


def _kind(key: str) -> type | None:
    return int if key.startswith(_EVALUATION) else _KNOWN.get(key)


def _short(error: Exception) -> str:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= _FIRST_LINE else f"{text[:_FIRST_LINE]} ..."
