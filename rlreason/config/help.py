"""What the command line and editors tell about the fields, and a config written out in full."""

import textwrap
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo

from rlreason.config import fields
from rlreason.config.base import Section
from rlreason.config.schema import RunConfig
from rlreason.config.yaml_text import write_yaml

WIDTH = 100

USAGE = """\
usage: {program} CONFIG [key.sub=value ...]
       {program} --help | --schema

Train a model as the YAML file CONFIG says. Further arguments change single fields of it:

  {program} configs/quickstart.yaml
  {program} configs/quickstart.yaml name=warmer seed=1 rollout.temperature=1.2
  {program} configs/quickstart.yaml model.path=Qwen/Qwen3-0.6B model.lora.rank=8
  {program} configs/quickstart.yaml 'rewards={{accuracy: 1, think_format: 0.1}}'

A run writes to output_dir/name, and goes on where it stopped when it is started again. --schema
prints a JSON Schema with which editors complete and check configs. Exit codes: 0 = done, 2 = the
config or something that it points at cannot be used, 130 = interrupted.
"""


class FieldHelp(NamedTuple):
    """One row of the help: all four as text, `default` being `required` where there is none."""

    key: str
    type: str
    default: str
    help: str


def field_help() -> list[FieldHelp]:
    """Every field in order, a section before its fields; `rewards.NAME.weight` stands for any reward's."""
    return [
        FieldHelp(key, fields.kind(field), _default(field), field.description or "")
        for key, field in fields.walk()
    ]


def field_table() -> str:
    """The fields as text of at most 100 columns, grouped by section."""
    rows = field_help()
    indent = max(len(row.key) for row in rows) + 4
    sections = {row.key.partition(".")[0] for row in rows if "." in row.key}
    lines = []
    for row in rows:
        if row.key in sections:
            lines += ["", f"{row.key}: {row.help}"]
            continue
        holds = "; ".join(part for part in (row.type, _default_in_words(row.default)) if part)
        text, kind = (textwrap.wrap(part, WIDTH - indent) for part in (row.help, f"[{holds}]"))
        if len(kind) == 1 and len(text[-1]) + 2 + len(kind[0]) <= WIDTH - indent:
            text[-1] += f"  {kind.pop()}"
        text += kind
        lines += [f"  {row.key}".ljust(indent) + text[0], *(" " * indent + line for line in text[1:])]
    return "\n".join(lines) + "\n"


def help_text(program: str = "train.py") -> str:
    """The answer to --help: usage, examples and every field."""
    return f"{USAGE.format(program=program)}\nFields\n\n{field_table()}"


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a config file, with the help of every field."""
    schema = RunConfig.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def dump(config: RunConfig) -> str:
    """The config as YAML with every default written out; loading it gives an equal config."""
    return write_yaml(config.model_dump(mode="json"))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if isinstance(value, Section) else _as_written(value)


def _as_written(value: Any) -> str:
    """A value in YAML on one line."""
    match value:
        case None | bool():
            return "null" if value is None else str(value).lower()
        case float():
            return format(value, "g")
        case Section():
            return _as_written(value.model_dump(exclude_defaults=True))
        case dict():
            return "{" + ", ".join(f"{key}: {_as_written(inner)}" for key, inner in value.items()) + "}"
        case tuple():
            return "[" + ", ".join(_as_written(inner) for inner in value) + "]"
        case _:
            return str(value)


def _default_in_words(default: str) -> str:
    return default if default in ("", "required") else f"default {default}"
