"""The learned reward held against accuracy: provoked, silent on healthy runs, careful with few questions."""

import random

import pytest

from rlreason.doctor import Doctor, Facts
from rlreason.doctor.learning import LEARNED_APART, WINDOW

Steps = list[tuple[float, float]]


def warnings(steps: Steps, *, prompts: int = 64) -> list[int]:
    """The numbers, from 1, of the steps at which the rule holds."""
    doctor = Doctor(Facts(groups=prompts, learned=True), rules=())
    held = []
    for number, (learned, accuracy) in enumerate(steps, 1):
        doctor.step({"step": number, "reward/learned": learned, "accuracy": accuracy})
        if LEARNED_APART.holds(doctor.history):
            held.append(number)
    return held


def noisy(learned: list[float], accuracy: list[float], seed: int) -> Steps:
    draw = random.Random(seed)
    return [(r + draw.gauss(0, 0.1), a + draw.gauss(0, 0.03)) for r, a in zip(learned, accuracy, strict=True)]


def test_it_goes_off_where_the_learned_reward_rises_and_accuracy_falls() -> None:
    steps = [(0.0, 0.5)] * WINDOW + [(1.0, 0.2)] * WINDOW
    found = warnings(steps)
    assert found
    assert found[-1] == 2 * WINDOW


def test_it_says_what_it_saw() -> None:
    doctor = Doctor(Facts(groups=64, learned=True), rules=(LEARNED_APART,))
    told = []
    for number in range(1, 2 * WINDOW + 1):
        learned, accuracy = (0.0, 0.5) if number <= WINDOW else (1.0, 0.2)
        told += doctor.step({"step": number, "reward/learned": learned, "accuracy": accuracy})
    (said,) = told
    assert "up by 1 and accuracy down by 30.0 points" in said
    assert "rewards.learned.weight" in said


@pytest.mark.parametrize("seed", range(20))
def test_it_is_silent_where_both_rise(seed: int) -> None:
    rise = [step / 60 for step in range(60)]
    assert warnings(noisy(rise, rise, seed)) == []


@pytest.mark.parametrize("seed", range(20))
def test_it_is_silent_where_nothing_changes(seed: int) -> None:
    assert warnings(noisy([0.5] * 60, [0.5] * 60, seed)) == []


@pytest.mark.parametrize("seed", range(20))
def test_it_is_silent_where_accuracy_alone_falls(seed: int) -> None:
    fall = [0.9 - step / 100 for step in range(60)]
    assert warnings(noisy(fall, fall, seed)) == []


def test_chance_falls_beside_a_rising_reward_rarely_set_it_off() -> None:
    """The best of many windows has been lucky: accuracy stays at a half, and 8 questions say little of it."""
    gone_off = 0
    for seed in range(20):
        draw = random.Random(seed)
        steps = [(step / 20, sum(draw.random() < 0.5 for _ in range(8)) / 8) for step in range(60)]
        gone_off += bool(warnings(steps, prompts=8))
    assert gone_off <= 2


def test_marks_that_are_no_shares_have_noise_too() -> None:
    def steps(seed: int, fall: float) -> Steps:
        draw = random.Random(seed)
        return [(n / 20, 5 + draw.gauss(0, 0.5) - fall * (n > 20)) for n in range(40)]

    assert sum(bool(warnings(steps(seed, 0.0))) for seed in range(20)) <= 5
    assert all(warnings(steps(seed, 3.0)) for seed in range(10))


def test_few_questions_prove_nothing() -> None:
    steps = [(0.0, 0.5)] * WINDOW + [(1.0, 0.3)] * WINDOW
    assert warnings(steps, prompts=64)
    assert not warnings(steps, prompts=2)


def test_it_is_not_asked_where_accuracy_is_the_learned_reward() -> None:
    doctor = Doctor(Facts(groups=64), rules=(LEARNED_APART,))
    for number in range(1, 31):
        line = {"step": number, "reward/learned": float(number > 15), "accuracy": float(number <= 15)}
        assert doctor.step(line) == []
    assert doctor.unjudged() == []


def test_missing_numbers_say_nothing() -> None:
    doctor = Doctor(Facts(groups=64, learned=True), rules=(LEARNED_APART,))
    for number in range(1, 40):
        gap = {"accuracy": None} if number % 2 else {"reward/learned": None}
        doctor.step({"step": number, "reward/learned": 1.0, "accuracy": 0.5, **gap})
    assert doctor.findings == []
    assert doctor.history.windows("reward/learned", "accuracy", WINDOW).count == 0
