"""One HTML file about one run, or about several side by side."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlreason.errors import UserError
from rlreason.html_report.completion import LONGEST_TEXT, Packed, spec_of
from rlreason.html_report.embed import embedded
from rlreason.html_report.page import MARK, render
from rlreason.html_report.reading import check_run, read_config, read_page
from rlreason.html_report.samples import LARGEST_GROUP, Sampled, sample
from rlreason.runs.atomic import write_text
from rlreason.runs.directory import REPORT, SAMPLES

ROOM = 11_000_000
"""Bytes for the completions of all runs in a page. With all else it stays below 20 MB, and paints at once."""
POINTS = 2_000
_POINTS_OF_ALL = 6_000
MOST_RUNS = 12


@dataclass(frozen=True)
class RunReport:
    """A report that has been written: its file, and how many of the completions there are it holds."""

    path: Path
    size: int
    shown: int
    completions: int

    def text(self) -> str:
        """One line for the screen."""
        kept = f"{self.shown:,} of {self.completions:,} completions" if self.completions else "no completions"
        return f"{self.path} ({self.size / 1e6:.1f} MB, {kept})"


def report_command(runs: Sequence[Path], out: Path | None) -> RunReport:
    """Write the report of `runs` to `out`; see `place` for where it goes if that is None."""
    if len(runs) > MOST_RUNS:
        raise UserError(f"RUN: {len(runs)} runs are more than a page shows well; give at most {MOST_RUNS}")
    for root in runs:
        check_run(root)
    twice = next((root for place, root in enumerate(runs) if root.resolve() in _resolved(runs[:place])), None)
    if twice is not None:
        raise UserError(f"RUN: {twice} is given twice; give each run once")
    return write_report(runs, place(runs, out))


def _resolved(runs: Sequence[Path]) -> set[Path]:
    return {root.resolve() for root in runs}


def place(runs: Sequence[Path], out: Path | None) -> Path:
    """Where a report goes: `out`, or else the directory of its one run, or the current folder for several.

    Raises UserError where that is a file that is no report: nothing of a run is overwritten by mistake.
    """
    path = out or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    if path.is_dir():
        raise UserError(f"--out: {path} is a folder; give the name of a file in it, such as {path / REPORT}")
    if not path.parent.is_dir():
        raise UserError(f"--out: {path} cannot be written: there is no folder {path.parent}; make it first")
    if path.exists() and not _is_report(path):
        raise UserError(f"--out: {path} is there already and is no report; give another name")
    return path


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return MARK.encode() in file.read(200)
    except OSError:
        return False


def write_report(runs: Sequence[Path], path: Path) -> RunReport:
    """Write the report of `runs`, which are run directories, to `path`: all of it, or nothing.

    Raises UserError where it cannot be written, or the completions of a run cannot be read.
    """
    points = min(POINTS, _POINTS_OF_ALL // len(runs))
    pages, packed, counts = [], [], []
    for root, name in zip(runs, names(runs), strict=True):
        page = read_page(root, name=name, points=points)
        sampled = sample(root / SAMPLES, room=ROOM // len(runs))
        page["sample"] = _told(sampled)
        pages.append(page)
        packed.append(embedded(_packed(root, sampled)))
        counts.append((sampled.kept, sampled.completions))
    data = {
        "runs": pages,
        "differences": _differences([page.pop("config") for page in pages]),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    title = ", ".join(page["name"] for page in pages)
    html = render(title, embedded(data), packed)
    try:
        write_text(path, html, unlocked=True)
    except UserError as error:
        cause = error.__cause__
        said = cause.strerror if isinstance(cause, OSError) else error
        raise UserError(
            f"--out: {path} cannot be written: {said}; give another place with --out, or make room"
        ) from error
    return RunReport(
        path, len(html.encode()), sum(kept for kept, _ in counts), sum(all_ for _, all_ in counts)
    )


def _differences(configs: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str | None]]]:
    """The fields that are not the same in all runs, each with its values; where a run is kept is none."""
    keys = dict.fromkeys(key for config in configs for key in config)
    found = (
        (key, [config.get(key) for config in configs]) for key in keys if key not in ("name", "output_dir")
    )
    return [(key, values) for key, values in found if len(set(values)) > 1]


def _packed(root: Path, sampled: Sampled) -> dict[str, Any]:
    columns = Packed(spec_of(read_config(root)))
    for (step, number), group in sampled.groups.items():
        columns.add(step, number, group)
    return columns.record()


def _told(sampled: Sampled) -> dict[str, Any]:
    """What the page says of the choice: counts for the sentences in static/app/browser.js."""
    return {
        "kept": sampled.kept,
        "completions": sampled.completions,
        "groups": len(sampled.groups),
        "all_groups": sampled.all_groups,
        "shown_steps": len({step for step, _ in sampled.groups}),
        "steps": sampled.steps,
        "per_step": sampled.per_step,
        "unreadable": sampled.unreadable,
        "largest_group": LARGEST_GROUP,
        "longest_text": LONGEST_TEXT,
    }


def names(runs: Sequence[Path]) -> list[str]:
    """What each run is called: the name of its folder, with as many folders before it as tell them apart."""
    whole = [root.resolve().parts for root in runs]
    for depth in range(1, max(map(len, whole)) + 1):
        short = [os.sep.join(parts[-depth:]) for parts in whole]
        if len(set(short)) == len(short):
            return short
    return [str(root) for root in runs]
