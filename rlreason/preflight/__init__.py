"""Before a run, with its model: tokens and their mask, lengths, memory, time and cost."""

from rlreason.preflight.examine import Finding, Preflight, examine
from rlreason.preflight.show import show

__all__ = ["Finding", "Preflight", "examine", "show"]
