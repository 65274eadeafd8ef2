"""The doctor: reads the metrics of a run, while it trains or later, and says in words what is wrong."""

from rlreason.doctor.history import Facts
from rlreason.doctor.reading import Names, Record, examine, facts_of, read, read_run, replayed
from rlreason.doctor.rules import RULES
from rlreason.doctor.show import show
from rlreason.doctor.watch import Doctor, Finding

__all__ = [
    "RULES",
    "Doctor",
    "Facts",
    "Finding",
    "Names",
    "Record",
    "examine",
    "facts_of",
    "read",
    "read_run",
    "replayed",
    "show",
]
