"""Kill a tiny run again and again, and see whether it ends as one that was never killed.

    .venv/bin/python benchmarks/faults.py --kills 50 --seed 0

A run of all stages (pretrain, sft, reward_model, grpo) is ended by SIGKILL at random moments and started
again with the same config, until it is finished; then another one begins, until there were enough kills. Half
of them come after a random time. The other half come at a random write to the disk: before a flush or a
rename, or with half of a line written. Each finished run is held against one that was left alone: every file
has the same bytes (metrics but for their clocks, the report but for its place and clocks, which run through
all of it), and nothing half-written or locked is left.

Each process is forked from one that has the libraries imported, so that it starts at once.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

CONFIG: dict[str, Any] = {
    "name": "tiny",
    "stage": ["pretrain", "sft", "reward_model", "grpo"],
    "threads": 1,
    "model": {
        "precision": "float32",
        "scratch": {
            "hidden_size": 32,
            "layers": 2,
            "heads": 2,
            "kv_heads": 1,
            "intermediate_size": 64,
            "max_positions": 192,
        },
    },
    "task": {"name": "chain_sum", "params": {"min_terms": 2, "max_terms": 3}, "train_size": 24},
    "prompt": {"system": None, "max_tokens": 160},
    "rewards": "random",
    "rollout": {"max_new_tokens": 8, "precision": "float32"},
    "pretrain": {"sequence_tokens": 192, "batch_size": 2, "epochs": 2},
    "sft": {"size": 12, "batch_size": 4, "epochs": 3, "optim": {"lr": 1e-3}},
    "reward_model": {"questions": 6, "samples": 4, "pairs_per_question": 2, "batch_size": 4, "epochs": 2},
    "grpo": {
        "steps": 8,
        "prompts_per_step": 2,
        "group_size": 4,
        "epochs": 2,
        "minibatches": 2,
        "optim": {"lr": 1e-3},
    },
    "eval": {"questions": 4, "every": 3, "reward": "random"},
    "log": {"sample_every": 0, "checkpoint_every": 2, "stage_checkpoint_every": 2, "keep_checkpoints": 2},
}


# What a process killed behind the end of its run leaves, or does not come to.
_OF_THE_END = ("lock", "report.html", "report.html.partial")


class Writes:
    """Counts this process's durable writes, and kills it at the one of that number, 0 for never."""

    def __init__(self, last: int) -> None:
        self.count = 0
        self._last = last

    def watch(self) -> None:
        for name in ("fsync", "replace"):
            setattr(os, name, self._watched(getattr(os, name)))
        write = os.write

        def half(descriptor: int, data: Any) -> int:
            self.count += 1
            if self.count == self._last:
                write(descriptor, bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return write(descriptor, data)

        os.write = half

    def _watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return counted


def start(config: Path, log: Path, *, die_at_write: int = 0) -> int:
    """Fork a process that trains as `config` says; returns its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        writes = Writes(die_at_write)
        writes.watch()
        from rlreason.cli import main_train

        code = main_train([str(config)])
        print(f"writes {writes.count}", flush=True)
        sys.stdout.flush()
    finally:
        os._exit(code)


def wait(child: int, seconds: float | None = None) -> int | None:
    """The exit code, or minus the signal; None if it was still running after `seconds`."""
    end = time.monotonic() + seconds if seconds is not None else None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if end is not None and time.monotonic() >= end:
            return None
        time.sleep(0.005)


def contents(run: Path) -> dict[str, str]:
    """Every file by its name, as a hash; metrics without their clocks, the config without its place.

    The report is made of these files, of clocks and of the place: of it only the name counts.
    """
    found = {}
    for path in sorted(run.rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.name == "metrics.jsonl":
            lines = [json.loads(line) for line in data.splitlines()]
            data = json.dumps([{k: v for k, v in line.items() if k != "time"} for line in lines]).encode()
        if path.name == "report.html":
            data = b""
        if path.name == "config.yaml":
            data = json.dumps({**yaml.safe_load(data), "output_dir": None}).encode()
        found[str(path.relative_to(run))] = hashlib.sha256(data).hexdigest()
    return found


def leftovers(run: Path) -> list[str]:
    """Hidden files (what is being written, locks) and what was set aside as damaged."""
    return [str(p.relative_to(run)) for p in run.rglob("*") if p.name.startswith((".", "damaged-", "tmp"))]


def written(folder: Path) -> Path:
    folder.mkdir(parents=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "output_dir": str(folder)}), encoding="utf-8")
    return path


def where(run: Path) -> str:
    """What a killed run was doing, by what is there."""
    if (run / "model").is_dir():
        return "at the end"
    for stage in ("reward_model", "sft", "pretrain"):
        if (run / "checkpoints" / stage).is_dir():
            return f"after {stage}"
    return "pretrain" if (run / "metrics.jsonl").is_file() else "before pretrain"


def is_finished(log: Path) -> bool:
    """Whether the last process was refused, as the one before was killed behind the end of the run.

    All that counts was there by then. A finished run is never touched again, so that its lock stays, and its
    report may be missing; `main` allows for both.
    """
    return "is finished" in log.read_text(encoding="utf-8").rsplit("error: ", 1)[-1]


def straight(folder: Path) -> tuple[dict[str, str], float, int]:
    """The run that is left alone: its files, its seconds, its writes."""
    log, began = folder / "log", time.monotonic()
    code = wait(start(written(folder), log))
    if code != 0:
        raise SystemExit(f"the run that nobody kills ended with {code}:\n{log.read_text()[-3000:]}")
    count = int(log.read_text().rsplit("writes ", 1)[1])
    return contents(folder / "tiny"), time.monotonic() - began, count


def kill_until_done(
    folder: Path, draw: random.Random, budget: int, seconds: float, writes: int
) -> tuple[Counter[str], int, int]:
    """Kill a run up to `budget` times, then let it finish. Returns where it was, kills by time and by write.

    Raises SystemExit if it fails by itself.
    """
    config, log, run = written(folder), folder / "log", folder / "tiny"
    places: Counter[str] = Counter()
    by_time = by_write = 0
    while True:
        at_write = draw.random() < 0.5 and by_time + by_write < budget
        # Shorter than the run, so that each life is likely to end before it does.
        number = draw.randint(1, max(1, writes // 3)) if at_write else 0
        limit = None if at_write else draw.uniform(0.0, seconds / 2)
        limit = limit if by_time + by_write < budget else None
        child = start(config, log, die_at_write=number)
        code = wait(child, limit)
        if code is None:
            os.kill(child, signal.SIGKILL)
            code = wait(child)
            by_time += code == -signal.SIGKILL
        elif code == -signal.SIGKILL:
            by_write += 1
        if code == 0 or (code == 2 and is_finished(log)):
            return places, by_time, by_write
        if code != -signal.SIGKILL:
            raise SystemExit(f"a run ended by itself with {code}:\n{log.read_text()[-3000:]}")
        places[where(run)] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the runs, kept (a temporary one)")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="faults-"))
    from rlreason.stages import grpo, ppo, pretrain, reward_model, run, sft  # noqa: F401

    began = time.monotonic()
    expected, seconds, writes = straight(folder / "straight")
    print(f"left alone: {seconds:.1f} s, {writes} writes, {len(expected)} files", flush=True)
    draw = random.Random(arguments.seed)
    places: Counter[str] = Counter()
    by_time = by_write = runs = wrong = 0
    while by_time + by_write < arguments.kills:
        runs += 1
        left = arguments.kills - by_time - by_write
        here, timed, at_writes = kill_until_done(folder / f"run-{runs}", draw, left, seconds, writes)
        places, by_time, by_write = places + here, by_time + timed, by_write + at_writes
        run_folder = folder / f"run-{runs}"
        found, rest = contents(run_folder / "tiny"), leftovers(run_folder / "tiny")
        different = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        if is_finished(run_folder / "log"):
            rest = [name for name in rest if name.lstrip(".") not in _OF_THE_END]
            different = [name for name in different if Path(name).name.lstrip(".") not in _OF_THE_END]
        wrong += bool(different or rest)
        verdict = "the same" if not different else f"different: {', '.join(different)}"
        print(
            f"run {runs}: {timed + at_writes} kills ({dict(here)}); {verdict}; "
            f"left behind: {rest or 'nothing'}",
            flush=True,
        )
    print(
        f"{by_time + by_write} kills ({by_time} by time, {by_write} at a write) in {runs} runs, "
        f"{time.monotonic() - began:.0f} s: {runs - wrong} of {runs} runs equal the one left alone"
    )
    print(f"where: {dict(places)}")
    if arguments.keep is None and not wrong:
        shutil.rmtree(folder)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
