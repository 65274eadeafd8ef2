"""Whether a folder holds a run, whether that is finished, and whether a config and its rows go on with it."""

import copy
import hashlib
import json
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from rlreason.errors import UserError
from rlreason.runs.atomic import is_leftover
from rlreason.runs.lock import LOCK, PID

CONFIG = "config.yaml"
EVAL = "eval.json"
MODEL = "model"

# What may differ between the start of a run and its resumption: how long it trains, what it prints and
# keeps, how much it computes at a time, which changes sums in their last bits only, and what the folder is
# called (it may have been moved or renamed).
MAY_CHANGE = (
    *("grpo.steps", "ppo.steps", "log", "name", "output_dir"),
    *("threads", "grpo.micro_batch_tokens", "ppo.micro_batch_tokens", "rollout.max_sequences"),
)

ONLINE = ("grpo", "ppo")
"""The stages whose models are measured before and after."""

State = Literal["new", "unfinished", "finished"]


def state_of(root: Path) -> State:
    """Say what `root` holds. Raises UserError where it holds something that is no run."""
    if not root.exists():
        return "new"
    if not root.is_dir():
        raise UserError(f"{root} is a file. Choose another `name=` or `output_dir=`.")
    if (root / CONFIG).is_file():
        return "finished" if _is_finished(root) else "unfinished"
    foreign = sorted(
        entry.name
        for entry in root.iterdir()
        if entry.name not in (LOCK, PID) and not is_leftover(entry.name)
    )
    if foreign:
        raise UserError(
            f"{root} is not empty and holds no run (there is {foreign[0]!r}, but no {CONFIG}). Nothing was "
            "written there. Choose another `name=` or `output_dir=`."
        )
    return "new"


def _is_finished(root: Path) -> bool:
    """A final model and its evaluation. One that has a `before` but no `after` yet is still going on.

    A run without reinforcement learning has no such evaluation: its model is the end of it.
    """
    if not (root / MODEL).is_dir():
        return False
    if not (root / EVAL).is_file():
        return _without_online_stage(root)
    try:
        evaluation = json.loads((root / EVAL).read_text(encoding="utf-8"))
    except ValueError:
        return True
    return "after" in evaluation or "before" not in evaluation


def _without_online_stage(root: Path) -> bool:
    """Whether the config names stages, and none that learns from its own completions."""
    path = root / CONFIG
    try:
        named = parse_config(path.read_text(encoding="utf-8"), source=path).get("stage")
    except (OSError, UnicodeDecodeError, UserError):  # told of where the run is opened
        return False
    planned = named if isinstance(named, list) else [named] if named else []
    return bool(planned) and not any(stage in ONLINE for stage in planned)


def refuse_finished(root: Path) -> None:
    """Raise the UserError that says where the result of a finished run is."""
    result = f", its result {root / EVAL}" if (root / EVAL).is_file() else ""
    raise UserError(
        f"the run in {root} is finished: its model is {root / MODEL}{result}. Choose another `name=` for a "
        "new run."
    )


def parse_config(text: str, *, source: Path) -> dict[str, Any]:
    """Return the mapping in a `config.yaml`. Raises UserError naming `source` where there is none."""
    try:
        config = copy.deepcopy(_parsed(text))
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise UserError(f"{source} cannot be read as YAML: {said}. Choose another `name=`.") from None
    if not isinstance(config, dict):
        raise UserError(f"{source} holds no run config. Choose another `name=`.")
    return config


@lru_cache(maxsize=8)
def _parsed(text: str) -> Any:
    """PyYAML takes 50 ms for a config, and a run reads its own half a dozen times."""
    return yaml.safe_load(text)


def refuse_other_config(root: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise UserError if the two configs differ in more than `MAY_CHANGE`, naming every such key."""
    old, new = _flat(before), _flat(now)
    absent = object()
    lines = [
        f"  {key}: {_shown(old, key)} when it was started, {_shown(new, key)} now"
        for key in sorted({*old, *new})
        if old.get(key, absent) != new.get(key, absent) and not _may_change(key)
    ]
    if lines:
        raise UserError(
            f"{root} holds a run of another config. These keys differ:\n"
            + "\n".join(lines)
            + "\nChange `name=` to start a new run, or restore those keys to go on with this one."
        )


def _may_change(key: str) -> bool:
    return any(key == free or key.startswith(f"{free}.") for free in MAY_CHANGE)


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _shown(flat: dict[str, Any], key: str) -> str:
    return repr(flat[key]) if key in flat else "not set"


def digest_of(rows: Iterable[dict[str, Any]]) -> str:
    """The SHA-256 of tokenized rows, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def check_rows(carried: dict[str, Any] | None, digest: str, *, field: str, value: object) -> None:
    """Raise UserError if a stage that goes on would train on other rows than it began with.

    A checkpoint of an earlier version carries no digest, and is gone on from as it is.
    """
    if carried is not None and carried.get("rows", digest) != digest:
        raise UserError(
            f"{field}: {value!r} no longer gives the rows that this stage began with, in the middle of which "
            "it would go on; restore the file as it was, or choose another name= for a new run"
        )
