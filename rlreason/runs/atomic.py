"""Files and folders that are either wholly there or not there at all.

Whatever is written goes to a hidden name beside its target (`.NAME.partial`), is flushed to the disk and
renamed. A folder cannot be renamed over another one, so an older one steps aside first
(`.NAME.previous`); `recover` undoes what a power cut leaves between those two renames. One process
writes at a time (see lock.py), which is why the hidden names can be fixed ones.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rlreason.errors import UserError

PARTIAL = ".partial"
PREVIOUS = ".previous"
DAMAGED = "damaged-"

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
# Writers in C++ and Rust do not raise OSError: safetensors quotes the system's message, torch.save
# raises a RuntimeError about a stream position. The second is told from a bug by the space that is left.
_FULL_WORDS = ("no space left on device", "storagefull", "disk quota exceeded", "os error 28")
_NO_ROOM = 1 << 20  # bytes


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error of the disk into a UserError that names `path` and what to do; let others pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        message = _explanation(path, error)
        if message is None:
            raise
        raise UserError(message) from error


def _explanation(path: Path, error: Exception) -> str | None:
    code = error.errno if isinstance(error, OSError) else None
    said = any(words in str(error).lower() for words in _FULL_WORDS)
    if code in _FULL or said or (not isinstance(error, OSError) and _free_bytes(path) < _NO_ROOM):
        return (
            f"{path} could not be saved: the disk is full ({_free_bytes(path) / 1e6:,.1f} MB free). What was "
            "saved before is untouched. Free some space (old runs first; log.keep_checkpoints=1 keeps "
            "fewer checkpoints), then start the same command again: it goes on from the last checkpoint."
        )
    if code in _FORBIDDEN:
        return (
            f"{path} could not be written: {error}. Make the folder writable, or choose another one with "
            "`output_dir=`."
        )
    if isinstance(error, OSError):
        return (
            f"{path} could not be written: {error}. What was saved before is untouched. Once the cause is "
            "removed, start the same command again: it goes on from the last checkpoint."
        )
    return None


def _free_bytes(path: Path) -> int:
    """Free bytes on the disk that holds `path`; where that cannot be asked, as if there were plenty."""
    folder = next((p for p in (path, *path.parents) if p.is_dir()), None)
    try:
        return shutil.disk_usage(folder or ".").free
    except OSError:
        return 1 << 62


def partial_path(path: Path) -> Path:
    """The hidden name under which `path` is written until it is whole."""
    return path.with_name(f".{path.name}{PARTIAL}")


def previous_path(path: Path) -> Path:
    """The hidden name under which an older folder waits while `path` is replaced."""
    return path.with_name(f".{path.name}{PREVIOUS}")


def is_leftover(name: str) -> bool:
    """Whether a name in a folder is one of the two hidden kinds above."""
    return _target_of(name) is not None


def _target_of(name: str) -> str | None:
    """The name that a leftover was to have, or had; None for any other file."""
    for ending in (PARTIAL, PREVIOUS):
        if name.startswith(".") and name.endswith(ending):
            return name[1 : -len(ending)] or None
    return None


def write_text(path: Path, text: str, *, unlocked: bool = False) -> None:
    """Write `text` to `path` as UTF-8, replacing what was there in one step.

    `unlocked` is for what may be written by several processes at once: the last of them prevails.
    Raises UserError where the disk is full or refuses; `path` is then what it was before.
    """
    partial = partial_path(path.with_name(f"{path.name}.{os.getpid()}") if unlocked else path)
    try:
        with explained(path):
            with partial.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    with explained(path):
        sync_directory(path.parent)


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; when the block ends well, it becomes `path` in one step.

    If the block raises (Ctrl-C included) the folder is removed and `path` is what it was before. Raises
    UserError where the disk is full or refuses, whatever library noticed it.
    """
    partial = partial_path(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)
        partial.mkdir()
    try:
        with explained(path):
            yield partial
            _sync_tree(partial)
            _move_into_place(partial, path)
    except BaseException:
        # Whatever cannot be removed now is hidden, and `recover` removes it later.
        with suppress(OSError):
            remove(partial)
        raise
    with explained(path):
        sync_directory(path.parent)
        remove(previous_path(path))


def _move_into_place(partial: Path, path: Path) -> None:
    if not os.path.lexists(path):
        os.replace(partial, path)
        return
    previous = previous_path(path)
    remove(previous)
    os.replace(path, previous)
    try:
        os.replace(partial, path)
    except BaseException:
        os.replace(previous, path)
        raise


def recover(folder: Path, own: Callable[[str], bool] = lambda name: True) -> None:
    """Clear what an interrupted write left in `folder`; put an older version back where none is left.

    `own` says of a name whether it is one that is written here: what other programs leave is not touched.
    """
    with explained(folder):
        for leftover in sorted(folder.iterdir()) if folder.is_dir() else []:
            name = _target_of(leftover.name)
            if name is None or not own(name):
                continue
            target = leftover.with_name(name)
            if leftover.name.endswith(PREVIOUS) and not os.path.lexists(target):
                os.replace(leftover, target)
            else:
                remove(leftover)


def discard(path: Path) -> None:
    """Remove a folder so that half of it never stays under its own name."""
    partial = partial_path(path)
    with explained(path):
        remove(partial)
        os.replace(path, partial)
        remove(partial)


def remove(path: Path) -> None:
    """Remove a file, a link (not what it points at) or a folder; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_directory(folder: Path) -> None:
    """Make the names in `folder` survive a power cut, where the system can be asked for that."""
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems refuse fsync on a folder; there is nothing more to ask of them.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _sync_tree(folder: Path) -> None:
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            file = Path(parent, name)
            if file.is_symlink():
                continue
            descriptor = os.open(file, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_directory(Path(parent))


def set_aside(path: Path) -> Path:
    """Give a damaged folder another name beside its own, and return that: it may be the only copy."""
    number = 1
    while os.path.lexists(
        aside := path.with_name(f"{DAMAGED}{path.name}{f'-{number}' if number > 1 else ''}")
    ):
        number += 1
    with explained(path):
        os.replace(path, aside)
        sync_directory(path.parent)
    return aside
