from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreason.config.data import TaskConfig
from rlreason.errors import UserError
from rlreason.tasks import derives, load_tasks, traces
from rlreason.tasks.traces import GUESSES
from rlreason.types import Example

TASK = TaskConfig(name="chain_sum", params={"max_digits": 1}, train_size=60)
EXAMPLES = load_tasks(TASK, seed=0, eval_questions=5).train


def test_every_trace_answers_its_example_in_its_style():
    written = traces(TASK, EXAMPLES, {"guess": 0.6, "steps": 0.4}, 0)
    assert [trace.example for trace in written] == EXAMPLES
    for trace in written:
        assert trace.answer == trace.example.answer
        assert derives(trace.think) == (trace.style == "steps")
        if trace.style == "guess":
            assert trace.think in GUESSES


@pytest.mark.parametrize(
    ("count", "styles", "counts"),
    [
        (60, {"guess": 0.6, "steps": 0.4}, {"guess": 36, "steps": 24}),
        (7, {"guess": 0.6, "steps": 0.4}, {"guess": 4, "steps": 3}),  # 4.2 and 2.8
        (4, {"guess": 1, "steps": 3}, {"guess": 1, "steps": 3}),  # shares need not sum to 1
        (3, {"guess": 1.0}, {"guess": 3}),
        (3, {}, {"steps": 3}),
        (0, {"steps": 1.0}, {}),
    ],
)
def test_shares_are_met(count, styles, counts):
    assert Counter(trace.style for trace in traces(TASK, EXAMPLES[:count], styles, 0)) == counts


@given(st.integers(0, 2**63), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 60))
@settings(max_examples=40, deadline=None)
def test_shares_are_met_to_within_one_trace(seed, guess, steps, count):
    written = traces(TASK, EXAMPLES[:count], {"guess": guess, "steps": steps}, seed)
    assert len(written) == count
    guessed = sum(trace.style == "guess" for trace in written)
    assert abs(guessed - count * guess / (guess + steps)) < 1


def test_the_seed_decides_who_guesses_and_how():
    half = {"guess": 0.5, "steps": 0.5}
    assert traces(TASK, EXAMPLES, half, 1) == traces(TASK, EXAMPLES, half, 1)
    assert traces(TASK, EXAMPLES, half, 1) != traces(TASK, EXAMPLES, half, 2)
    said = {trace.think for trace in traces(TASK, EXAMPLES, {"guess": 1.0}, 0)}
    assert len(said) > len(GUESSES) // 2


def test_a_ramble_is_up_to_three_different_guesses():
    written = traces(TASK, EXAMPLES, {"ramble": 1.0}, 0)
    counts = Counter()
    for trace in written:
        said = [phrase for phrase in GUESSES if phrase in trace.think]
        assert sorted(trace.think) == sorted(" ".join(said))  # these phrases, each once, in any order
        assert not derives(trace.think)
        assert trace.answer == trace.example.answer
        counts[len(said)] += 1
    assert set(counts) == {1, 2, 3}


def test_no_guess_works_anything_out():
    for phrase in GUESSES:
        assert not any(character.isdigit() or character in "+-*/=" for character in phrase)


@pytest.mark.parametrize(
    ("styles", "message"),
    [
        ({"step": 1.0}, r"sft.styles.step: there is no such style; did you mean 'steps'\?"),
        ({"steps": 0.0}, "sft.styles.steps: 0.0 is no share"),
        ({"steps": float("nan")}, "nan is no share"),
    ],
)
def test_unusable_styles_are_refused(styles, message):
    with pytest.raises(UserError, match=message):
        traces(TASK, EXAMPLES, styles, 0)


def test_questions_without_a_derivation_are_refused():
    task = TaskConfig(name="maze", train_size=1)
    examples = load_tasks(task, seed=0, eval_questions=1).train
    with pytest.raises(
        UserError, match=r"no derivations are written for the questions of maze, only for chain_sum"
    ):
        traces(task, examples, {"steps": 1.0}, 0)
    task = TaskConfig(source="file", name="rows.csv")
    with pytest.raises(UserError, match=r"no derivations are written for the questions of rows\.csv"):
        traces(task, [Example([{"role": "user", "content": "?"}], "1")], {"steps": 1.0}, 0)
