"""What a person looks at while a run is going on and when it has ended."""

from rlreason.report.terminal import Plan, View

__all__ = ["Plan", "View"]
