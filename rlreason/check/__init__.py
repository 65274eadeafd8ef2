"""Before a run: can the rewards read the gold answers, and can they be fooled? No model is loaded."""

from rlreason.check.examine import CheckReport, check
from rlreason.check.show import show

__all__ = ["CheckReport", "check", "show"]
