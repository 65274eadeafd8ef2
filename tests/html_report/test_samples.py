"""Which completions are shown: whole groups, evenly over the steps, from a file that is read line by line."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlreason.html_report import samples as module
from rlreason.html_report.samples import LARGEST_GROUP, choose, sample, spread


def record(step: int, group: int, text: str = "x", **more: Any) -> dict[str, Any]:
    return {"stage": "grpo", "step": step, "group": group, "text": text, "scores": {}, **more}


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_all_are_kept_where_they_fit(tmp_path: Path) -> None:
    path = written(
        tmp_path / "s", [record(step, g, f"{step}.{g}.{i}") for step in (1, 2) for g in (0, 1) for i in "ab"]
    )
    found = sample(path, room=100_000)
    texts = [(key, [one.record["text"] for one in group.members]) for key, group in found.groups.items()]
    assert texts == [
        ((1, 0), ["1.0.a", "1.0.b"]),
        ((1, 1), ["1.1.a", "1.1.b"]),
        ((2, 0), ["2.0.a", "2.0.b"]),
        ((2, 1), ["2.1.a", "2.1.b"]),
    ]
    assert (found.completions, found.kept, found.per_step) == (8, 8, None)


def test_each_step_gives_the_same_number_of_groups() -> None:
    # Ten steps of four groups of 10 bytes: 250 bytes hold two of each step (200), not three (300).
    rooms = {(step, group): 10 for step in range(10) for group in range(4)}
    chosen, per_step = choose(rooms, room=250)
    assert chosen == [(step, group) for step in range(10) for group in (0, 1)]
    assert per_step == 2


def test_with_too_many_steps_they_are_spread_evenly() -> None:
    # 101 steps, room for 11: every tenth, the first and the last among them.
    chosen, per_step = choose({(step, 0): 10 for step in range(101)}, room=119)
    assert chosen == [(step, 0) for step in range(0, 101, 10)]
    assert per_step == 1


def test_the_first_and_the_last_step_are_always_there() -> None:
    assert choose({(step, 0): 1000 for step in range(50)}, room=1) == ([(0, 0), (49, 0)], 1)
    assert choose({(7, 0): 1000}, room=1) == ([(7, 0)], 1)
    assert choose({}, room=1) == ([], None)


@given(
    st.dictionaries(st.tuples(st.integers(0, 30), st.integers(0, 5)), st.integers(1, 1000), min_size=1),
    st.integers(1, 20_000),
)
def test_what_is_chosen_fits_or_is_the_least(rooms: dict[tuple[int, int], int], room: int) -> None:
    chosen, _ = choose(rooms, room=room)
    steps = {step for step, _ in chosen}
    assert chosen == sorted(set(chosen))
    assert {min(rooms)[0], max(rooms)[0]} <= steps
    assert sum(rooms[key] for key in chosen) <= room or len(chosen) <= 2


@given(st.lists(st.integers(), min_size=1, unique=True), st.integers(1, 50))
def test_spread_takes_that_many(steps: list[int], count: int) -> None:
    found = spread(sorted(steps), count)
    assert len(found) == min(count, len(steps))
    assert found == sorted(set(found))
    assert found[-1] == max(steps)


def test_a_large_group_gives_its_first_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "s", [record(1, 0, str(place)) for place in range(LARGEST_GROUP + 5)])
    found = sample(path, room=1_000_000)
    assert [one.record["text"] for one in found.groups[1, 0].members] == [
        str(place) for place in range(LARGEST_GROUP)
    ]
    assert found.completions == LARGEST_GROUP + 5


def test_a_large_group_gives_those_that_were_learned_from_first(tmp_path: Path) -> None:
    count = LARGEST_GROUP + 8
    learned = {3, count - 2, count - 1}
    path = written(
        tmp_path / "s",
        [record(1, 0, str(one), advantage=0.5 if one in learned else None) for one in range(count)],
    )
    found = sample(path, room=1_000_000)
    group = found.groups[1, 0]
    shown = [int(one.record["text"]) for one in group.members]
    assert shown == [*range(LARGEST_GROUP - 2), count - 2, count - 1]
    assert [one.place for one in group.members] == shown  # each is numbered as in the file
    assert group.size == count


def test_lines_that_are_no_completion_are_counted_and_a_torn_end_is_none(tmp_path: Path) -> None:
    path = tmp_path / "s"
    good = json.dumps(record(1, 0))
    bad = [
        "nonsense",
        "[1]",
        '{"step": 1}',
        '{"step": "1", "group": 0, "text": ""}',
        "[" * 100_000,
        "\xff\x00",
    ]
    path.write_bytes("\n".join([good, *bad, "", good, good[:20]]).encode("latin-1"))
    found = sample(path, room=1_000_000)
    assert (found.kept, found.unreadable) == (2, len(bad))


def test_a_line_that_is_too_long_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_LINE", 300)
    path = written(tmp_path / "s", [record(1, 0, "a"), record(1, 0, "b" * 1000), record(1, 0, "c")])
    found = sample(path, room=1_000_000)
    assert [one.record["text"] for one in found.groups[1, 0].members] == ["a", "c"]
    assert found.unreadable == 1


def test_no_file_is_no_completion(tmp_path: Path) -> None:
    assert sample(tmp_path / "none", room=1).kept == 0


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    # 30 MB of completions of which 100 kB are kept.
    path = tmp_path / "s"
    with path.open("w") as file:
        for step in range(300):
            for _ in range(10):
                file.write(json.dumps(record(step, 0, "x" * 10_000)) + "\n")
    tracemalloc.start()
    found = sample(path, room=100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.kept == 20  # 6,000 of the 10,000 characters would be shown: two groups of ten already exceed
    assert peak < 3_000_000
