"""What begins, worsens and is over is told of once; live and offline come to the same."""

import json
import time
from typing import Any

import pytest
from healthy import healthy

from rlreason.doctor import Doctor, Facts
from rlreason.doctor.history import History
from rlreason.doctor.rule import Rule, Seen
from rlreason.doctor.watch import CALM
from rlreason.doctor.windows import Windows
from rlreason.runs.jsonl import to_json


def _over(limit: float) -> Any:
    def holds(history: History) -> Seen | None:
        value = history.now("x") or 0.0
        return Seen("warning" if value > 2 * limit else "note", f"x is {value:g}") if value > limit else None

    return holds


RULE = Rule("x_high", "x is high", ("x",), _over(1.0), "it is too much", ("`{stage}.optim.lr`: lower",), ())


def told(values: list[float]) -> dict[int, list[str]]:
    doctor = Doctor(Facts(), rules=(RULE,))
    said = {step: doctor.step({"step": step, "x": x}) for step, x in enumerate(values, 1)}
    return {step: texts for step, texts in said.items() if texts}


def test_a_finding_is_told_of_when_it_begins_and_when_it_is_over() -> None:
    said = told([0, 1.5, 1.5, 0, 1.5] + [0] * 12)
    assert list(said) == [2, 5 + CALM]
    assert said[2][0].startswith("note: x is high")
    assert "Try `grpo.optim.lr`: lower." in said[2][0]
    assert said[5 + CALM] == ["over: x is high (x_high), step 2 to 5"]


def test_a_finding_that_worsens_is_told_of_again_and_only_then() -> None:
    said = told([1.5, 3, 1.5, 3, 3])
    assert list(said) == [1, 2]
    assert said[2][0].startswith("warning: x is high")


def test_one_that_comes_back_is_a_new_finding() -> None:
    doctor = Doctor(Facts(), rules=(RULE,))
    for step, x in enumerate([1.5] + [0.0] * CALM + [1.5], 1):
        doctor.step({"step": step, "x": x})
    assert [(one.since, one.until) for one in doctor.findings] == [(1, 1), (2 + CALM, None)]
    assert [one.since for one in doctor.standing()] == [2 + CALM]


def test_hints_of_the_other_stage_are_left_out() -> None:
    hints = ("`grpo.loss`: other", "`{stage}.kl.coef`: raise", "`ppo.gamma`: lower")
    rule = Rule("x_high", "x is high", ("x",), _over(1.0), "much", hints, ("`beta`: raise it",))
    for facts, expected in (
        (Facts("grpo"), ("`grpo.loss`: other", "`grpo.kl.coef`: raise")),
        (Facts("ppo"), ("`ppo.kl.coef`: raise", "`ppo.gamma`: lower")),
        (Facts(trl=True), ("`beta`: raise it",)),
    ):
        doctor = Doctor(facts, rules=(rule,))
        doctor.step({"step": 1, "x": 2.0})
        assert doctor.findings[0].hints == expected


def test_a_written_and_read_line_leads_to_the_same_findings() -> None:
    """NaN is written as null, with its name beside it."""
    lines: list[dict[str, Any]] = [dict(line) for line in healthy(3, steps=60)]
    for line in lines[20:]:
        line |= {
            "grad_norm": float("nan"),
            "truncated": 0.6,
            "kl": 3.0,
            "accuracy": 0.05,
            "loss": float("inf"),
        }
    live, offline = (Doctor(Facts(groups=16, learned=True)) for _ in range(2))
    for line in lines:
        written = json.loads(to_json({**line, "time": {"left": float("inf")}, "findings": ["flat"]}))
        assert live.step(line) == offline.step(written)
    assert live.findings == offline.findings
    assert {"non_finite", "cut_off", "kl_runaway", "accuracy_falls"} <= {o.rule.name for o in live.findings}


def test_huge_numbers_and_other_things_are_no_numbers() -> None:
    history = History(Facts())
    history.add({"step": 1, "a": 10**400, "b": 1e300, "c": True, "d": "1", "e": [1], "f": 2})
    assert list(history.names()) == ["step", "f"]
    assert history.broken == [("b",)]


def test_windows_find_the_best_before_the_last() -> None:
    windows = Windows(2)
    for first, second in [(0, 1), (0, 3), (1, 5), (None, 9), (2, 1), (4, 2), (6, 0)]:
        windows.add(first, second)
    found = windows.parting()
    assert found is not None
    # Without the incomplete step: second = 1 3 5 1 2 0; windows of two before the last: 2, 4, 3.
    assert (found.best, found.now, found.fall) == (4.0, 1.0, 3.0)
    assert found.rise == (4 + 6) / 2 - (0 + 1) / 2
    # Changes of the second: 2 2 -4 1 -2: squares 4 4 16 1 4, half their mean.
    assert found.noise[1] == pytest.approx(29 / 5 / 2)


def test_windows_waver_by_the_changes_between_neighbours() -> None:
    windows = Windows(2)
    # Changes 1 2 1 2 5 1 3 2 1 3: their squares 1 1 1 1 4 4 4 9 9 25, median 4.
    means = [0, 1, 3, 2, 4, 9, 8, 5, 7, 6, 9]
    for mean in means[:-1]:
        windows.add(0, mean - 1)
        windows.add(0, mean + 1)
    assert windows.wavering == 0.0  # nine changes are too few to tell
    windows.add(0, means[-1])
    windows.add(0, means[-1])
    assert windows.wavering == pytest.approx(4 / 0.455 / 2)


def test_a_run_of_five_thousand_steps_is_read_in_seconds() -> None:
    doctor = Doctor(Facts(groups=16, learned=True))
    lines = healthy(1, steps=5000)
    start = time.process_time()
    for line in lines:
        doctor.step(line)
    assert time.process_time() - start < 5
