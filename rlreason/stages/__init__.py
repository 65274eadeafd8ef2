"""The stages of a run, and the run itself. Nothing imports this room but the command line."""

from rlreason.stages.run import run

__all__ = ["run"]
