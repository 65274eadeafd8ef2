"""What a run has left behind, as the page shows it. Any part of it may be missing, or damaged at its end."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlreason.doctor import Doctor, Finding, examine, read_run
from rlreason.doctor.history import finite
from rlreason.errors import UserError
from rlreason.html_report.numbers import rounded, stages
from rlreason.report.text import harmless
from rlreason.runs import resume
from rlreason.runs.directory import METRICS
from rlreason.runs.jsonl import read_lines
from rlreason.runs.resume import ONLINE

_SUMMARY = ("accuracy", "n", "samples", "format", "accuracy_given_format", "derives", "truncated", "tokens")


def check_run(root: Path) -> None:
    """Raise UserError where `root` is no run directory."""
    if not root.is_dir():
        raise UserError(
            f"RUN: {root}: there is no such folder; give a run directory, such as runs/quickstart"
        )
    if not (root / METRICS).is_file() and not (root / resume.CONFIG).is_file():
        raise UserError(
            f"RUN: {root}: is no run (it holds neither {METRICS} nor {resume.CONFIG}); give a run directory, "
            "such as runs/quickstart"
        )


def read_config(root: Path) -> dict[str, Any]:
    """The config of a run; nothing where it cannot be read."""
    path = root / resume.CONFIG
    try:
        return resume.parse_config(path.read_text(encoding="utf-8"), source=path)
    except (OSError, UnicodeDecodeError, UserError):
        return {}


def read_page(root: Path, *, name: str, points: int) -> dict[str, Any]:
    """All of a run but its completions, ready to be embedded; at most `points` points a curve."""
    config, remarks = read_config(root), []
    path = root / METRICS
    try:
        lines, damaged = read_lines(path) if path.is_file() else ([], 0)
    except UserError as error:
        lines, damaged = [], 0
        remarks.append(str(error))
    if damaged:
        remarks.append(f"{METRICS}: {damaged} lines are no JSON records and were left out")
    columns = stages(lines, points=points)
    named = config.get("stage")
    planned = [harmless(stage) for stage in (named if isinstance(named, list) else [named]) if stage]
    return {
        "name": harmless(name),
        "finished": _finished(root),
        "planned": planned,
        "stages": columns,
        "online": next((stage["name"] for stage in reversed(columns) if stage["name"] in ONLINE), None),
        "headline": _headline(root),
        "evaluations": _evaluations(
            root, [x for stage in columns if stage["name"] in ONLINE for x in stage["x"]]
        ),
        "reward_model": _reward_model(root),
        "rewards": _rewards(config),
        "config": {harmless(key): harmless(value)[:200] for key, value in _flat(config).items()},
        "doctor": _doctor(root, remarks),
        "remarks": [harmless(remark) for remark in remarks],
    }


def _finished(root: Path) -> bool:
    try:
        return resume.state_of(root) == "finished"
    except UserError:  # no config, but metrics
        return False


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _summary(found: Any) -> dict[str, Any] | None:
    """The numbers of an evaluation; None where it has no accuracy, or is none."""
    if not isinstance(found, Mapping) or finite(found.get("accuracy")) is None:
        return None
    return {name: rounded(found.get(name)) for name in _SUMMARY} | {"ci95": _interval(found.get("ci95"))}


def _interval(bounds: Any) -> list[float | None] | None:
    if isinstance(bounds, list) and len(bounds) == 2 and all(finite(bound) is not None for bound in bounds):
        return [rounded(bound) for bound in bounds]
    return None


def _headline(root: Path) -> dict[str, Any]:
    """Held-out accuracy before, after, the gain, and the table of stages, as far as they are there."""
    result = _json(root / resume.EVAL)
    before = result.get("before") or _json(root / "evaluations/before/completions.json").get("summary")
    after = result.get("after") or _json(root / "evaluations/after/completions.json").get("summary")
    gain, steps = result.get("gain"), result.get("steps")
    gain = gain if isinstance(gain, Mapping) else {}
    value = finite(gain.get("value"))
    table = [
        {
            "name": harmless(step.get("name", "")),
            "accuracy": rounded(step.get("accuracy")),
            "ci95": _interval(step.get("ci95")),
        }
        for step in (steps if isinstance(steps, list) else [])
        if isinstance(step, Mapping)
    ]
    if not table:  # a run that is still going on, or has no reinforcement learning
        named = {"pretrain": "pretrain", "sft": "sft", "before": "before"}
        found = [
            (title, _summary(_json(root / f"evaluations/{label}/completions.json").get("summary")))
            for label, title in named.items()
        ]
        table = [
            {"name": title, "accuracy": one["accuracy"], "ci95": one["ci95"]} for title, one in found if one
        ]
    return {
        "before": _summary(before),
        "after": _summary(after),
        "gain": None
        if value is None
        else {"value": rounded(value), "ci95": _interval(gain.get("ci95")), "n": rounded(gain.get("n"))},
        "table": table,
    }


def _evaluations(root: Path, steps: list[int]) -> list[dict[str, Any]]:
    """The evaluations on held-out questions around and within the online stage, by step."""
    found = []
    for path in sorted((root / "evaluations").glob("*/completions.json")):
        label = path.parent.name
        number = label.removeprefix("step-")
        if label == "before":
            step = 0
        elif label == "after" and steps:
            step = steps[-1]
        elif number != label and number.isascii() and number.isdigit():
            step = int(number)
        else:
            continue
        summary = _summary(_json(path).get("summary"))
        if summary:
            found.append({"step": step, **summary})
    return sorted(found, key=lambda one: one["step"])


def _reward_model(root: Path) -> dict[str, Any] | None:
    """How often the reward model puts the better of two held-out completions first."""
    report = _json(root / "checkpoints/reward_model/evaluation.json")
    if finite(report.get("accuracy")) is None:
        return None
    names = ("accuracy", "length_accuracy", "calibration_error", "n")
    return {name: rounded(report.get(name)) for name in names} | {"ci95": _interval(report.get("ci95"))}


def _rewards(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Weight and gate of each reward, as the config has them."""
    rewards = config.get("rewards")
    return {
        harmless(name): {"weight": rounded(term.get("weight")), "gate": harmless(term.get("gate") or "")}
        for name, term in (rewards.items() if isinstance(rewards, Mapping) else ())
        if isinstance(term, Mapping)
    }


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# ---------------------------------------------------------------------- the doctor


def _doctor(root: Path, remarks: list[str]) -> dict[str, Any] | None:
    """The findings, those that stand first; None where there is no step to judge."""
    try:
        record = read_run(root)
    except UserError as error:
        remarks.append(str(error))
        return None
    doctor = examine(record)
    remarks += [remark for remark in record.remarks if remark not in remarks]
    if not record.lines:
        return None
    ordered = doctor.standing() + [finding for finding in doctor.findings if finding.until is not None]
    return {"findings": [_finding(one) for one in ordered], "unjudged": _unjudged(doctor)}


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.rule.name,
        "title": finding.rule.title,
        "level": finding.level,
        "since": finding.since,
        "held": finding.held,
        "until": finding.until,
        "seen": finding.seen,
        "latest": finding.latest if finding.latest != finding.seen else "",
        "means": finding.means,
        "hints": list(finding.hints),
    }


def _unjudged(doctor: Doctor) -> list[str]:
    return [f"{rule.title}: {', '.join(missing)}" for rule, missing in doctor.unjudged()]
