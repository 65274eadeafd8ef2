"""YAML as configs use it: the scalars of YAML 1.2, no duplicate keys, and errors that name the line.

PyYAML implements YAML 1.1, where `1e-5` is text, `no` is false, `010` is 8, `1:30` is 90 and `2026-01-31`
is a date. A learning rate that silently becomes text, or a run called `no` that becomes false, helps nobody.
"""

import re
from typing import Any

import yaml

_SCALARS = [
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9][0-9_]*\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    ("tag:yaml.org,2002:merge", r"<<", ["<"]),
]


class _Loader(yaml.SafeLoader):
    # A fresh table: PyYAML copies the inherited one on the first add_implicit_resolver otherwise.
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own name and type

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[str | None] = []  # anchors of the lists and mappings that are not closed yet

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        # `a: &x [*x]` is legal YAML for a list that holds itself, and nothing that reads configs would end.
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            if event.anchor in self._open:
                raise yaml.composer.ComposerError(
                    None,
                    None,
                    f"*{event.anchor} stands inside of &{event.anchor}; remove it",
                    event.start_mark,
                )
        return super().compose_node(parent, index)

    def compose_sequence_node(self, anchor: Any) -> yaml.SequenceNode:
        self._open.append(anchor)
        node = super().compose_sequence_node(anchor)
        self._open.pop()
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        self._open.append(anchor)
        node = super().compose_mapping_node(anchor)
        self._open.pop()
        # Checked here and not while constructing, where merged keys (<<) are already mixed in.
        seen: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"{key.value!r} is already set in line {seen[key.value]}; keep one",
                    key.start_mark,
                )
            seen[str(key.value)] = line
        return node


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_str(self, text: str) -> yaml.ScalarNode:
        # Unicode's own line ends are lost in plain and single-quoted text; in double quotes they are escaped.
        style = '"' if set(text) & {"\x85", "\u2028", "\u2029"} else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)
for _tag, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)
    # Beside the rules of YAML 1.1, so that text which either version would misread gets its quotes.
    _Dumper.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), _first)


def read_yaml(text: str) -> Any:
    """Return the value that `text` holds. Raises ValueError that says what is wrong, and in which line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{_remedy(error.problem or error.context or 'not valid YAML')}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"line {line}: a character that YAML does not allow; remove it") from error
    except RecursionError as error:
        raise ValueError("the lists or mappings are nested too deeply") from error


def write_yaml(data: Any) -> str:
    """Return YAML that `read_yaml` turns back into `data`, keys in the given order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _remedy(problem: str) -> str:
    if "mapping values are not allowed" in problem:
        return "a ':' where none can be; put text that holds ': ' in quotes and check the indentation"
    if "\\t" in problem:
        return "a tab; indent with spaces"
    if "expected <block end>" in problem:
        return "this line does not fit the ones above it; check its indentation"
    if problem == "second occurrence":
        return "an anchor (&) that is set twice; rename one"
    if problem == "but found another document":
        return "a second document (---); keep one"
    if problem.startswith("could not determine a constructor"):
        return "a tag (!) that configs do not know; remove it"
    return problem
