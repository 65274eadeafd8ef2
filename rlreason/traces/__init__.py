"""The traces command: completions worth imitating, sampled and filtered, or written by the task."""

from rlreason.traces.command import traces_command

__all__ = ["traces_command"]
