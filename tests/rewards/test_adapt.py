"""Reward functions of users and of TRL behind the one interface."""

import asyncio
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from rewards import REWARDS, Response, as_reward, load_reward

TEXTS = ["<think>r</think><answer>42</answer>", "<think>r</think><answer>7</answer>"]


def test_a_trl_function_gets_its_columns_and_nothing_it_did_not_ask_for() -> None:
    def by_length(completions: list[str], answer: list[str]) -> list[float | None]:
        return [float(len(c)) if a else None for c, a in zip(completions, answer, strict=True)]

    reward = as_reward(by_length, "by_length")
    assert reward.__name__ == "by_length"
    assert reward(completions=["ab", "c"], answer=["x", ""], prompts=["p", "q"], log_metric=print) == [
        2.0,
        None,
    ]
    assert [s.reason for s in reward.scores(completions=["ab", "c"], answer=["x", ""])] == [
        "returned 2",
        "abstained",
    ]


def test_a_trl_function_with_kwargs_gets_everything_as_it_was() -> None:
    seen: dict[str, Any] = {}

    def spy(completions: list[Any], **kwargs: Any) -> list[float]:
        seen.update(kwargs, completions=completions)
        return [0.0] * len(completions)

    conversations = [[{"role": "assistant", "content": "a"}]]
    as_reward(spy)(completions=conversations, prompts=["p"], trainer_state=None, answer=["1"])
    assert seen == {"completions": conversations, "prompts": ["p"], "trainer_state": None, "answer": ["1"]}


def test_what_only_a_trainer_has_is_stood_in_for() -> None:
    seen: list[Any] = []

    def logs(
        completions: list[str], trainer_state: Any, log_extra: Any, log_metric: Any, **kwargs: Any
    ) -> list[float]:
        log_extra("text", completions)
        log_metric("mean", 1.0)
        seen.append(trainer_state)
        return [1.0] * len(completions)

    reward = as_reward(logs)
    said: list[Any] = []
    assert reward(completions=["a"]) == [1.0]
    given = {
        "trainer_state": 7,
        "log_extra": lambda *a: said.append(a),
        "log_metric": lambda *a: said.append(a),
    }
    assert reward(completions=["a"], **given) == [1.0]
    assert seen == [None, 7]
    assert said == [("text", ["a"]), ("mean", 1.0)]


def test_an_async_function_is_awaited() -> None:
    async def slow(completions: list[str], **kwargs: Any) -> list[float]:
        await asyncio.sleep(0)
        return [1.0] * len(completions)

    assert as_reward(slow)(completions=TEXTS) == [1.0, 1.0]

    async def inside_a_running_loop() -> list[float | None]:
        return as_reward(slow)(completions=TEXTS)

    assert asyncio.run(inside_a_running_loop()) == [1.0, 1.0]


def test_plain_functions_see_one_response_and_its_row() -> None:
    def plain(response: Response, example: dict[str, Any]) -> float:
        return float(response.answer == example["answer"])

    async def plain_async(response: Response, example: dict[str, Any]) -> float | None:
        await asyncio.sleep(0)
        return None if response.answer == "7" else 0.5

    assert as_reward(plain)(completions=TEXTS, answer=["42", "8"]) == [1.0, 0.0]
    assert as_reward(plain_async)(completions=TEXTS, answer=["42", "8"]) == [0.5, None]
    with pytest.raises(ValueError, match=r"no column 'answer': did you mean 'answers'"):
        as_reward(plain)(completions=TEXTS, answers=["42", "8"])


def test_a_trl_reward_of_trl() -> None:
    rewards = pytest.importorskip("trl.rewards")
    reward = as_reward(rewards.think_format_reward)
    good = [{"role": "assistant", "content": "<think>r</think>42"}]
    bad = [{"role": "assistant", "content": "42"}]
    assert reward(completions=[good, bad], prompts=["p", "q"]) == [1.0, 0.0]
    # In the loop completions are strings, and a function that is annotated for conversations gets those.
    assert reward(completions=["<think>r</think>42", "42"], prompts=["p", "q"]) == [1.0, 0.0]
    accuracy = as_reward(rewards.accuracy_reward)
    texts = ["\\boxed{42}", "\\boxed{41}"]
    assert accuracy(completions=texts, solution=["\\boxed{42}"] * 2) == [1.0, 0.0]


def test_a_trl_reward_of_token_ids() -> None:
    rewards = pytest.importorskip("trl.rewards")
    reward = as_reward(rewards.get_soft_overlong_punishment(max_completion_len=4, soft_punish_cache=2))
    # Two tokens are within 4 - 2; three are 1 token into a buffer of 2: -1/2.
    assert reward(completions=["a", "b"], completion_ids=[[1, 2], [1, 2, 3]]) == [0.0, -0.5]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "high", [1.0]])
def test_a_value_that_is_no_finite_number_is_an_error(value: Any) -> None:
    def broken(completions: list[str], **kwargs: Any) -> list[Any]:
        return [1.0, value]

    with pytest.raises(ValueError, match=r"'broken' returned .* for completion 1: return a finite number"):
        as_reward(broken)(completions=TEXTS)


@pytest.mark.parametrize("values", [[1.0], [1.0] * 3, [], None, 1.0])
def test_a_wrong_number_of_values_is_an_error(values: Any) -> None:
    def broken(completions: list[str], **kwargs: Any) -> Any:
        return values

    with pytest.raises(ValueError, match=r"'broken' returned .* values for 2 completions"):
        as_reward(broken)(completions=TEXTS)


def test_missing_and_short_columns_are_errors() -> None:
    def needs(completions: list[str], solution: list[str], **kwargs: Any) -> list[float]:
        return [0.0] * len(completions)

    with pytest.raises(ValueError, match=r"'needs' needs the column 'solution': did you mean 'solutions'"):
        as_reward(needs)(completions=TEXTS, solutions=["1", "2"])
    with pytest.raises(ValueError, match=r"column 'solution' has 1 values for 2 completions"):
        as_reward(needs)(completions=TEXTS, solution=["1"])


def test_an_error_inside_the_function_is_not_hidden() -> None:
    def broken(completions: list[str], **kwargs: Any) -> list[float]:
        raise KeyError("oops")

    with pytest.raises(KeyError, match="oops"):
        as_reward(broken)(completions=TEXTS)


def test_another_signature_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must take \(completions, \*\*columns\), by name, or \(response, example\)"
    ):
        as_reward(lambda text: 1.0, "lonely")


def test_what_could_never_be_called_is_refused() -> None:
    def extra(response: Response, example: dict[str, Any], extra: float) -> float:
        return extra

    def named(response: Response, example: dict[str, Any], *, extra: float) -> float:
        return extra

    def by_place(completions: list[str], /, **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    for function in (extra, named):
        with pytest.raises(
            ValueError, match=r"it has no value for 'extra', so give it a default or an option"
        ):
            as_reward(function)
        assert as_reward(function, extra=0.5)(completions=["a"]) == [0.5]
    with pytest.raises(ValueError, match=r"'by_place' must take \(completions, \*\*columns\), by name"):
        as_reward(by_place)
    assert as_reward(lambda response, example, /, *more, **named: 1.0)(completions=["a"]) == [1.0]


@pytest.fixture
def reward_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(
        "FACTOR = 2.0\n"
        "def double(response, example, factor=FACTOR):\n"
        "    return factor * len(response.answer or '')\n"
        "from rewards import REWARDS\n"
        "ready = REWARDS['think_format']\n"
    )
    return path


def test_load_reward_takes_registered_names_and_files(reward_file: Path) -> None:
    assert load_reward("accuracy") is REWARDS["accuracy"]
    assert load_reward("random", {"seed": 3})(completions=["a"]) == REWARDS["random"].with_options(seed=3)(
        completions=["a"]
    )
    assert load_reward(f"{reward_file}:double")(completions=TEXTS) == [4.0, 2.0]
    assert load_reward(f"{reward_file}:double", {"factor": 3})(completions=TEXTS) == [6.0, 3.0]
    assert load_reward(f"{reward_file}:ready") is REWARDS["think_format"]


def test_a_file_may_import_its_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", list(sys.path))
    for name, value in (("one", 1.0), ("two", 2.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "neighbour_of_mine.py").write_text(f"VALUE = {value}\n")
        (tmp_path / name / "mine.py").write_text(
            "import neighbour_of_mine\ndef reward(response, example):\n    return neighbour_of_mine.VALUE\n"
        )
    rewards = [load_reward(f"{tmp_path / name / 'mine.py'}:reward") for name in ("one", "two")]
    assert [reward(completions=["a"]) for reward in rewards] == [[1.0], [2.0]]


def test_load_reward_takes_modules(reward_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(reward_file.parent)
    assert load_reward("mine:double")(completions=TEXTS) == [4.0, 2.0]


def test_what_cannot_be_loaded_names_the_nearest(reward_file: Path) -> None:
    for name, message in [
        ("acuracy", r"no reward 'acuracy': did you mean 'accuracy'"),
        (f"{reward_file}:duble", r"no reward function 'duble': did you mean 'double'"),
        (f"{reward_file}:FACTOR", r"no reward function 'FACTOR'"),
        (f"{reward_file.parent / 'none.py'}:f", r"no reward file"),
        ("no_such_module:f", r"no reward module 'no_such_module'"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_reward(name)
    with pytest.raises(ValueError, match=r"takes no option 'factr': did you mean 'factor'"):
        load_reward(f"{reward_file}:double", {"factr": 1})


def test_an_import_that_fails_inside_the_module_keeps_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        load_reward("needs_more:f")
