"""What goes wrong in a reward becomes a failed score of the completions that it went wrong for."""

import asyncio
import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from rewards import REWARDS, Response, Reward, Rubric, Score, Term, as_reward
from rewards.guarded import failure, guarded_scores, kind_of

TEXTS = ["a", "bad", "c"]


def scores(reward: Reward, **columns: Any) -> list[Score]:
    return guarded_scores(reward, completions=TEXTS, columns=columns)


def fails(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        raise KeyError("oops")
    return 1.0


async def fails_later(response: Response, example: dict[str, Any]) -> float:
    await asyncio.sleep(0)
    return fails(response, example)


def exits(response: Response, example: dict[str, Any]) -> float:
    if response.text == "bad":
        raise SystemExit
    return 1.0


@pytest.mark.parametrize(
    ("function", "reason"),
    [(fails, "KeyError: 'oops'"), (fails_later, "KeyError: 'oops'"), (exits, "SystemExit")],
)
def test_an_error_fails_one_completion(function: Any, reason: str) -> None:
    first, second, third = scores(as_reward(function))
    assert (first, third) == (Score(1.0, "returned 1"), Score(1.0, "returned 1"))
    assert (second.value, second.failed) == (None, True)
    assert second.reason.startswith(f"{reason} (test_guarded.py, line")


@pytest.mark.parametrize("value", [math.nan, math.inf, "high", [1.0]])
def test_a_value_that_is_no_number_fails_one_completion(value: Any) -> None:
    def rows(response: Response, example: dict[str, Any]) -> Any:
        return value if response.text == "bad" else None

    def batch(completions: list[str], **columns: Any) -> list[Any]:
        return [value if text == "bad" else None for text in completions]

    async def later(response: Response, example: dict[str, Any]) -> Any:
        return rows(response, example)

    for function in (rows, batch, later):
        found = scores(as_reward(function, "mine"))
        assert [score.value for score in found] == [None] * 3
        assert [score.failed for score in found] == [False, True, False]
        assert "'mine' returned" in found[1].reason
        assert "return a finite number" in found[1].reason
        assert "completion" not in found[1].reason.partition("return a finite")[0]


def test_a_batch_function_fails_for_all_its_completions() -> None:
    def broken(completions: list[str], **columns: Any) -> list[float]:
        raise KeyError("oops")

    def short(completions: list[str], **columns: Any) -> list[float]:
        return [1.0]

    assert [score.failed for score in scores(as_reward(broken))] == [True] * 3
    assert {score.reason for score in scores(as_reward(short))} == {
        "ValueError: reward 'short' returned 1 values for 3 completions"
    }


@pytest.mark.parametrize(
    "values",
    [
        {"a": 1.0, "bad": 1.0, "c": 1.0}, "123", b"123", {1.0, 2.0, 3.0}, (n for n in (1.0, 2.0, 3.0)),
        range(3), None, 3.0,
    ],
    ids=lambda values: type(values).__name__,
)  # fmt: skip
def test_a_batch_result_that_is_no_list_is_a_failure(values: Any) -> None:
    found = scores(as_reward(lambda completions: values, "mine"))
    assert [score.value for score in found] == [None] * 3
    assert all(score.failed for score in found)
    assert f"reward 'mine' returned a {type(values).__name__}, " in found[0].reason
    assert "return a list of 3 values for 3 completions" in found[0].reason


def test_arrays_and_their_scalars_are_numbers() -> None:
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    for values in (
        [0.5, 1, True], (0.5, 1, True), numpy.array([0.5, 1, 1]), torch.tensor([0.5, 1, 1]),
        [numpy.array([0.5]), numpy.float32(1), torch.tensor([[1]])], numpy.array([[0.5], [1], [1]]),
        torch.tensor([0.5, 1, 1], requires_grad=True), [Fraction(1, 2), Decimal(1), numpy.bool_(True)],
    ):  # fmt: skip
        found = scores(as_reward(lambda completions, values=values: values, "mine"))
        assert [score.value for score in found] == [0.5, 1.0, 1.0], values
    for value in ("1.0", b"1.0", numpy.str_("1.0"), numpy.array([1.0, 2.0]), torch.ones(2), 10**400, 1j):
        found = scores(as_reward(lambda completions, value=value: [0, value, 0], "mine"))
        assert [score.failed for score in found] == [False, True, False], value
    found = scores(as_reward(lambda completions: numpy.array(1.0), "mine"))
    assert [score.failed for score in found] == [True] * 3


def test_what_a_function_does_to_its_arguments_stays_with_it() -> None:
    def spoils(completions: list[Any], answer: list[str], tests: list[Any]) -> list[float]:
        answer[:] = ["spoiled"] * 3
        tests[1]["cases"].clear()
        completions.clear()
        return [1.0] * 3

    def spoils_and_fails(completions: list[str]) -> list[float]:
        completions.clear()
        raise KeyError("oops")

    def spoils_its_row(response: Response, example: dict[str, Any]) -> float:
        example["tests"]["cases"].append(example.pop("answer"))
        return 1.0

    answer, tests = ["1", "2", "3"], [{"cases": [n]} for n in range(3)]
    rubric = Rubric(
        [
            Term("spoils", as_reward(spoils)),
            Term("fails", as_reward(spoils_and_fails)),
            Term("row", as_reward(spoils_its_row)),
            Term("accuracy", REWARDS["accuracy"]),
        ]
    )
    texts = [f"<think>r</think><answer>{gold}</answer>" for gold in answer]
    for score in rubric.score(texts, columns={"answer": answer, "tests": tests}):
        assert {name: part.value for name, part in score.parts.items()} == {
            "spoils": 1.0, "fails": None, "row": 1.0, "accuracy": 1.0,
        }  # fmt: skip
    assert len(texts) == 3
    assert answer == ["1", "2", "3"]
    assert tests == [{"cases": [n]} for n in range(3)]


def test_a_reward_of_our_own_fails_one_completion() -> None:
    def picky(response: Response, *, divisor: int) -> Score:
        return Score(1 / divisor, "fine")

    first, second, _ = scores(Reward("picky", picky), divisor=[1, 0, 1])
    assert first == Score(1.0, "fine")
    assert second.reason.startswith("ZeroDivisionError: division by zero (test_guarded.py, line")
    assert REWARDS["think_format"]._function is not None  # the registered one is as it was
    assert [score.failed for score in scores(REWARDS["think_format"])] == [False] * 3


def test_what_the_caller_did_wrong_still_raises() -> None:
    def needs(completions: list[str], solution: list[str]) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(ValueError, match="needs the column 'answer'"):
        scores(REWARDS["accuracy"])
    with pytest.raises(ValueError, match="needs the column 'solution'"):
        scores(as_reward(needs))
    for reward in (REWARDS["accuracy"], as_reward(fails)):
        with pytest.raises(ValueError, match="column 'answer' has 1 values for 3 completions"):
            scores(reward, answer=["1"])


def test_an_interrupt_is_for_the_caller() -> None:
    def interrupted(response: Response, example: dict[str, Any]) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scores(as_reward(interrupted))


def test_the_trace_begins_in_the_code_of_the_reward() -> None:
    def deep(depth: int) -> float:
        return deep(depth - 1) if depth else 1 / 0

    def reward(response: Response, example: dict[str, Any]) -> float:
        return deep(50)

    (score, *_) = scores(as_reward(reward))
    lines = score.trace.splitlines()
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert all("test_guarded.py" in line for line in lines if line.startswith("  File"))
    assert sum(line.startswith("  File") for line in lines) <= 8
    assert failure(ValueError()).reason == "ValueError"
    assert failure(ValueError("one\ntwo")).reason == "two"


def test_what_a_terminal_would_act_on_is_escaped() -> None:
    score = failure(ValueError("\x1b[31m\u202eno\ud800\ttab"))
    assert score.reason == "ValueError: \\x1b[31m\\u202eno\\ud800\ttab"
    assert score.trace == score.reason


def test_how_a_reward_is_called() -> None:
    class Judge:
        async def __call__(self, response: Response, example: dict[str, Any]) -> float:
            return 1.0

    async def batch(completions: list[str]) -> list[float]:
        return [1.0] * len(completions)

    assert kind_of(REWARDS["accuracy"]) == "rows"
    assert kind_of(as_reward(fails)) == "rows"
    assert kind_of(as_reward(fails_later)) == "async"
    assert kind_of(as_reward(Judge())) == "async"
    assert kind_of(as_reward(batch)) == "batch"
    assert scores(as_reward(Judge())) == [Score(1.0, "returned 1")] * 3
