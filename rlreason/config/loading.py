"""From a YAML file and `key.sub=value` overrides to a checked RunConfig, or to all that is wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rlreason.config import fields, messages
from rlreason.config.data import expand_rewards
from rlreason.config.mistake import Mistake
from rlreason.config.schema import CROSS_FIELD, RunConfig
from rlreason.config.yaml_text import read_yaml
from rlreason.errors import UserError

# What stands in for a required field that is missing or wrong, so that the rest can still be checked.
_STAND_INS: dict[str, Any] = {"name": "run", "stage": "grpo", "task": {}}
_TASK_STAND_INS: dict[str, Any] = {"name": "task"}


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the config in the YAML file at `path`, changed by `overrides` such as `grpo.optim.lr=1e-5`.

    Raises UserError: for a file that cannot be read or is no YAML, and, all in one message, for every
    unknown key, every value out of bounds, every pair of fields that disagree and every malformed override.
    """
    data, problems = _with_overrides(_read(Path(path)), overrides)
    config, mistakes = _validated(data)
    problems += mistakes
    if config is None or problems:
        count = "" if len(problems) == 1 else f"{len(problems)} mistakes:\n  "
        raise UserError(f"{path}: {count}" + "\n  ".join(problems))
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such file; give a config such as configs/quickstart.yaml"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 text (byte {error.start}); give a YAML file") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; give the path of a YAML file") from error
    try:
        data = read_yaml(text)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds {messages.show(data)}, not lines of the form 'key: value'")
    return data


def _with_overrides(data: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Apply the overrides in order, the last one winning; return the result and what was wrong with them."""
    problems = []
    rewards = [text for text in overrides if text.startswith("rewards.")]
    if "rewards" in data or rewards:
        # In full, the default included, so that `rewards.think_format.weight=0.2` has something to change.
        data = {**data, "rewards": expand_rewards(data.get("rewards", "accuracy"))}
    for override in overrides:
        try:
            keys, value = _parse_override(override)
            data = _with_value(data, keys, value)
        except ValueError as error:
            problems.append(f"override {override!r}: {error}")
    if "rewards" in data:
        data = {**data, "rewards": expand_rewards(data["rewards"])}
    return data, problems


def _parse_override(override: str) -> tuple[list[str], Any]:
    key, equals, text = override.partition("=")
    if not equals:
        raise ValueError("has no '='; write it as key=value, for example grpo.steps=50")
    if key.startswith("-"):
        raise ValueError(f"starts with a dash; write {override.lstrip('-')}")
    keys = key.strip().split(".")
    if not all(keys):
        raise ValueError("has an empty key; write it as key.sub=value, for example grpo.steps=50")
    return keys, _parse_value(keys, text)


def _parse_value(keys: list[str], text: str) -> Any:
    """Read the value as YAML, or for free text as it stands: `name=7`, `prompt.system=Be: brief`."""
    field = fields.find(keys)
    if field is None or not fields.is_text(field):
        return read_yaml(text)
    try:
        value = read_yaml(text)
    except ValueError:
        return text
    is_null = value is None and fields.accepts_null(field)
    return value if isinstance(value, str) or is_null else text


def _with_value(data: dict[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """Return a copy of `data` with one value set; absent and null sections on the way are created.

    Copies along the path, since a YAML alias lets two sections share one object.
    """
    first, *rest = keys
    if not rest:
        return {**data, first: value}
    inner = data.get(first)
    if inner is None:
        inner = {}
    if not isinstance(inner, dict):
        raise ValueError(f"{first} is {messages.show(inner)} and has no keys; set {first} as a whole")
    return {**data, first: _with_value(inner, rest, value)}


def _validated(data: dict[str, Any]) -> tuple[RunConfig | None, list[str]]:
    """Return the config, or None and all that is wrong.

    pydantic runs the checks across fields only when every single field is right. So that those mistakes
    are reported together as well, the wrong fields are set back to their defaults and the rest is checked
    again; what depends on a field that was set back is left out.
    """
    problems: list[str] = []
    unsure: set[str] = set()
    while True:
        try:
            config = RunConfig.model_validate(data)
            return (None if problems else config), problems
        except ValidationError as error:
            found = error.errors(include_url=False)
        if found[0]["type"] == CROSS_FIELD:
            mistakes: Sequence[Mistake] = found[0]["ctx"]["mistakes"]
            return None, problems + [mistake.text for mistake in mistakes if not _depends(mistake, unsure)]
        # A list whose entries were dropped as wrong is then "too short" as well: one mistake, one line.
        found = [entry for entry in found if entry["type"] != "too_short" or not entry["input"]] or found
        for entry in found:
            if not unsure & set(_prefixes(entry["loc"])):
                problems.append(messages.explain(entry))
        for entry in found:
            unsure.add(messages.dotted(entry["loc"]).removesuffix(".[key]"))
            meant = messages.suggestion(entry["loc"]) if entry["type"] == "extra_forbidden" else None
            if meant:
                unsure.add(messages.dotted(meant))
            data = _set_back(data, entry["loc"])


def _depends(mistake: Mistake, unsure: set[str]) -> bool:
    """Whether the mistake was found from a field that is itself wrong, or holds or lies in one that is."""
    return any(
        field == wrong or field.startswith(f"{wrong}.") or wrong.startswith((f"{field}.", f"{field}["))
        for field in mistake.fields
        for wrong in unsure
    )


def _prefixes(path: Sequence[int | str]) -> list[str]:
    return [messages.dotted(path[: end + 1]) for end in range(len(path))]


def _set_back(
    data: dict[Any, Any], path: Sequence[int | str], stand_ins: dict[str, Any] = _STAND_INS
) -> dict[Any, Any]:
    """Return a copy of `data` without what lies at `path` (a list entry takes its list along)."""
    first, *rest = path
    inner = data.get(first)
    if rest and rest != ["[key]"] and isinstance(inner, dict):
        below = _TASK_STAND_INS if first == "task" else {}
        inner = _set_back(inner, rest, below)
        if inner:
            return {**data, first: inner}
    kept = {key: value for key, value in data.items() if key != first}
    return kept | {key: value for key, value in stand_ins.items() if key == first}
