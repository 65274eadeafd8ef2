"""reasoning_gym: the generators' own verifiers, and what they must never be shown."""

import sys
import threading
import time
from typing import Any

import pytest

from rewards import REWARDS
from rewards.process import WorkerProcess

reasoning_gym = pytest.importorskip("reasoning_gym")


def value(answer: str, dataset: str, entry: dict[str, Any]) -> float | None:
    completion = f"<think>r</think><answer>{answer}</answer>"
    column = [{"dataset": dataset, "entry": entry}]
    return REWARDS["reasoning_gym"](completions=[completion], reasoning_gym=column)[0]


GENERATORS = (
    "binary_matrix chain_sum countdown gsm_symbolic intermediate_integration leg_counting letter_counting "
    "n_queens polynomial_multiplication puzzle24 simple_integration spiral_matrix string_insertion"
)


@pytest.mark.parametrize("dataset", GENERATORS.split())
def test_the_known_right_answer_scores_1(dataset: str) -> None:
    for entry in reasoning_gym.create_dataset(dataset, seed=5, size=3):
        assert value(entry["answer"], dataset, entry) == 1.0
        assert value("no idea", dataset, entry) < 0.1
        if (
            dataset == "polynomial_multiplication"
        ):  # another spelling of it is parsed, and so has to pass the guard
            assert value(entry["answer"].replace("*", " * "), dataset, entry) == 1.0
        unanswered = REWARDS["reasoning_gym"](
            completions=["no"], reasoning_gym=[{"dataset": dataset, "entry": entry}]
        )
        assert unanswered == [0.0]


@pytest.mark.parametrize("dataset", ["string_insertion", "spiral_matrix", "binary_matrix", "n_queens"])
def test_an_answer_is_never_run(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerProcess, "forbidden", True)  # in this process, where it would be seen
    entry = reasoning_gym.create_dataset(dataset, seed=5, size=1)[0]
    for answer in (
        "__import__('sys').modules.__setitem__('was_run', 1)",
        "[__import__('sys').modules.__setitem__('was_run', 1)]",
        "(lambda: exit())()",
        "exit()",
        "9**9**9**9",
    ):
        assert value(answer, dataset, entry) == 0.0
    assert "was_run" not in sys.modules


@pytest.mark.parametrize(
    "dataset", ["countdown", "puzzle24", "simple_integration", "polynomial_multiplication"]
)
@pytest.mark.parametrize(
    "answer", ["9**9**9**9", "99999999!", "factorial(99999999)", "exit()", "__import__('os')"]
)
def test_bombs_for_the_symbolic_verifiers_come_back_fast(dataset: str, answer: str) -> None:
    entry = reasoning_gym.create_dataset(dataset, seed=5, size=1)[0]
    start = time.perf_counter()
    assert value(answer, dataset, entry) == 0.0
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("threaded", [False, True], ids=["main", "thread"])
@pytest.mark.parametrize(
    ("dataset", "answer"),
    [("simple_integration", "(x+1)**999 + C"), ("propositional_logic", "\u00ac" * 3000 + "P")],
)
def test_a_verifier_that_takes_long_is_stopped_where_it_is_called(
    monkeypatch: pytest.MonkeyPatch, dataset: str, answer: str, threaded: bool
) -> None:
    monkeypatch.setattr("rewards.procedural.SECONDS", 0.5)
    entry = reasoning_gym.create_dataset(dataset, seed=5, size=1)[0]
    found: list[float | None] = []
    work = threading.Thread(target=lambda: found.append(value(answer, dataset, entry)))
    start = time.perf_counter()
    work.start() if threaded else work.run()
    if threaded:
        work.join(30)
    assert found == [0.0]
    assert time.perf_counter() - start < 5
    item = reasoning_gym.create_dataset("chain_sum", seed=5, size=1)[0]
    assert value(item["answer"], "chain_sum", item) == 1.0


def test_a_list_still_earns_what_the_verifier_gives_it() -> None:
    entry = reasoning_gym.create_dataset("spiral_matrix", seed=5, size=1)[0]
    assert value(f"[{', '.join(entry['answer'].split())}]", "spiral_matrix", entry) == 0.1


def test_mistakes_of_the_data_are_errors() -> None:
    with pytest.raises(ValueError, match=r"no generator 'chain_sums': did you mean 'chain_sum'"):
        value("1", "chain_sums", {"answer": "1"})
    with pytest.raises(ValueError, match=r"column 'reasoning_gym' must hold"):
        REWARDS["reasoning_gym"](completions=["x"], reasoning_gym=["chain_sum"])


def test_a_verifier_that_fails_on_the_right_answer_too_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def verify(answer: str, entry: dict[str, Any]) -> float:
        return float(int(answer) == int(entry["answer"]))

    monkeypatch.setattr("rewards.procedural._verifier", lambda name, params: verify)
    monkeypatch.setattr(WorkerProcess, "forbidden", True)  # as in a worker
    assert value("7", "any", {"answer": "7"}) == 1.0
    assert value("seven", "any", {"answer": "7"}) == 0.0
    with pytest.raises(ValueError, match="invalid literal"):
        value("seven", "any", {"answer": "VII"})


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from rewards.procedural import _verifier

    _verifier.cache_clear()
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", None)
    with pytest.raises(ImportError, match="pip install reasoning-gym"):
        value("1", "chain_sum", {"answer": "1"})
