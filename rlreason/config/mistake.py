"""One mistake in a config that shows only when several fields are read together."""

from typing import NamedTuple


class Mistake(NamedTuple):
    """`text` names field, value and remedy; `fields` are the dotted keys that it depends on."""

    text: str
    fields: tuple[str, ...]
