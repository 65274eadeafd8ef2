"""JSON as runs write it: no NaN, one record a line, a torn last line repaired."""

import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlreason.errors import UserError
from rlreason.runs.atomic import explained, partial_path, sync_directory

# Legal in JSON as they stand, but read as line ends or acted on by terminals and text tools; a lone
# surrogate cannot even be written as UTF-8.
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def to_json(record: Mapping[str, Any], *, indent: int | None = None) -> str:
    """Return `record` as JSON that every parser reads.

    JSON has no NaN and no infinity. They become `null`, and the record gains an entry `non_finite` that
    says which values they were: `{"loss": null, "non_finite": {"loss": "nan"}}` (names of nested values
    are joined with dots). Arrays and tensors become numbers or lists of them, tuples lists, keys text.

    Raises TypeError naming the entry that is no such value.
    """
    non_finite: dict[str, str] = {}
    plain = _plain(dict(record), "", non_finite)
    if non_finite:
        plain["non_finite"] = non_finite
    text = json.dumps(plain, ensure_ascii=False, allow_nan=False, indent=indent)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _plain(value: Any, name: str, non_finite: dict[str, str]) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        non_finite[name] = str(float(value))
        return None
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{name}.{k}" if name else str(k), non_finite) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, f"{name}.{i}", non_finite) for i, v in enumerate(value)]
    if hasattr(value, "tolist"):  # NumPy and torch, scalars included
        return _plain(value.tolist(), name, non_finite)
    raise TypeError(f"{name}: {type(value).__name__} cannot be written as JSON")


def write_new(path: Path, records: Iterable[Mapping[str, Any]], *, field: str) -> None:
    """Write one line a record to a new file: all of it, or no file. Nothing is overwritten.

    `field` is the argument that named the file, for messages. Raises UserError where that cannot be.
    """
    partial = partial_path(path)
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.writelines(to_json(record) + "\n" for record in records)
            file.flush()
            os.fsync(file.fileno())
        _name(partial, path)
        sync_directory(path.parent)
    except OSError as error:
        raise UserError(
            f"{field}: {path} cannot be written: {error.strerror}; give another place, or make room"
        ) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _name(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)  # unlike a rename, it fails where the name is taken
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise
        os.replace(partial, path)


def check_new(path: Path, *, field: str) -> None:
    """Raise UserError, naming the argument `field`, unless a new file can be written at `path`."""
    if os.path.lexists(path):
        raise UserError(f"{field}: {path} is there already and is not overwritten; give another name")
    if not path.parent.is_dir():
        raise UserError(f"{field}: {path} cannot be written: there is no folder {path.parent}; make it first")
    partial = partial_path(path)
    try:
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise UserError(
            f"{field}: {path} cannot be written: {error.strerror}; give another place or name"
        ) from error


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The records of a file that another process may be writing, and how many other lines there are.

    A last line without its end is still being written, and no damage. Raises UserError where the file cannot
    be read.
    """
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    records = [_parse(line) for line in lines if line.strip()]
    unfinished = _parse(last)
    found = [record for record in [*records, unfinished] if record is not None]
    return found, sum(record is None for record in records)


class JsonLines:
    """A file that grows by whole records. Opening it repairs a last line that a crash has torn."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._closed = False
        with explained(path):
            self._repair_tail()

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write one line a record and flush them to the disk.

        Raises UserError where the disk is full or refuses; the file then ends with the last whole record.
        """
        lines = "".join(to_json(record) + "\n" for record in records).encode()
        with explained(self._path):
            descriptor = self._open()
            start = os.lseek(descriptor, 0, os.SEEK_END)
            written = 0
            try:
                while written < len(lines):
                    written += os.write(descriptor, lines[written:])
                os.fsync(descriptor)
            except BaseException:
                if written < len(lines):
                    os.ftruncate(descriptor, start)
                raise

    def rewind(self, keep: Callable[[dict[str, Any]], bool]) -> None:
        """Drop the records for which `keep` is false, in one step.

        Raises UserError naming the line where the file holds something that is no record.
        """
        if not self._path.exists():
            return
        partial = partial_path(self._path)
        dropped = False
        try:
            with explained(self._path):
                with self._path.open("rb") as source, partial.open("wb") as target:
                    for number, line in enumerate(source, 1):
                        if keep(self._record(line, number)):
                            target.write(line)
                        else:
                            dropped = True
                    target.flush()
                    os.fsync(target.fileno())
                if dropped:
                    self._close()
                    os.replace(partial, self._path)
                    sync_directory(self._path.parent)
        finally:
            partial.unlink(missing_ok=True)

    def close(self) -> None:
        """End writing: a later `append` raises."""
        self._close()
        self._closed = True

    def _open(self) -> int:
        if self._closed:
            raise ValueError(f"{self._path} is closed")
        if self._descriptor is None:
            new = not self._path.exists()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(self._path, flags, 0o644)
            if new:
                sync_directory(self._path.parent)
        return self._descriptor

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        record = _parse(line)
        if record is None:
            raise UserError(
                f"{self._path}, line {number}: no JSON record. Delete that line, or choose another `name=`."
            )
        return record

    def _repair_tail(self) -> None:
        """Cut a torn last record off; give a whole one the line end it lacks."""
        if not self._path.exists():
            return
        with self._path.open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            start = _start_of_last_line(file, end)
            file.seek(start)
            last = file.read(end - start)
            if not last or (_parse(last) is not None and last.endswith(b"\n")):
                return
            if _parse(last) is not None:
                file.write(b"\n")
            else:
                file.truncate(start)
            file.flush()
            os.fsync(file.fileno())


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _start_of_last_line(file: Any, end: int, block: int = 1 << 16) -> int:
    """Offset after the last line end that is not the final byte; samples are large, so from the back."""
    position = max(end - 1, 0)
    while position > 0:
        begin = max(position - block, 0)
        file.seek(begin)
        found = file.read(position - begin).rfind(b"\n")
        if found >= 0:
            return int(begin + found + 1)
        position = begin
    return 0
