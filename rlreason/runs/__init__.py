"""The run directory: everything there is to know of one training run, in one folder."""

from rlreason.runs.directory import RunDirectory

__all__ = ["RunDirectory"]
