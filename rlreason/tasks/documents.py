"""Raw text to pretrain on, out of the user's own files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlreason.errors import UserError
from rlreason.seeds import derive_seed
from rlreason.tasks.questions import folded, holds, question_key
from rlreason.tasks.tables import read_file, refuse, require_column
from rlreason.types import Example

_PLAIN = (".txt", ".md")
_PIECE_CHARACTERS = 2000
_BUCKETS = 2**32


class Documents(NamedTuple):
    """Texts, each once and in order, and how many were left out: `duplicates`, `with_held_out` questions."""

    texts: list[str]
    duplicates: int
    with_held_out: int


def load_documents(paths: Sequence[str | Path], *, column: str, exclude: Iterable[Example] = ()) -> Documents:
    """The documents of files, but for those that hold one of the questions to `exclude` (by `question_key`).

    A row of JSONL, CSV or Parquet is a document. A text file is cut at blank lines into documents of at least
    2,000 characters, so that a single book can be trained on in one part and measured by another. Raises
    UserError for a file that is missing, unreadable or empty, and for rows without text in `column`.
    """
    read = [
        text
        for path in map(Path, paths)
        for text in (_pieces(path) if path.suffix.lower() in _PLAIN else _rows(path, column))
    ]
    distinct = list(dict.fromkeys(read))
    questions = sorted({key for key in map(question_key, exclude) if key})
    kept = [text for text in distinct if not holds(folded(text), questions)]
    return Documents(kept, len(read) - len(distinct), len(distinct) - len(kept))


def split_documents(documents: Sequence[str], *, held_out: float) -> tuple[list[str], list[str]]:
    """Documents to train on and documents to measure by, told apart by a hash of their text alone.

    About `held_out` (a share) are held out, and the same ones whatever else is in the files. Raises
    UserError if either part would be empty.
    """
    apart = [derive_seed("held-out document", text) % _BUCKETS < held_out * _BUCKETS for text in documents]
    train = [text for text, is_apart in zip(documents, apart, strict=True) if not is_apart]
    measured = [text for text, is_apart in zip(documents, apart, strict=True) if is_apart]
    if not train or not measured:
        raise UserError(
            f"pretrain.held_out: {held_out:g} of {len(documents)} documents leaves {len(train)} to train on "
            f"and {len(measured)} to measure by; give more documents (the rows of a JSONL file are one each) "
            "or change the share"
        )
    return train, measured


def _pieces(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(
            f"pretrain.text: there is no file {path} (in {Path.cwd()}); check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"pretrain.text: {path} is not UTF-8 text (byte {error.start}); convert it"
        ) from error
    except OSError as error:
        raise UserError(f"pretrain.text: {path} cannot be read: {error.strerror}") from error
    if not text.strip():
        raise UserError(f"pretrain.text: {path} is empty; remove it or fill it")
    pieces = [""]
    for paragraph in text.split("\n\n"):
        if len(pieces[-1]) >= _PIECE_CHARACTERS:
            pieces.append("")
        pieces[-1] += f"{paragraph}\n\n"
    return [f"{piece.rstrip()}\n" for piece in pieces if piece.strip()]


def _rows(path: Path, column: str) -> list[str]:
    rows = read_file(path, field="pretrain.text")
    origin = f"pretrain.text: {path}"
    require_column(rows, column, origin=origin, remedy="Name the column with the text in pretrain.column")

    def is_text(value: Any) -> bool:
        return isinstance(value, str) and bool(value.strip())

    refuse(
        [number for number, row in rows if not is_text(row.get(column))],
        len(rows),
        origin=origin,
        problem=f"column {column!r} is empty or no text",
        remedy="fill these in or remove the rows",
    )
    return [row[column] for _, row in rows]
