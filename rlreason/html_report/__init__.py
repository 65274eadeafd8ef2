"""The HTML report: one file that shows runs to a person, opens offline and asks no network for anything."""

from rlreason.html_report.report import RunReport, report_command, write_report

__all__ = ["RunReport", "report_command", "write_report"]
