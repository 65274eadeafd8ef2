"""JSON lines: every parser reads them, none is lost in silence, none is torn."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlreason.errors import UserError
from rlreason.runs.jsonl import JsonLines, check_new, to_json, write_new


def strict(text: str) -> Any:
    """Parse as RFC 8259 says: json.loads alone would take NaN."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return json.loads(text, parse_constant=refuse)


def test_nan_and_infinity_become_null_and_are_named() -> None:
    record = {"loss": math.nan, "kl": 0.5, "time": {"left": math.inf}, "advantages": [1.0, -math.inf]}
    assert strict(to_json(record)) == {
        "loss": None,
        "kl": 0.5,
        "time": {"left": None},
        "advantages": [1.0, None],
        "non_finite": {"loss": "nan", "time.left": "inf", "advantages.1": "-inf"},
    }


def test_null_and_finite_records_are_left_alone() -> None:
    assert to_json({"kl": None, "ok": True, "step": 3}) == '{"kl": null, "ok": true, "step": 3}'


def test_arrays_tensors_and_tuples_are_numbers_and_lists() -> None:
    record = {
        "a": np.float64(0.5),
        "b": np.float32(math.nan),
        "c": torch.tensor([1, 2]),
        "d": np.bool_(True),
        "e": (1, "x"),
        "f": {4: 0.5},
    }
    assert strict(to_json(record)) == {
        "a": 0.5,
        "b": None,
        "c": [1, 2],
        "d": True,
        "e": [1, "x"],
        "f": {"4": 0.5},
        "non_finite": {"b": "nan"},
    }


def test_a_value_that_is_no_json_is_named() -> None:
    with pytest.raises(TypeError, match=r"time\.start: object cannot be written"):
        to_json({"time": {"start": object()}})


def test_text_stays_readable_but_for_what_terminals_act_on() -> None:
    text = "算 é \x1b[31m \x9b \u2028 \ud800 \n"
    line = to_json({"text": text})
    assert line == r'{"text": "算 é \u001b[31m \u009b \u2028 \ud800 \n"}'
    assert strict(line) == {"text": text}


@given(st.dictionaries(st.text(max_size=3), st.text(st.characters()) | st.floats(allow_nan=False)))
def test_any_record_is_one_utf8_line_and_round_trips(record: dict[str, Any]) -> None:
    line = to_json(record)
    assert line.encode().decode().splitlines() == [line]
    parsed = strict(line)
    lost = parsed.pop("non_finite", {})
    assert parsed == {key: None if key in lost else value for key, value in record.items()}


def test_records_of_every_size_are_appended(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "samples.jsonl")
    lines.append([{"step": 1}, {"step": 2, "text": "x" * 1_000_000}])
    lines.append([])
    lines.append([{"step": 3}])
    steps = [json.loads(line)["step"] for line in (tmp_path / "samples.jsonl").open()]
    assert steps == [1, 2, 3]
    lines.close()
    lines.close()
    with pytest.raises(ValueError, match="closed"):
        lines.append([{"step": 4}])


@pytest.mark.parametrize(
    ("tail", "kept"),
    [
        ("", 2),
        ('{"step": 3', 2),
        ('{"step": 3}', 3),  # whole but for its line end
        ("3", 2),
        ("\x00" * 5000, 2),  # what some file systems leave after a power cut
        ('{"step": 3}\n{"st', 3),
        ("garbage\n", 2),
        ('{"text": "' + "x" * 200_000, 2),  # longer than one block of the search
    ],
)
def test_a_torn_last_line_is_repaired_when_the_file_is_opened(tmp_path: Path, tail: str, kept: int) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n' + tail)
    lines = JsonLines(path)
    lines.append([{"step": 9}])
    steps = [json.loads(line)["step"] for line in path.open()]
    assert steps == [*range(1, kept + 1), 9]


@pytest.mark.parametrize("content", ["", "{", "\n", '{"step": 1}'])
def test_a_file_of_one_torn_line_is_repaired(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    JsonLines(path).append([{"step": 9}])
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 9}
    assert path.read_text().endswith('{"step": 9}\n')


def test_cutting_a_file_anywhere_loses_at_most_the_last_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    JsonLines(path).append([{"step": step, "text": "né"} for step in range(3)])
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        JsonLines(path).close()
        steps = [json.loads(line)["step"] for line in path.open(encoding="utf-8")]
        # A record that lacks only its line end is whole.
        assert steps == list(range(len((whole[:size] + b"\n").split(b"}\n")) - 1))


def test_a_disk_that_fills_up_within_a_record_leaves_whole_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    lines.append([{"step": 1}])
    real = os.write
    written: list[int] = []

    def write(descriptor: int, data: bytes) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(real(descriptor, data[:4]))
        return written[-1]

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(UserError, match=r"metrics\.jsonl could not be saved: the disk is full"):
            lines.append([{"step": 2}])
    assert path.read_text() == '{"step": 1}\n'
    lines.append([{"step": 3}])
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'


def test_a_record_that_cannot_be_written_writes_none(tmp_path: Path) -> None:
    lines = JsonLines(tmp_path / "samples.jsonl")
    with pytest.raises(TypeError):
        lines.append([{"step": 1}, {"step": object()}])
    assert not (tmp_path / "samples.jsonl").exists()


def test_rewinding_keeps_order_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    lines.rewind(lambda record: False)
    lines.append([{"step": step} for step in (1, 2, 3, 4)])
    lines.rewind(lambda record: record["step"] % 2 == 0)
    lines.append([{"step": 5}])
    assert [json.loads(line)["step"] for line in path.open()] == [2, 4, 5]
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_rewinding_refuses_a_file_that_holds_something_else(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\nnot json\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: no JSON record\. Delete that line"):
        JsonLines(path).rewind(lambda record: True)
    assert path.read_text() == '{"step": 1}\nnot json\n{"step": 2}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_rewinding_on_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path)
    lines.append([{"step": 1}, {"step": 2}])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(UserError, match="the disk is full"):
            lines.rewind(lambda record: record["step"] < 2)
    lines.append([{"step": 3}])
    assert [json.loads(line)["step"] for line in path.open()] == [1, 2, 3]


def test_a_new_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    write_new(path, [{"a": 1}, {"a": 2}], field="--out")
    assert path.read_text() == '{"a": 1}\n{"a": 2}\n'

    def torn() -> Any:
        yield {"a": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_new(tmp_path / "torn.jsonl", torn(), field="--out")
    assert [file.name for file in tmp_path.iterdir()] == ["new.jsonl"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_to_be_meanwhile_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*paths: Path) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "new.jsonl"
    write_new(path, [{"a": 1}], field="--out")
    with pytest.raises(UserError, match=r"--out: .*new\.jsonl cannot be written"):
        write_new(path, [{"a": 2}], field="--out")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("new.jsonl", '{"a": 1}\n')]


def test_what_could_not_be_written_in_the_end_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_new(tmp_path / "new.jsonl", field="--out")
    assert list(tmp_path.iterdir()) == []  # trying leaves nothing behind
    with pytest.raises(UserError, match=r"--out: .* cannot be written: File name too long"):
        check_new(tmp_path / f"{'n' * 300}.jsonl", field="--out")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"--out: .* is there already"):
        check_new(tmp_path / "link.jsonl", field="--out")

    def refuse(path: Path, **_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(UserError, match=r"--out: .* cannot be written: Permission denied"):
        check_new(tmp_path / "new.jsonl", field="--out")


def test_a_taken_name_and_a_missing_folder_are_refused_beforehand(tmp_path: Path) -> None:
    check_new(tmp_path / "new.jsonl", field="--out")
    (tmp_path / "new.jsonl").touch()
    with pytest.raises(UserError, match=r"--out: .* is there already"):
        check_new(tmp_path / "new.jsonl", field="--out")
    with pytest.raises(UserError, match=r"--out: .* there is no folder"):
        check_new(tmp_path / "no" / "new.jsonl", field="--out")
