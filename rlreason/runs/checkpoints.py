"""The checkpoints of a run: their names, which of them stay, and which is the newest."""

import re
from collections.abc import Callable
from pathlib import Path

from rlreason.runs.atomic import DAMAGED, atomic_directory, discard
from rlreason.runs.manifest import write_manifest

CHECKPOINTS = "checkpoints"

_NAME = re.compile(r"(?:([a-z][a-z_]*)-)?step-(\d{6,})")


class Checkpoints:
    """Folders `step-000040` of the stage that samples, and `STAGE-step-000040` of one before it.

    `keep` is how many of the newest stay of each stage.
    """

    def __init__(self, folder: Path, *, keep: int) -> None:
        self._folder = folder
        self._keep = keep

    def path(self, step: int, stage: str | None) -> Path:
        """Where the checkpoint after `step` steps of a stage is, or would be."""
        if step < 0:
            raise ValueError(f"step={step}: a checkpoint is named by the step reached, 0 or more")
        return self._folder / f"{f'{stage}-' if stage else ''}step-{step:06d}"

    def save(self, step: int, write: Callable[[Path], None], stage: str | None, best: int | None) -> None:
        """Write a checkpoint, then remove the oldest but for the best one."""
        path = self.path(step, stage)
        with atomic_directory(path) as folder:
            write(folder)
            write_manifest(folder)
        self.prune(stage, best, also=step)

    def prune(self, stage: str | None, best: int | None, *, also: int | None = None) -> None:
        """Remove all but the newest, that of step `best`, and that of step `also`."""
        for number, old in self.of(stage)[: -self._keep]:
            if number not in (best, also):
                discard(old)

    def drop(self, stage: str) -> None:
        """Remove all checkpoints of a stage."""
        for _, path in self.of(stage):
            discard(path)

    def of(self, stage: str | None) -> list[tuple[int, Path]]:
        """The checkpoints of a stage, oldest first."""
        return self.by_stage().get(stage, [])

    def by_stage(self) -> dict[str | None, list[tuple[int, Path]]]:
        """All checkpoints by stage, oldest first."""
        found: dict[str | None, list[tuple[int, Path]]] = {}
        for entry in self._folder.iterdir() if self._folder.is_dir() else ():
            match = _NAME.fullmatch(entry.name)
            if match and entry.is_dir() and not entry.name.startswith(DAMAGED):
                found.setdefault(match[1], []).append((int(match[2]), entry))
        return {stage: sorted(entries) for stage, entries in found.items()}

    def is_other(self, name: str) -> bool:
        """Whether a name among the checkpoints is none of a stage's model: a checkpoint, or set aside."""
        return name.startswith(DAMAGED) or _NAME.fullmatch(name) is not None
