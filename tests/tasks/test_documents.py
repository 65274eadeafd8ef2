"""Raw text to pretrain on: files, columns, pieces of books, and the held-out share."""

import json
from pathlib import Path

import pytest

from rlreason.errors import UserError
from rlreason.tasks import load_documents, split_documents
from rlreason.types import Example


def test_rows_of_files_each_once_and_in_order(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.csv"
    one.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("b", "a", "b")))
    two.write_text("text\na\nc\n")
    assert load_documents([one, two], column="text") == (["b", "a", "c"], 2, 0)


def test_a_book_is_cut_at_blank_lines_and_keeps_every_word(tmp_path: Path) -> None:
    paragraphs = [f"paragraph {n} " + "word " * 100 for n in range(30)]  # about 515 characters each
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(paragraphs))
    found = load_documents([path], column="text").texts
    assert len(found) == 8  # four paragraphs reach 2,000 characters: 30 / 4 = 7.5
    assert all(len(piece) >= 2000 for piece in found[:-1])
    assert "".join(found).split() == "\n\n".join(paragraphs).split()


def test_the_held_out_documents_do_not_depend_on_the_others() -> None:
    documents = [f"document {n}" for n in range(1000)]
    train, held_out = split_documents(documents, held_out=0.1)
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(documents)
    assert 60 <= len(held_out) <= 140  # 100 expected, four standard deviations of 9.5
    fewer_train, fewer_held_out = split_documents(documents[:500], held_out=0.1)
    assert set(fewer_held_out) == set(held_out) & set(documents[:500])
    assert set(fewer_train) == set(train) & set(documents[:500])


def test_documents_with_a_held_out_question_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "text.jsonl"
    texts = ["We ask: what is  1 + 2?\nIt is 3.", "What is 1 + 3? It is 4."]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    held_out = Example([{"role": "user", "content": "What is 1 + 2?"}], "3")
    assert load_documents([path], column="text", exclude=[held_out]) == ([texts[1]], 0, 1)


def test_a_share_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(UserError, match=r"pretrain\.held_out: 0\.02 of 1 documents leaves 1 .* and 0"):
        split_documents(["document 1"], held_out=0.02)


@pytest.mark.parametrize(
    ("name", "content", "wrong"),
    [
        ("a.txt", b"  \n", "is empty"),
        ("a.txt", b"\xff\xfe\xfa", r"is not UTF-8 text \(byte 0\)"),
        ("a.pdf", b"x", r"is no \.jsonl, \.csv, \.parquet file"),
        ("a.jsonl", b'{"body": "x"}\n', r"no column 'text'"),
        ("missing.txt", None, "there is no file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes | None, wrong: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=wrong):
        load_documents([path], column="text")
