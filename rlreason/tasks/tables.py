"""Rows out of files and data sets. A row comes with the number by which its owner finds it, from 1."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlreason.errors import UserError
from rlreason.tasks.questions import nearest

Rows = list[tuple[int, dict[str, Any]]]


def read_file(path: str | Path, *, field: str) -> Rows:
    """Read a JSONL, CSV or Parquet file, told apart by its extension.

    The cells of a CSV file stay the text they are, so that "007" and "1e5" survive. `field` is the config
    key that named the file, for messages. Raises UserError for a file that is missing, of another kind,
    unreadable or empty.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{field}: {path} is no {', '.join(_READERS)} file; rename or convert it")
    try:
        rows = reader(path)
    except FileNotFoundError as error:
        raise UserError(f"{field}: there is no file {path} (in {Path.cwd()}); check the path") from error
    except (OSError, ValueError) as error:  # pandas' and pyarrow's parsing errors are ValueErrors
        raise UserError(f"{field}: {path} cannot be read: {error}") from error
    if not rows:
        raise UserError(f"{field}: {path} has no rows; give a file with at least one")
    return rows


def read_dataset(name: str, *, subset: str | None, split: str, field: str) -> Rows:
    """Read one split of a data set: a hub name, or a folder that `datasets.load_dataset` understands.

    Raises UserError if it cannot be had, with what `datasets` says; a hub that cannot be reached is told
    apart from a name, subset or split that does not exist.
    """
    import datasets

    what = f"{name!r}" + (f", subset {subset!r}" if subset else "") + f", split {split!r}"
    try:
        found = datasets.load_dataset(name, subset, split=split)
        rows: Rows = [(number, dict(row)) for number, row in enumerate(found, start=1)]
    except ConnectionError as error:
        raise UserError(
            f"{field}: the hub could not be reached for data set {what}: {error}; check the network, or "
            "save the questions to a JSONL, CSV or Parquet file and set task.source to file"
        ) from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{field}: data set {what} cannot be loaded: {error}; check {field}, task.subset and the split"
        ) from error
    if not rows:
        raise UserError(f"{field}: data set {what} has no rows; choose another split")
    return rows


def require_column(rows: Rows, column: str, *, origin: str, remedy: str) -> None:
    """Raise UserError unless at least one row has the column. `remedy` says where it can be set."""
    present = {name for _, row in rows for name in row}
    if column not in present:
        raise UserError(f"{origin} has no column {column!r}; {nearest(column, present)}. {remedy}")


def refuse(rows: list[int], total: int, *, origin: str, problem: str, remedy: str) -> None:
    """Raise UserError naming the first few of `rows`, which have the problem; none is fine."""
    if rows:
        shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
        rows_are = "row" if len(rows) == 1 else "rows"
        raise UserError(f"{origin}: {problem} in {len(rows)} of {total} rows ({rows_are} {shown}); {remedy}")


def _jsonl(path: Path) -> Rows:
    rows: Rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f'line {number} is not an object such as {{"prompt": ..., "answer": ...}}')
            rows.append((number, row))
    return rows


def _csv(path: Path) -> Rows:
    import pandas

    table = pandas.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    records = table.to_dict("records")
    # A line that ends early leaves NaN behind, the one cell that is not text.
    return [
        (number, {str(name): cell if isinstance(cell, str) else None for name, cell in record.items()})
        for number, record in enumerate(records, start=1)
    ]


def _parquet(path: Path) -> Rows:
    from pyarrow import parquet

    with path.open("rb") as file:
        return list(enumerate(parquet.read_table(file).to_pylist(), start=1))


_READERS: dict[str, Callable[[Path], Rows]] = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}
