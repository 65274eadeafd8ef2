"""One folder that holds all there is to know of a training run.

    config.yaml               the resolved config
    metrics.jsonl             a line a step; clocks only under the key `time`
    samples.jsonl             every rollout with its scores
    eval.json                 before, after, gain
    checkpoints/step-000040/  what resuming needs; the name carries the step reached
    checkpoints/best.json     which of them did best on the held-out questions
    checkpoints/sft-step-000020/  the same of an earlier stage, while that is going on
    checkpoints/sft/          the model after an earlier stage (pretrain, sft), or of stage reward_model
    skipped/                  batches whose update was left out, as they were not finite
    model/                    the final model
    report.html               what a person looks at, made from all of the above (see html_report)

Nothing in it is ever half-written (see atomic.py), one process writes to it at a time (lock.py), and what was
damaged later is set aside when the run is opened (manifest.py).
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rlreason.errors import UserError
from rlreason.runs import resume
from rlreason.runs.atomic import atomic_directory, discard, explained, recover, set_aside, write_text
from rlreason.runs.checkpoints import CHECKPOINTS, Checkpoints
from rlreason.runs.jsonl import JsonLines, to_json
from rlreason.runs.lock import DirectoryLock
from rlreason.runs.manifest import damage, write_manifest

METRICS = "metrics.jsonl"
SAMPLES = "samples.jsonl"
REPORT = "report.html"
SKIPPED = "skipped"
EVALUATIONS = "evaluations"

# Batches that are dumped in a run, at most: enough to see what they have in common.
_DUMPS = 10

_FILES = {resume.CONFIG, resume.EVAL, METRICS, SAMPLES, CHECKPOINTS, REPORT}
_OWN = {*_FILES, resume.MODEL, EVALUATIONS, SKIPPED}
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class RunDirectory:
    """A run that is open. Made by `RunDirectory.open`; usable in a `with` statement.

    `root` is its folder; `resumed` says whether there was a run to go on with, `damaged` what was found
    damaged in it and set aside, in words. In a distributed run the main process opens it and the others
    `follow`: they read what it holds, and their writes do nothing.
    """

    def __init__(
        self, root: Path, *, lock: DirectoryLock | None, resumed: bool, keep_checkpoints: int
    ) -> None:
        self.root = root
        self.resumed = resumed
        self.damaged: list[str] = []
        self._lock = lock
        self._checkpoints = Checkpoints(root / CHECKPOINTS, keep=keep_checkpoints)
        self._metrics = JsonLines(root / METRICS)
        self._samples = JsonLines(root / SAMPLES)

    @classmethod
    def open(cls, root: Path, config_yaml: str) -> Self:
        """Create the folder, or open the run it holds to go on with it.

        A run goes on if its config is `config_yaml` but for keys that may change (`resume.MAY_CHANGE`);
        its `config.yaml` then becomes the new one. `log.keep_checkpoints` of the config (2 where absent)
        is how many checkpoints are kept.

        Raises UserError where the folder holds something else, a finished run, a run of another config
        (naming the keys), or a run that another process is writing (naming the process), and where it
        cannot be written. What the folder held is then untouched.

        A checkpoint or model that is no longer what was written is set aside: renamed, never removed. The
        one before takes its place; UserError is raised where none is left.
        """
        config = resume.parse_config(config_yaml, source=root / resume.CONFIG)
        # Asked before the lock, whose file must not appear in a folder that is no run, and once more
        # under it, since another process may have been quicker.
        with explained(root):
            if resume.state_of(root) == "finished":
                resume.refuse_finished(root)
            root.mkdir(parents=True, exist_ok=True)
            lock = DirectoryLock(root)
        try:
            state = _state_for(root, config)
            _refuse_links(root)
            _recover(root, root)
            _recover(root, root / CHECKPOINTS)
            write_text(root / resume.CONFIG, config_yaml)
            keep = max(int((config.get("log") or {}).get("keep_checkpoints", 2)), 1)
            run = cls(root, lock=lock, resumed=state == "unfinished", keep_checkpoints=keep)
            run._set_damaged_aside()
            return run
        except BaseException:
            lock.release()
            raise

    @classmethod
    def follow(cls, root: Path) -> Self:
        """The run as a process sees it that does not write, once the main process has opened it."""
        return cls(root, lock=None, resumed=False, keep_checkpoints=1)

    @property
    def _writes(self) -> bool:
        return self._lock is not None

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line to `metrics.jsonl` and flush it to the disk.

        `record` carries `stage` and `step`, so that it can be rewound, and every clock under `time`, so
        that two runs of one seed differ there only. For NaN and infinity see `jsonl.to_json`.
        """
        _check_rewindable(record)
        if self._writes:
            self._metrics.append([record])

    def append_samples(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Add lines to `samples.jsonl` and flush them; each carries `stage` and `step`."""
        for record in records:
            _check_rewindable(record)
        if self._writes:
            self._samples.append(records)

    def rewind(self, step: int, stage: str) -> None:
        """Drop what there is of `stage` after `step`, which a resumed run will write again.

        That is metrics, samples, and evaluations within the stage that samples.
        """

        def keep(record: dict[str, Any]) -> bool:
            return record.get("stage") != stage or record.get("step", 0) <= step

        if self._writes:
            self._metrics.rewind(keep)
            self._samples.rewind(keep)
            for path in list((self.root / EVALUATIONS).glob("step-*")) if stage in resume.ONLINE else ():
                number = path.name.removeprefix("step-")
                if number.isdecimal() and int(number) > step:
                    discard(path)

    def write_eval(self, evaluation: Mapping[str, Any]) -> None:
        """Replace `eval.json` in one step."""
        if self._writes:
            write_text(self.root / resume.EVAL, to_json(evaluation, indent=2) + "\n")

    def checkpoint_path(self, step: int, stage: str | None = None) -> Path:
        """Where the checkpoint that was reached after `step` steps of the stage is, or would be.

        `stage` is None for the one that learns from its own completions, whose checkpoints are models too.
        """
        return self._checkpoints.path(step, stage)

    def save_checkpoint(
        self, step: int, write: Callable[[Path], None], *, stage: str | None = None, best: int | None = None
    ) -> None:
        """Save what resuming after `step` needs; `write` fills the folder it is given.

        The checkpoint appears whole or not at all; only then are the oldest beyond the number to keep
        removed, so the disk holds one more than that for a moment. That of step `best` stays beside them.
        Raises UserError where the disk is full or refuses.
        """
        if self._writes:
            self._checkpoints.save(step, write, stage, best)

    def checkpoints(self, stage: str | None = None) -> list[tuple[int, Path]]:
        """The steps saved and their folders, oldest first."""
        return self._checkpoints.of(stage)

    def latest_checkpoint(self, stage: str | None = None) -> tuple[int, Path] | None:
        """The highest step saved and its folder. Removes what an interrupted save has left behind."""
        if self._writes:
            _recover(self.root, self.root / CHECKPOINTS)
        found = self._checkpoints.of(stage)
        return found[-1] if found else None

    def prune_checkpoints(self, *, best: int | None) -> None:
        """Remove the oldest beyond the number to keep: a process that ended while it saved may not have."""
        if self._writes:
            self._checkpoints.prune(None, best)

    def drop_checkpoints(self, stage: str) -> None:
        """Remove the checkpoints of a stage that has left its model: nothing goes on from them."""
        if self._writes:
            self._checkpoints.drop(stage)

    def write_best(self, best: Mapping[str, Any] | None) -> None:
        """Record which checkpoint is the best so far, in `checkpoints/best.json`; None removes the file."""
        path = self.root / CHECKPOINTS / "best.json"
        if not self._writes:
            return
        if best is not None:
            write_text(path, to_json(best, indent=2) + "\n")
            return
        with explained(path):
            path.unlink(missing_ok=True)

    def dump_batch(self, name: str, records: Sequence[Mapping[str, Any]]) -> Path | None:
        """Write a batch that was left out to `skipped/NAME.jsonl`, a line a row; None if there are enough."""
        folder = self.root / SKIPPED
        path = folder / f"{name}.jsonl"
        if not self._writes:
            return None
        with explained(path):
            folder.mkdir(exist_ok=True)
            if not path.exists() and sum(1 for _ in folder.glob("*.jsonl")) >= _DUMPS:
                return None
        write_text(path, "".join(to_json(record) + "\n" for record in records))
        return path

    def save_directory(self, name: str, write: Callable[[Path], None]) -> Path:
        """Save a folder such as `model` or `checkpoints/sft`, whole or not at all, and return its path.

        An older one of that name is replaced. Raises ValueError for a name that would leave the run
        directory or take the place of its own files, UserError where the disk is full or refuses.
        """
        path = self._inside(name)
        if self._writes:
            with atomic_directory(path) as folder:
                write(folder)
                write_manifest(folder)
        return path

    def saved_directory(self, name: str) -> Path | None:
        """The folder that `save_directory` saved under `name`, now or before a resumption; else None."""
        path = self._inside(name)
        if self._writes:
            _recover(self.root, path.parent)
        return path if path.is_dir() else None

    def close(self) -> None:
        """End writing and let another process in. Calling it twice is fine."""
        self._metrics.close()
        self._samples.close()
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _inside(self, name: str) -> Path:
        parts = name.split("/")
        if name in _FILES or not all(_PART.fullmatch(part) for part in parts):
            raise ValueError(
                f"{name!r} cannot name a folder of a run: use letters, digits, '.', '_', '-' between single "
                f"slashes, none of {', '.join(sorted(_FILES))}"
            )
        return self.root.joinpath(*parts)

    def _set_damaged_aside(self) -> None:
        """Check what this run would go on from, newest first, and set aside what is not what was written."""
        _recover(self.root, self.root / SKIPPED)
        for name in (resume.MODEL, *self._saved_in(CHECKPOINTS), *self._saved_in(EVALUATIONS)):
            _recover(self.root, (self.root / name).parent)
            self._checked(self.root / name)
        for stage, checkpoints in self._checkpoints.by_stage().items():
            if stage is not None and (self.root / CHECKPOINTS / stage).is_dir():
                continue  # it has left its model
            whole = any(self._checked(path) for _, path in reversed(checkpoints))
            if not whole:
                self._refuse_to_start_over(stage)

    def _saved_in(self, name: str) -> list[str]:
        """The folders that `save_directory` has saved below `name`."""
        folder = self.root / name
        found = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        kept = (one for one in found if _PART.fullmatch(one) and not self._checkpoints.is_other(one))
        return [f"{name}/{one}" for one in kept if (folder / one).is_dir()]

    def _checked(self, path: Path) -> bool:
        """Whether a folder is what was written; if not it is set aside."""
        what = damage(path)
        if what is not None:
            aside = set_aside(path)
            self.damaged.append(f"{path} is damaged: {what}. It was set aside as {aside.name}")
        return what is None

    def _refuse_to_start_over(self, stage: str | None) -> None:
        listed = "\n".join(f"  {line}" for line in self.damaged)
        raise UserError(
            f"no checkpoint of {'the stage' if stage is None else f'stage {stage}'} is left to go on from:\n"
            f"{listed}\nRestore one of them from a copy, under the name it had. Or start the same command "
            "once more: the stage then begins again, from its first step."
        )


def _refuse_links(root: Path) -> None:
    """Raise UserError where a part of the run is a link: what is elsewhere would be written to and tidied up.

    A run that somebody else has packed may hold any. The run directory itself may be one, and a checkpoint
    that is one is set aside as damaged.
    """
    for part in (root / name for name in sorted(_OWN)):
        if part.is_symlink():
            raise UserError(
                f"{part} is a link to {os.readlink(part)}; a run is written in its own folder only. Put "
                "what it leads to in its place, or choose another `name=`. To keep runs on another disk set "
                "`output_dir=`"
            )


def _recover(root: Path, folder: Path) -> None:
    """`recover` a folder of the run in `root`, in which other programs may keep files of theirs."""
    recover(folder, _is_own if folder == root else lambda name: True)


def _is_own(name: str) -> bool:
    """Whether the run itself writes what has this name."""
    return name in _OWN or name.startswith(f"{REPORT}.")


def check_startable(root: Path, config_yaml: str) -> None:
    """Raise what `RunDirectory.open` would of what `root` holds, before anything slow is done or imported."""
    with explained(root):
        _state_for(root, resume.parse_config(config_yaml, source=root / resume.CONFIG))


def _state_for(root: Path, config: dict[str, Any]) -> resume.State:
    """What `root` holds. Raises UserError where a run of `config` can neither start in it nor go on."""
    state = resume.state_of(root)
    if state == "finished":
        resume.refuse_finished(root)
    if state == "unfinished":
        _check_config(root, config)
    return state


def _check_config(root: Path, config: dict[str, Any]) -> None:
    path = root / resume.CONFIG
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}. Choose another `name=`.") from error
    resume.refuse_other_config(root, resume.parse_config(text, source=path), config)


def _check_rewindable(record: Mapping[str, Any]) -> None:
    if not isinstance(record.get("step"), int) or not isinstance(record.get("stage"), str):
        raise ValueError(
            f"step={record.get('step')!r}, stage={record.get('stage')!r}: a record carries an int and a str"
        )
