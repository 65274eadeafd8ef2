"""repetition: the share by hand and by brute force, and what does not change it."""

import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import REWARDS

tokens = st.lists(st.integers(0, 3), max_size=60)
sizes = st.integers(1, 25)


def penalty(ids: Any, ngram: int, max_penalty: float = -1.0) -> float:
    reward = REWARDS["repetition"].with_options(ngram=ngram, max_penalty=max_penalty)
    (value,) = reward(completions=["text"], completion_ids=[ids])
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("ids", "ngram", "value"),
    [
        ([], 1, 0.0),
        ([1], 2, 0.0),
        ([1, 2, 3, 4], 1, 0.0),
        ([1, 2, 3, 4], 4, 0.0),
        # 7 8 7 8 7 has the pairs 78 87 78 87: 2 of 4 were there before.
        ([7, 8, 7, 8, 7], 2, -1 / 2),
        # 5 5 5 5 5 has the tokens 5 5 5 5 5: 4 of 5.
        ([5] * 5, 1, -4 / 5),
        # 30 equal tokens have 11 runs of 20, all but one of which were there before.
        ([5] * 30, 20, -10 / 11),
        # 1 2 3 4 5 1 2 3 4 5 has six runs of five: the last is the first again.
        ([1, 2, 3, 4, 5] * 2, 5, -1 / 6),
        ([1, 2, 3, 4, 5] * 2, 6, 0.0),
        ([1, 2, 3, 4, 5] * 2, 3, -3 / 8),
    ],
)
def test_by_hand(ids: list[int], ngram: int, value: float) -> None:
    assert penalty(ids, ngram) == pytest.approx(value)
    assert penalty(ids, ngram, max_penalty=-0.25) == pytest.approx(value / 4)
    assert penalty(ids, ngram, max_penalty=0.0) == 0.0


def test_the_defaults_and_the_reason() -> None:
    (score,) = REWARDS["repetition"].scores(completions=["text"], completion_ids=[[5] * 30])
    assert score.value == pytest.approx(-10 / 11)
    assert score.reason == "10 of 11 runs of 20 tokens are repeated"
    (short,) = REWARDS["repetition"].scores(completions=["text"], completion_ids=[[5] * 19])
    assert (short.value, short.reason) == (0.0, "19 tokens, less than 20")


@given(ids=tokens, ngram=sizes)
def test_as_by_brute_force(ids: list[int], ngram: int) -> None:
    runs = [tuple(ids[start : start + ngram]) for start in range(len(ids) - ngram + 1)]
    repeated = sum(run in runs[:place] for place, run in enumerate(runs))
    assert penalty(ids, ngram) == pytest.approx(-repeated / len(runs) if runs else 0.0)


@given(ids=tokens, ngram=sizes, names=st.permutations([0, 1, 2, 3]))
def test_which_tokens_they_are_says_nothing(ids: list[int], ngram: int, names: list[int]) -> None:
    assert penalty([names[token] for token in ids], ngram) == penalty(ids, ngram)
    assert penalty([10**9 * names[token] - 7 for token in ids], ngram) == penalty(ids, ngram)


@given(ids=tokens, ngram=sizes)
def test_backwards_is_the_same(ids: list[int], ngram: int) -> None:
    assert penalty(ids[::-1], ngram) == penalty(ids, ngram)


@given(ids=tokens, ngram=sizes)
def test_bounds_and_longer_runs_repeat_less(ids: list[int], ngram: int) -> None:
    assert -1.0 < penalty(ids, ngram) <= 0.0

    def repeated(size: int) -> float:
        return -penalty(ids, size) * max(0, len(ids) - size + 1)

    assert repeated(ngram) >= repeated(ngram + 1) - 1e-9


@given(ids=st.lists(st.integers(), unique=True, max_size=60), ngram=sizes)
def test_what_never_comes_twice_costs_nothing(ids: list[int], ngram: int) -> None:
    assert penalty(ids, ngram) == 0.0


def test_a_loop_costs_nearly_everything() -> None:
    assert penalty(list(range(7)) * 300, 20) < -0.99


def test_tensors_are_read_by_their_values() -> None:
    torch = pytest.importorskip("torch")
    assert penalty(torch.tensor([7, 8, 7, 8, 7]), 2) == pytest.approx(-1 / 2)
    assert penalty([7, 8, 7, 8, 7], 2) == pytest.approx(-1 / 2)


def test_memory_and_time_do_not_grow_with_the_length_of_the_runs() -> None:
    ids = [(place * 7919) % 150_000 for place in range(50_000)]
    began = time.perf_counter()
    assert penalty(ids, 5000) == 0.0
    assert time.perf_counter() - began < 5.0  # 50,000 tuples of 5,000 would take ten times that
    tracemalloc.start()
    assert penalty(ids[:20_000], 5000) == 0.0
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 2**20  # 15,000 tuples of 5,000 take 600 MB


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ngram": 0}, "'ngram', a whole number above 0, not 0: set rewards.repetition.args.ngram"),
        ({"ngram": True}, "not True"),
        ({"ngram": 2.0}, "not 2.0"),
        ({"max_penalty": 0.5}, "max_penalty=0.5 must not be above 0: repetition would pay"),
        ({"max_penalty": float("nan")}, "max_penalty=nan must be a finite number"),
        ({"max_penalty": "-1"}, "max_penalty='-1' must be a finite number"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REWARDS["repetition"].with_options(**options)(completions=["text"], completion_ids=[[1]])
