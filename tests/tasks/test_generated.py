import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reasoning_gym.factory import DATASETS, create_dataset, get_score_answer_fn

from rlreason.config.data import TaskConfig
from rlreason.errors import UserError
from rlreason.tasks import TaskData, load_tasks, question_key
from rlreason.tasks.generated import HASH_ORDERED, Generator

# 2 or 3 one-digit terms: 10 * 10 * 2 + 10 * 10 * 10 * 4 = 4,200 questions, so that draws do collide.
SMALL = {"min_terms": 2, "max_terms": 3, "min_digits": 1, "max_digits": 1}
# 6 four-digit terms: 9000 ** 6 * 2 ** 5 questions, so that two equal draws are no coincidence.
VAST = {"min_terms": 6, "max_terms": 6, "min_digits": 4, "max_digits": 4}

# One of each kind whose known answer is text, quick to draw.
QUICK = [
    "ab", "base_conversion", "basic_arithmetic", "caesar_cipher", "calendar_arithmetic", "chain_sum",
    "coin_flip", "countdown", "decimal_chain_sum", "gcd", "gsm_symbolic", "knights_knaves", "leg_counting",
    "letter_counting", "maze", "mini_sudoku", "n_queens", "number_sequence", "pool_matrix", "products",
    "shortest_path", "spell_backward", "syllogism", "tower_of_hanoi", "word_sorting",
]  # fmt: skip


def load(
    seed: int = 0, *, name: str = "chain_sum", params: dict | None = None, size: int = 40, held_out: int = 20
) -> TaskData:
    task = TaskConfig(name=name, params=params or {}, train_size=size)
    return load_tasks(task, seed=seed, eval_questions=held_out)


def questions(data: TaskData) -> list[str]:
    return [example.question for example in data.train]


@pytest.mark.parametrize("name", QUICK)
def test_the_verifier_gives_the_known_answer_full_marks(name):
    data = load(name=name, size=3, held_out=1)
    for example in [*data.train, *data.held_out]:
        item = example.metadata["reasoning_gym"]
        assert item["dataset"] == name
        assert example.question == item["entry"]["question"]
        assert get_score_answer_fn(name)(example.answer, item["entry"]) == 1.0


def test_the_same_seed_draws_the_same_questions():
    assert load(3) == load(3)


def test_reasoning_gyms_own_seeds_overlap():
    # The reason for all this: the second question of seed 0 is the first one of seed 1.
    first = create_dataset("chain_sum", seed=0, size=10)
    second = create_dataset("chain_sum", seed=1, size=10)
    assert first[1]["question"] == second[0]["question"]


@given(st.integers(0, 2**31), st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_neighbouring_seeds_share_no_question(seed, distance):
    mine, other = load(seed, params=VAST), load(seed + distance, params=VAST)
    assert not set(questions(mine)) & set(questions(other))


@given(st.integers(0, 2**63), st.integers(1, 150), st.integers(0, 150))
@settings(max_examples=12, deadline=None)
def test_trained_and_held_out_questions_are_disjoint_and_distinct(seed, train_size, eval_questions):
    task = TaskConfig(name="chain_sum", params=SMALL, train_size=train_size)
    data = load_tasks(task, seed=seed, eval_questions=eval_questions)
    train = {question_key(example) for example in data.train}
    held_out = {question_key(example) for example in data.held_out}
    assert len(train) == len(data.train) == train_size
    assert len(held_out) == len(data.held_out) == eval_questions
    assert not train & held_out


@given(st.integers(0, 2**63), st.integers(1, 60))
@settings(max_examples=10, deadline=None)
def test_held_out_questions_depend_on_neither_seed_nor_train_size(seed, train_size):
    assert load(seed, params=SMALL, size=train_size).held_out == load(0, params=SMALL).held_out


def test_fewer_questions_are_the_first_of_more():
    assert load(size=700).train[:40] == load(size=40).train


def test_the_report_counts_every_draw():
    report = load(params=SMALL, size=600).report
    assert report["train"] == 600
    assert report["held_out"] == 20
    assert report["duplicates"] > 0
    assert report["in_held_out"] > 0
    # Every draw was kept, or was a duplicate, or was held out.
    assert report["read"] == 600 + 20 + report["duplicates"] + report["in_held_out"]


def test_too_few_different_questions_are_refused(monkeypatch):
    monkeypatch.setattr("rlreason.tasks.load.PATIENCE", 200)
    # 10 * 10 * 2 = 200 questions, of which 20 are held out.
    with pytest.raises(
        UserError, match=r"too few different questions.*300 are wanted beside 20 held-out"
    ) as e:
        load(params={**SMALL, "max_terms": 2}, size=300)
    assert "lower task.train_size or eval.questions" in str(e.value)
    with pytest.raises(UserError, match="300 are wanted for the held-out set"):
        load(params={**SMALL, "max_terms": 2}, held_out=300)


def test_an_unknown_generator_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"task.name: .*'chain_sums'; did you mean 'chain_sum'\?"):
        load(name="chain_sums")


def test_an_unknown_parameter_is_answered_with_the_known_ones():
    with pytest.raises(UserError, match=r"task.params.max_term: chain_sum .*did you mean 'max_terms'\?") as e:
        load(params={"max_term": 3})
    assert "allow_negation, max_digits, max_terms, min_digits, min_terms" in str(e.value)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"min_terms": 5, "max_terms": 2}, "max_terms must be >= min_terms"),
        ({"min_terms": "3"}, "chain_sum does not take"),
        ({"max_terms": 6.5}, "chain_sum failed to draw a question"),
        ({"seed": 3}, "task.params.seed: is set by rlreason; remove it and set seed"),
        ({"size": 3}, "task.params.size: is set by rlreason; remove it and set task.train_size"),
    ],
)
def test_unusable_parameters_are_refused(params, message):
    with pytest.raises(UserError, match=message):
        load(params=params)


@pytest.mark.parametrize(
    "name", ["list_functions", "pool_matrix"]
)  # they draw from, or reseed, the process's
def test_drawing_leaves_the_random_state_alone(name):
    random.seed(1)
    np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    data = load(name=name)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.seed(2)
    np.random.seed(2)
    assert load(name=name) == data


def test_drawing_prints_nothing(capsys):
    load(name="bf", size=3)  # its compiler prints dots
    assert capsys.readouterr().out == ""


def test_questions_without_a_known_answer_are_counted():
    data = load(name="rush_hour", size=5)
    assert {example.answer for example in data.train} == {""}
    assert data.report["without_gold"] == 25  # 5 to train on, 20 held out


def test_metadata_carries_what_other_rewards_read():
    metadata = load(name="countdown", size=1, held_out=1).train[0].metadata
    assert isinstance(metadata["target"], int)
    assert all(isinstance(number, int) for number in metadata["numbers"])
    assert metadata["difficulty"]["numbers"] == (4, 6)  # the generator's default


def test_parameters_reach_the_generator_and_its_verifier():
    example = load(params=VAST).train[0]
    assert example.metadata["num_terms"] == 6
    assert example.metadata["reasoning_gym"]["params"] == VAST


def test_composite_mixes_generators():
    datasets = [{"name": "chain_sum", "weight": 1, "config": SMALL}, {"name": "leg_counting"}]
    data = load(name="composite", params={"datasets": datasets})
    items = [example.metadata["reasoning_gym"] for example in data.train]
    assert {item["dataset"] for item in items} == {"chain_sum", "leg_counting"}
    for item in items:
        assert item["params"] == (SMALL if item["dataset"] == "chain_sum" else {})
        assert get_score_answer_fn(item["dataset"])(item["entry"]["answer"], item["entry"]) == 1.0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({}, "composite takes a list such as"),
        ({"datasets": [{"nme": "chain_sum"}]}, "composite takes a list such as"),
        ({"datasets": [{"name": "chain_sun"}]}, "did you mean 'chain_sum'"),
        ({"datasets": [{"name": "chain_sum", "config": {"max_term": 3}}]}, "did you mean 'max_terms'"),
        ({"datasets": [{"name": "chain_sum", "weight": -1}]}, "Weight must be positive"),
    ],
)
def test_unusable_composites_are_refused(params, message):
    with pytest.raises(UserError, match=message):
        load(name="composite", params=params)


def test_generators_that_hash_are_refused_unless_hashing_is_fixed(monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    if sys.flags.hash_randomization:
        with pytest.raises(UserError, match="set PYTHONHASHSEED=0"):
            Generator("ransom_note", {})
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    Generator("ransom_note", {})


DRAW = """
import json, sys, time
from reasoning_gym.factory import DATASETS
from rlreason.tasks.generated import Generator
drawn = {}
for name in sorted(set(DATASETS) - {"composite"}):
    stream, end = Generator(name, {}).entries("test", 0), time.monotonic() + 1
    drawn[name] = []
    while len(drawn[name]) < 2 or (len(drawn[name]) < 20 and time.monotonic() < end):
        entry = next(stream)
        drawn[name].append([entry["question"], str(entry["answer"])])
json.dump(drawn, sys.stdout)
"""


@pytest.mark.slow
def test_only_the_listed_generators_depend_on_hashing():
    drawn = []
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", DRAW], env=environment, capture_output=True, text=True, check=True
        )
        drawn.append(json.loads(done.stdout))
    # A slower process drew fewer: compare what both drew.
    differing = {n for n in drawn[0] if any(a != b for a, b in zip(drawn[0][n], drawn[1][n], strict=False))}
    assert differing <= HASH_ORDERED


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"composite"}))
def test_every_generator_is_reproducible_and_its_verifier_knows_the_answer(name, monkeypatch):
    monkeypatch.setenv("PYTHONHASHSEED", "0")
    generator = Generator(name, {})
    once, again = generator.entries("test", 0), generator.entries("test", 0)
    for _ in range(2):
        entry = next(once)
        assert next(again) == entry
        example = generator.example(entry)
        if example.answer:
            assert get_score_answer_fn(name)(example.answer, entry) == 1.0
