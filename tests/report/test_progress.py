"""What is said of long work without steps of its own."""

from collections.abc import Iterator

from rlreason.report.progress import Progress


def _said(total: int, calls: list[tuple[float, int]]) -> list[str]:
    """What is noted when, at each of these seconds, so many are done."""
    moments: Iterator[float] = iter([0.0, *(second for second, _ in calls)])
    notes: list[str] = []
    progress = Progress(notes.append, "answers", total, now=lambda: next(moments))
    for _, done in calls:
        progress(done)
    return notes


def test_short_work_is_not_talked_about() -> None:
    assert _said(100, [(1.0, 10), (30.0, 60), (59.9, 99)]) == []


def test_long_work_is_told_once_a_minute_with_what_is_left() -> None:
    # 400 in 60 s leave 1,200, so 180 s; 800 in 121 s leave 800, so 121 s.
    notes = _said(1600, [(60.0, 400), (90.0, 600), (121.0, 800)])
    assert notes == ["400 of 1,600 answers, 3:00 left", "800 of 1,600 answers, 2:01 left"]


def test_the_first_of_many_side_by_side_say_nothing_about_the_time_left() -> None:
    assert _said(250, [(120.0, 1), (180.0, 25)]) == ["1 of 250 answers", "25 of 250 answers, 27:00 left"]


def test_nothing_is_said_before_the_first_and_after_the_last() -> None:
    assert _said(10, [(70.0, 0), (200.0, 10)]) == []
