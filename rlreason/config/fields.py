"""Looking fields up by their dotted key, and saying what a field holds in plain words."""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from rlreason.config.base import Section
from rlreason.config.schema import RunConfig

ANY_NAME = "NAME"
"""Stands for a name of the user's own in a dotted key, as in `rewards.NAME.weight`."""

_PLAIN = {bool: "true | false", int: "whole number", float: "number", str: "text", types.NoneType: "null"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def walk(section: type[Section] = RunConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted key and declaration of every field, a section before what is in it."""
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        yield key, field
        inner = section_in(field.annotation)
        if inner is not None:
            yield from walk(inner, f"{key}.{ANY_NAME}." if _is_mapping(field.annotation) else f"{key}.")


def find(path: Sequence[int | str]) -> FieldInfo | None:
    """The declaration at a path of keys, or that of the list or mapping around an entry; None if unknown."""
    section: type[Section] | None = RunConfig
    field: FieldInfo | None = None
    inside_mapping = False
    for part in path:
        if inside_mapping:  # `part` is a name of the user's own
            inside_mapping = False
        elif section is None:
            return field
        else:
            field = section.model_fields.get(str(part))
            if field is None:
                return None
            section, inside_mapping = section_in(field.annotation), _is_mapping(field.annotation)
    return field


def known_keys(path: Sequence[int | str]) -> list[str]:
    """The keys that the section at a path takes."""
    field = find(path)
    section = RunConfig if not path else section_in(field.annotation) if field else None
    return list(section.model_fields) if section else []


def is_text(field: FieldInfo) -> bool:
    """Whether the field holds free text, or text or null."""
    return set(_members(field.annotation)) - {types.NoneType} == {str}


def accepts_null(field: FieldInfo) -> bool:
    """Whether null is a value of the field."""
    return types.NoneType in _members(field.annotation)


def section_in(annotation: Any) -> type[Section] | None:
    """The section that an annotation holds: itself, optional, or as the values of a mapping."""
    for member in _members(annotation):
        if isinstance(member, type) and issubclass(member, Section):
            return member
        if _is_mapping(member):
            return section_in(get_args(member)[1])
    return None


def kind(field: FieldInfo) -> str:
    """What the field holds, with its bounds: `whole number >= 2`."""
    bounds = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(item, name, None) is not None
    ]
    words = [_words(member) for member in _members(field.annotation)]
    return " or ".join([" ".join([words[0], ", ".join(bounds)]).strip(), *words[1:]])


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return " | ".join(str(choice) for choice in get_args(annotation))
    if origin is tuple:
        return f"list of {_words(get_args(annotation)[0])}"
    if origin is Annotated:
        return _words(get_args(annotation)[0])
    if _is_mapping(annotation):
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    return _PLAIN[annotation]


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = get_origin(annotation) in (Union, types.UnionType)
    return get_args(annotation) if is_union else (annotation,)


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict
