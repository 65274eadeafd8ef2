"""The doctor's findings on a page: what was seen, since when, what it means, what to try."""

from rich.console import Console
from rich.text import Text

from rlreason.doctor.reading import Record
from rlreason.doctor.watch import PAGE, Doctor, Finding
from rlreason.report.page import QUIET, counted, line, section

_STYLES = {"note": "cyan", "warning": "bold yellow"}


def show(doctor: Doctor, record: Record, console: Console) -> None:
    """Print all findings, those that stand first, and then what could not be judged."""
    steps = doctor.history.steps
    for remark in record.remarks:
        console.print(line(remark, QUIET))
    if not steps:
        console.print(line("no step of grpo or ppo is there yet: there is nothing to judge"))
        return
    standing = doctor.standing()
    over = [finding for finding in doctor.findings if finding.until is not None]
    span = f"step {steps[0]} to {steps[-1]}, {counted(len(steps), 'line')} of metrics"
    found = (
        f"{counted(len(standing), 'finding')}, {len(over)} more over" if doctor.findings else "nothing found"
    )
    console.print(section(found, span, QUIET))
    for finding in [*standing, *over]:
        _show_finding(finding, console)
    lacking = doctor.unjudged()
    if lacking:
        console.print(section("not judged", "for lack of numbers", QUIET))
        for rule, missing in lacking:
            console.print(line(f"{rule.title}: {', '.join(missing)}", QUIET))


def _show_finding(finding: Finding, console: Console) -> None:
    since = f"since step {finding.since}"
    if finding.until is not None:
        since = f"step {finding.since} to {finding.until}, over"
    level = finding.level if finding.until is None else "over"
    head = Text.assemble("\n", (level, _STYLES.get(level, QUIET)), "  ", (finding.rule.title, "bold"))
    console.print(Text.assemble(head, (f"  {since}  {PAGE}#{finding.rule.name}", QUIET)))
    console.print(line(f"seen: {finding.seen}"))
    if finding.latest != finding.seen:
        console.print(line(f"step {finding.held}: {finding.latest}"))
    console.print(line(f"it usually means: {finding.means}"))
    for hint in finding.hints:
        console.print(line(f"try {hint}"))
