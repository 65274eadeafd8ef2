"""What every section of a config has in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of the config: frozen, refuses unknown keys, and never turns one type into another.

    Strictness keeps YAML's surprises out: `yes` is not 1, `"8"` is not 8 and 8.5 is not 8. Fields that hold a
    list are tuples (a frozen object should not hold a mutable list) and say `strict=False`, so that the
    list that YAML gives is accepted; their entries stay strict.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def as_list(value: object) -> object:
    """A single text as a list of one; anything else unchanged."""
    return [value] if isinstance(value, str) else value
