"""accuracy and think_format beside math-verify 0.9 and TRL 1.16, on written and on generated answers.

What the others say is no test of ours: the right verdicts are decided by hand or by construction. The page
docs/rewards-differences.md lists every difference; these tests hold it to the truth.
"""

import json
import threading
import time

import pytest
from differences import FAMILIES, KINDS, PAGE, page, rows, section
from differential import BOMBS, CASES, THEIRS, format_rows, killable, verdict, written
from spellings import DIFFERENT, EQUAL, PAIRS

BOMB_CASES = [case for case in written() if case.kind == BOMBS]


def test_the_cases_are_what_the_page_says_they_are() -> None:
    cases = written()
    assert len(cases) >= 300
    assert len({(case.gold, case.completions, case.answer_type) for case in cases}) == len(cases)
    assert {case.expect for case in cases} == {0, 1, None}
    assert all(case.why for case in cases)
    assert set(FAMILIES) == EQUAL.keys() | DIFFERENT.keys()
    assert FAMILIES[0] not in KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_wrong_is_paid_and_the_page_is_true(kind: str) -> None:
    paid = [(row.case.gold, row.case.shown) for row in rows(kind) if row.said[0] == 1 != row.case.expect]
    assert paid == []
    assert section(kind) in PAGE.read_text(encoding="utf-8"), "run python tests/support/differences.py"


@pytest.mark.parametrize("family", FAMILIES)
def test_generated_answers_get_the_verdict_of_their_making(family: str) -> None:
    assert len(rows(family)) == PAIRS
    wrong = [(row.case.gold, row.case.shown) for row in rows(family) if row.said[0] != row.case.expect]
    assert wrong == []


def test_the_page_is_up_to_date() -> None:
    # Its rows have been worked out above: alone, this test takes the time of all of them.
    assert PAGE.read_text(encoding="utf-8") == page(), "run python tests/support/differences.py"


@pytest.mark.parametrize("case", BOMB_CASES, ids=[case.why for case in BOMB_CASES])
def test_bombs_come_back_on_any_thread(case: object) -> None:
    verdict("ours", written()[0])
    said, seconds = [], []

    def work() -> None:
        started = time.perf_counter()
        said.append(verdict("ours", case))
        seconds.append(time.perf_counter() - started)

    work()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert said == [0.0, 0.0]
    assert max(seconds) < 1


def test_the_form() -> None:
    assert [(case["completion"], ours) for case, ours, _ in format_rows()] == [
        (case["completion"], case["expect"]) for case, _, _ in format_rows()
    ]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_others_say_of_the_bombs_what_was_measured() -> None:
    """Their verdicts, not their seconds. Minutes: most come to their time limit, some never end."""
    measured = json.loads((CASES / "bombs.json").read_text(encoding="utf-8"))
    numbers = {case.why: number for number, case in enumerate(written()) if case.kind == BOMBS}
    assert measured.keys() == numbers.keys()
    for why, said in measured.items():
        found = [killable(name, numbers[why])[0] for name in THEIRS]
        assert found == [value for value, _ in said], why
