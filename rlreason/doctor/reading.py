"""What a run has left behind, as lines for the doctor: a run directory, or the state of a TRL trainer."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlreason.doctor.history import LEARNED, NON_FINITE, Facts, finite
from rlreason.doctor.watch import Doctor
from rlreason.errors import UserError
from rlreason.runs import resume
from rlreason.runs.directory import METRICS
from rlreason.runs.jsonl import read_lines

ONLINE = ("grpo", "ppo")
_STATE = "trainer_state.json"
_LEARNED = LEARNED.removeprefix("reward/")

# What TRL 1.16 calls in `log_history` what is measured here. `clip_ratio` of the ratio, not of the length.
_TRL_NAMES = {
    "reward": "reward",
    "kl": "kl",
    "entropy": "entropy",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "lr",
    "completions/mean_length": "length",
    "completions/clipped_ratio": "truncated",
    "clip_ratio/region_mean": "clipped",
    "cispo_clip_ratio": "clipped",
    "sampling/sampling_logp_difference/mean": "sampler_gap",
}
_BEFORE, _AFTER = "rewards/", "/mean"


@dataclass(frozen=True)
class Names:
    """Which of TRL's reward functions is what; None: found by its name, or there is none."""

    accuracy: str | None = None
    format: str | None = None
    learned: str | None = None


@dataclass
class Record:
    """A run as it was read: its lines in order, its evaluations by step, and what to say of the reading."""

    facts: Facts
    lines: list[dict[str, Any]]
    evaluations: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def examine(record: Record) -> Doctor:
    """Let a doctor see a whole run."""
    doctor = Doctor(record.facts)
    for _ in replayed(doctor, record):
        pass
    return doctor


def replayed(doctor: Doctor, record: Record) -> Iterator[list[str]]:
    """Show the doctor each line, and each evaluation as soon as it was there; yield what it tells of."""
    waiting = sorted(record.evaluations, key=lambda one: one[0])
    for line in record.lines:
        while waiting and waiting[0][0] < line["step"]:
            doctor.measured(*waiting.pop(0))
        yield doctor.step(line)
    for one in waiting:
        doctor.measured(*one)


def read(path: Path, names: Names | None = None) -> Record:
    """Read a run directory of this project, a `trainer_state.json` of TRL, or a folder that holds one.

    Raises UserError where there is none, or nothing in it can be read.
    """
    state = _trainer_state(path)
    if state is not None:
        return read_trl(state, names or Names())
    if names is not None and names != Names():
        raise UserError(
            f"{path}: --accuracy, --format and --learned name reward functions of TRL; leave them out"
        )
    if not path.is_dir():
        raise UserError(f"{path}: there is no such run; give a run directory, or a trainer_state.json of TRL")
    if not (path / METRICS).is_file() and not (path / resume.CONFIG).is_file():
        raise UserError(f"{path}: is no run (it holds neither {METRICS} nor {resume.CONFIG} nor {_STATE})")
    return read_run(path)


def read_run(root: Path, *, until: int | None = None) -> Record:
    """Read a run directory, to step `until` if one is given. One that is being written to is fine."""
    path = root / METRICS
    lines, damaged = read_lines(path) if path.is_file() else ([], 0)
    if damaged and not lines:
        raise UserError(f"{path}: none of its {damaged} lines is a JSON record; it is damaged or no metrics")
    config, remarks = _config(root)
    by_step: dict[int, dict[str, Any]] = {}
    stages = config.get("stage")
    stage = next((line["stage"] for line in lines if line.get("stage") in ONLINE), "grpo")
    if isinstance(stages, list):
        stage = "ppo" if "ppo" in stages else "grpo"
    for line in lines:
        step = line.get("step")
        if line.get("stage") != stage or not isinstance(step, int) or isinstance(step, bool):
            continue
        if until is None or step <= until:
            by_step[step] = line
    if damaged:
        remarks.append(f"{METRICS}: {damaged} lines are no JSON records and were left out")
    evaluations = [one for one in _evaluations(root, remarks) if until is None or one[0] <= until]
    lines = [by_step[step] for step in sorted(by_step)]
    return Record(facts_of(config, stage), lines, evaluations, remarks)


def facts_of(config: Mapping[str, Any], stage: str) -> Facts:
    """What the rules ask of a run's config, given as the mapping that `config.yaml` holds."""
    rewards, main = _section(config, "rewards"), _section(config, "eval").get("reward")
    groups = _section(config, stage).get("prompts_per_step")
    return Facts(
        stage,
        groups if isinstance(groups, int) and groups > 0 else None,
        _LEARNED in rewards and main != _LEARNED,
    )


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _config(root: Path) -> tuple[dict[str, Any], list[str]]:
    path = root / resume.CONFIG
    try:
        return resume.parse_config(path.read_text(encoding="utf-8"), source=path), []
    except (OSError, UnicodeDecodeError, UserError):
        return {}, [f"{resume.CONFIG} cannot be read: the number of questions in a step is not known"]


def _evaluations(root: Path, remarks: list[str]) -> list[tuple[int, dict[str, Any]]]:
    """The summaries of the evaluations before and within the stage, by the step they were made after."""
    found = []
    for path in sorted((root / "evaluations").glob("*/completions.json")):
        label = path.parent.name
        step = 0 if label == "before" else int(label[5:]) if _is_step(label) else None
        if step is None:
            continue
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))["summary"]
            Doctor(Facts()).measured(step, summary)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            remarks.append(f"evaluations/{label} cannot be read and was left out")
        else:
            found.append((step, summary))
    return found


def _is_step(label: str) -> bool:
    return label.startswith("step-") and label[5:].isascii() and label[5:].isdigit()


# ---------------------------------------------------------------------- TRL


def _trainer_state(path: Path) -> Path | None:
    """The trainer state that `path` is or holds, that of its newest checkpoint; None where there is none."""
    if path.suffix == ".json" and path.is_file():
        return path
    if (path / _STATE).is_file():
        return path / _STATE
    saved = [
        (int(number), found)
        for found in path.glob(f"checkpoint-*/{_STATE}")
        if (number := found.parent.name.removeprefix("checkpoint-")).isascii() and number.isdigit()
    ]
    return max(saved)[1] if saved else None


def read_trl(path: Path, names: Names) -> Record:
    """Read the log of TRL's GRPOTrainer out of the `trainer_state.json` of a checkpoint."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        log = [entry for entry in state["log_history"] if isinstance(entry, dict)]
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as the state of a trainer, with a log_history") from error
    entries = [e for e in log if isinstance(e.get("step"), int) and ("reward" in e or _reward_names([e]))]
    if log and not entries:
        raise UserError(f"{path}: its log_history has no rewards; give the state of a GRPOTrainer")
    rewards = _reward_names(entries)
    chosen = Names(
        _chosen("accuracy", names.accuracy, rewards, ("accuracy", "correct")),
        _chosen("format", names.format, rewards, ("format",)),
        _chosen("learned", names.learned, rewards, ()),
    )
    remarks = [
        f"{role}: {name}" if name else f"{role}: no reward of that name; --{role} NAME says which it is"
        for role, name in (("accuracy", chosen.accuracy), ("format", chosen.format))
    ]
    every = len(entries) / max((entry["step"] for entry in entries), default=1)  # logged lines a step
    planned = finite(state.get("max_steps"))
    steps = {} if planned is None else {"steps": planned * every}
    by_step = {entry["step"]: steps | _translated(entry, chosen) for entry in entries}
    facts = Facts(learned=chosen.learned is not None, trl=True)
    return Record(facts, [by_step[step] for step in sorted(by_step)], remarks=remarks)


def _reward_names(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for entry in entries for key in entry)
    return [
        key[len(_BEFORE) : -len(_AFTER)]
        for key in keys
        if isinstance(key, str) and key.startswith(_BEFORE) and key.endswith(_AFTER)
    ]


def _chosen(role: str, named: str | None, rewards: Sequence[str], words: Sequence[str]) -> str | None:
    if named is not None and named not in rewards:
        raise UserError(f"--{role}: there is no reward {named!r}; there are {', '.join(rewards) or 'none'}")
    return named or next((name for name in rewards if any(word in name.lower() for word in words)), None)


def _translated(entry: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """A line in the names of this project. A NaN of TRL stays one; what it could not measure is None."""
    line: dict[str, Any] = {"step": entry["step"]}
    line |= {ours: entry[theirs] for theirs, ours in _TRL_NAMES.items() if theirs in entry}
    equal = finite(entry.get("frac_reward_zero_std"))
    if equal is not None:
        line["informative"] = 1 - equal
    roles = {"accuracy": names.accuracy, "format": names.format, LEARNED: names.learned}
    for ours, name in roles.items():
        if name is not None:
            line[ours] = finite(entry.get(f"{_BEFORE}{name}{_AFTER}"))
    line.pop(NON_FINITE, None)
    return line
