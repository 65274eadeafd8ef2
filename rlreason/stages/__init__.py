"""The stages of a run, and the run itself. Only the command line and the preflight import this room."""

from rlreason.telemetry import no_telemetry

no_telemetry()  # here too, for those who come without the command line: the imports below read it

from rlreason.stages.run import run  # noqa: E402

__all__ = ["run"]
