"""The run directory: everything there is to know of one training run, in one folder."""

from rlreason.runs.directory import RunDirectory, check_startable

__all__ = ["RunDirectory", "check_startable"]
