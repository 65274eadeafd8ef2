"""What is asked of a pool of workers: who computes what, where, with which limits, and what is refused."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from bombed import BOMBS, BUDGET, ONE, SLACK, TEXTS, bomb, in_thread, scores

from rewards import PooledReward, WorkerPool
from rewards.guarded import timed_out

ROOT = Path(__file__).parents[2]


def test_completions_and_rewards_are_scored_side_by_side(tmp_path: Path) -> None:
    source = tmp_path / "slow.py"
    source.write_text(
        "import time\n"
        "def rows(response, example):\n    time.sleep(0.25)\n    return 1.0\n"
        "def batch(completions, **columns):\n    time.sleep(0.5)\n    return [1.0] * len(completions)\n"
    )
    with WorkerPool(4) as pool:
        rewards = [pool.reward(f"{source}:{name}") for name in ("rows", "batch", "batch")]
        for _ in range(2):  # the first time the workers start
            began = time.monotonic()
            calls = [reward.begin(["a"] * 4, None, {}) for reward in rewards]
            pool.run(calls)
            seconds = time.monotonic() - began
    assert [call.result() for call in calls] == [[ONE] * 4] * 3
    assert seconds < 1.5  # one after the other: 4 * 0.25 + 2 * 0.5 = 2


def test_async_functions_wait_together_and_keep_their_event_loop(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "import asyncio\n"
        "LOOPS = set()\n"
        "async def wait(response, example):\n"
        "    LOOPS.add(id(asyncio.get_running_loop()))\n"
        "    await asyncio.sleep(0.2)\n"
        "    return float(len(LOOPS))\n"
    )
    with WorkerPool(1) as pool:
        reward = pool.reward(f"{source}:wait")
        began = time.monotonic()
        assert reward(completions=["a"] * 20) == [1.0] * 20
        assert reward(completions=["a"] * 20) == [1.0] * 20
        assert time.monotonic() - began < 3  # one after the other: 40 * 0.2 = 8


def test_reward_files_import_their_own_neighbours(tmp_path: Path) -> None:
    for name, value in (("one", 1.0), ("two", 2.0)):
        folder = tmp_path / name
        (folder / "package").mkdir(parents=True)
        (folder / "helper.py").write_text(f"VALUE = {value}\n")
        (folder / "package" / "__init__.py").write_text("")
        (folder / "package" / "inner.py").write_text(f"VALUE = {10 * value}\n")
        (folder / "mine.py").write_text(
            "import helper\nfrom package import inner\n"
            "def reward(response, example):\n    return helper.VALUE + inner.VALUE\n"
        )
    with WorkerPool(1) as pool:
        for name, value in (("one", 11.0), ("two", 22.0), ("one", 11.0)):
            assert pool.reward(f"{tmp_path / name / 'mine.py'}:reward")(completions=["a"]) == [value]


def test_modules_are_looked_up_where_the_caller_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "on_the_path.py").write_text(
        "import os\ndef reward(response, example):\n"
        "    return float(os.environ.get('PYTHONPATH') == example['answer'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    with WorkerPool(1) as pool:
        assert pool.reward("on_the_path:reward")(completions=["a"], answer=["/somewhere"]) == [1.0]


def test_options_forms_prefills_and_columns_reach_the_worker(tmp_path: Path) -> None:
    from rewards import SPECS

    source = tmp_path / "mine.py"
    source.write_text(
        "def mine(response, example, factor=1):\n"
        "    return factor * int(response.answer) + example['more']\n"
        "def theirs(completions, more, prefill, **columns):\n"
        "    return [len(c) + len(p) + m for c, p, m in zip(completions, prefill, more)]\n"
    )
    with WorkerPool(2) as pool:
        mine = pool.reward(f"{source}:mine", {"factor": 10}, SPECS["think_boxed"])
        texts = [f"r</think>so \\boxed{{{number}}}" for number in range(20)]
        columns: dict[str, Any] = {"more": [0.5] * 20, "trainer_state": object()}
        values = mine(completions=texts, prefill=["<think>"] * 20, **columns)
        assert values == [10 * number + 0.5 for number in range(20)]
        theirs = pool.reward(f"{source}:theirs")
        assert theirs(completions=["ab", "c"], prefill=["", "xyz"], more=[1, 2]) == [3.0, 6.0]
        assert theirs(completions=[], prefill=[], more=[]) == []


def test_a_reward_finds_its_own_environment_and_folder_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "setter.py").write_text(
        "import os\n"
        "os.environ['OF_SETTER'] = 'kept'\n"
        "def first(response, example):\n"
        "    right = os.environ.get('OF_SETTER') == 'kept' and 'HOME' in os.environ\n"
        "    right = right and 'OF_CALL' not in os.environ\n"
        f"    right = right and os.getcwd() != {str(tmp_path / 'elsewhere')!r}\n"
        f"    os.chdir({str(tmp_path / 'elsewhere')!r})\n"
        "    os.environ.update(OF_SETTER='changed', OF_CALL='leaks')\n"
        "    del os.environ['HOME']\n"
        "    return float(right)\n"
        "def second(response, example):\n"
        "    return first(response, example)\n"
    )
    (tmp_path / "other.py").write_text(
        "import os\n"
        "def reward(response, example):\n"
        "    own = not {'OF_SETTER', 'OF_CALL'} & set(os.environ) and 'HOME' in os.environ\n"
        f"    return float(own and os.getcwd() != {str(tmp_path / 'elsewhere')!r})\n"
    )
    with WorkerPool(1) as pool:
        first, second = (pool.reward(f"{tmp_path / 'setter.py'}:{name}") for name in ("first", "second"))
        other = pool.reward(f"{tmp_path / 'other.py'}:reward")
        for reward in (first, other, second, first, other, second):
            assert reward(completions=["a"]) == [1.0], reward


def test_what_the_caller_does_wrong_is_said_at_once(pool: WorkerPool, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("def needs(completions, solution, **columns):\n    return [0.0] * len(completions)\n")
    reward = pool.reward(f"{source}:needs")
    with pytest.raises(ValueError, match=r"'needs' needs the column 'solution': did you mean 'solutions'"):
        reward(completions=["a"], solutions=["1"])
    with pytest.raises(ValueError, match=r"column 'solution' has 1 values for 2 completions"):
        reward(completions=["a", "b"], solution=["1"])
    with pytest.raises(ValueError, match=r"'needs' runs in a worker process.*the columns hold plain data"):
        reward(completions=["a"], solution=[lambda: None])
    assert reward(completions=["a"], solution=["1"]) == [0.0]
    with pytest.raises(ValueError, match="workers is 0: give 1 or more"):
        WorkerPool(0)


def test_a_function_that_logs_to_its_trainer_runs_in_a_worker(pool: WorkerPool, tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "def logs(completions, trainer_state, log_extra, log_metric):\n"
        "    log_extra('a', completions), log_metric('b', 1.0)\n"
        "    return [float(trainer_state is None)] * len(completions)\n"
    )
    reward = pool.reward(f"{source}:logs")
    assert reward(completions=["a", "b"]) == [1.0, 1.0]
    assert reward(completions=["a"], log_extra=print, trainer_state=object()) == [1.0]


def test_what_cannot_be_loaded_is_said_as_load_reward_says_it(pool: WorkerPool, tmp_path: Path) -> None:
    for name, message in [
        ("acuracy", r"^there is no reward 'acuracy': did you mean 'accuracy'"),
        (f"{BOMBS}:sleps", r"has no reward function 'sleps': did you mean 'sleeps'"),
        (f"{tmp_path / 'none.py'}:f", r"^there is no reward file"),
        ("no_such_module:f", r"^there is no reward module 'no_such_module'"),
    ]:
        with pytest.raises(ValueError, match=message):
            pool.reward(name)
    with pytest.raises(ValueError, match=r"takes no option 'factor'"):
        pool.reward(f"{BOMBS}:fine", {"factor": 1})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_library", r"ModuleNotFoundError: No module named 'no_such_library'"),
        ("import sys; sys.exit(1)", r"SystemExit: 1"),
        ("import os; os.kill(os.getpid(), 9)", r"was killed by SIGKILL while it loaded the reward"),
        ("import time; time.sleep(300)", r"not loaded within 0.5 s"),
        ("x = 1\ndef f(:", r"^SyntaxError: [^\n]* \(mine\.py, line 2\)\n"),
    ],
)
def test_code_that_fails_when_it_is_loaded_harms_nobody(
    pool: WorkerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    if "sleep" in code:
        monkeypatch.setattr("rewards.pool.LOAD_SECONDS", 0.5)
    (tmp_path / "mine.py").write_text(code + "\n")
    with pytest.raises(ValueError, match=message):
        pool.reward(f"{tmp_path / 'mine.py'}:f")
    monkeypatch.undo()
    assert scores(bomb(pool, "fine"), TEXTS, tmp_path / "pids", 20.0) == [ONE] * 3


def test_a_batch_function_is_not_called_when_it_is_loaded_and_its_first_call_has_a_limit(
    pool: WorkerPool, tmp_path: Path
) -> None:
    source = tmp_path / "mine.py"
    source.write_text("import time\ndef hangs(completions, **columns):\n    time.sleep(300)\n")
    began = time.monotonic()
    reward = pool.reward(f"{source}:hangs")
    assert isinstance(reward, PooledReward)
    assert scores(reward, ["a", "b"], tmp_path / "pids") == [timed_out(2 * BUDGET)] * 2
    assert time.monotonic() - began < 2 * BUDGET + SLACK
    assert reward(completions=[]) == []


def test_a_script_that_starts_workers_when_it_is_loaded_does_not_multiply(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from rewards import WorkerPool\n"
        "def f(response, example):\n    return 1.0\n"
        "print(WorkerPool(1).reward('script.py:f')(completions=['a']))\n"
    )
    run = [sys.executable, "script.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "put what starts them under `if __name__ == '__main__':`" in done.stderr
    script.write_text(script.read_text().replace("print", "if __name__ == '__main__':\n    print"))
    done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout == "[1.0]\n"


def test_a_reward_that_breaks_between_two_calls_fails_for_all(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text("def f(response, example):\n    return 1.0\n")
    with WorkerPool(2) as pool:
        reward = pool.reward(f"{source}:f")
        pool.close()
        source.write_text("raise RuntimeError('gone')\n")
        assert isinstance(reward, PooledReward)
        found = reward.scores(completions=["a"] * 9)
    assert [score.reason for score in found] == ["RuntimeError: gone (mine.py, line 1)"] * 9


def test_a_worker_that_dies_while_it_has_nothing_to_do_is_replaced(tmp_path: Path) -> None:
    source = tmp_path / "mine.py"
    source.write_text(
        "import os, threading, time\n"
        "def f(response, example):\n"
        "    threading.Timer(0.05, os._exit, [1]).start()\n"
        "    return 1.0\n"
    )
    with WorkerPool(1) as pool:
        reward = pool.reward(f"{source}:f")
        for _ in range(2):
            assert reward(completions=["a"]) == [1.0]
            time.sleep(0.3)


# ---------------------------------------------------------------------- registered rewards


def test_registered_rewards_begin_in_the_callers_process(pool: WorkerPool) -> None:
    with WorkerPool(2) as idle:
        reward = idle.reward("accuracy")
        assert reward(completions=["<think>r</think><answer>1/2</answer>"], answer=["0.5"]) == [1.0]
        assert idle._team == []
        assert not isinstance(idle.reward("accuracy"), PooledReward) or not idle.reward("accuracy").isolated
        with pytest.raises(ValueError, match="needs the column 'answer'"):
            reward(completions=["a"], answers=["0.5"])
        with pytest.raises(ValueError, match="takes no option"):
            idle.reward("random", {"sead": 1})


def test_the_workers_take_over_what_takes_the_caller_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"<think>r</think><answer>{number % 7}</answer>" for number in range(200)]
    with WorkerPool(2) as pool:
        reward = pool.reward("accuracy")
        here = reward.scores(completions=texts, answer=["3"] * 200)
        assert pool._team == []
        monkeypatch.setattr("rewards.pooled._WORTH_SHARING", 0.0)
        assert reward.scores(completions=texts, answer=["3"] * 200) == here
        assert len(pool._team) == 2


def test_verifiers_of_somebody_else_are_isolated(pool: WorkerPool) -> None:
    reward = pool.reward("reasoning_gym")
    assert isinstance(reward, PooledReward)
    assert reward.isolated
    entry = {"question": "1 + 1", "answer": "2", "metadata": {}}
    column = {"dataset": "chain_sum", "entry": entry}
    texts = ["<think>r</think><answer>2</answer>", "<think>r</think><answer>3</answer>"]
    first, second = reward.scores(completions=texts, reasoning_gym=[column] * 2)
    assert first.value == 1.0
    assert second.value is not None
    assert second.value < 1.0
    broken = reward.scores(completions=texts, reasoning_gym=[column, None])
    assert [score.failed for score in broken] == [False, True]


def test_a_model_stays_with_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.pool.CALLER_ONLY", frozenset({"random"}))
    with WorkerPool(1) as pool:
        assert not isinstance(pool.reward("random", {"seed": 3}), PooledReward)


NINES = "9" * 20_000
POWERS = [
    "9^9^9^9^9",
    "9**9**9**9",
    "9^{9^{9^{9^{9}}}}",
    r"\left(9^{9}\right)^{9^{9^{9}}}",
    r"10^{10^{10^{10}}}",
    r"\frac{1}{9^{9^{9^{9}}}}",
    r"2^{2^{2^{2^{2^{2}}}}}!",
    "99999999999!",
    NINES,
    f"-{NINES}.{NINES}",
    "(" * 3000 + "1" + ")" * 3000,
    "{" * 3000 + "1" + "}" * 3000,
    r"\frac{" * 3000 + "1" + "}{1}" * 3000,
    r"\sqrt{" * 3000 + "2" + "}" * 3000,
]


@pytest.mark.parametrize("answer_type", ["math", "number"])
@pytest.mark.parametrize("threaded", [False, True], ids=["main", "thread"])
def test_bombs_in_an_answer_are_refused_at_once(pool: WorkerPool, answer_type: str, threaded: bool) -> None:
    reward = pool.reward("accuracy")
    answers = [f"<think>r</think><answer>{power}</answer>" for power in POWERS]
    right = "<think>r</think><answer>42</answer>"
    call = in_thread if threaded else lambda work: work()
    began = time.monotonic()
    for golds, texts in (
        (["42"] * len(POWERS), answers),
        (POWERS, [right] * len(POWERS)),
        (POWERS[::-1], answers),
    ):
        found = call(
            lambda texts=texts, golds=golds: reward.scores(
                completions=texts, answer=golds, answer_type=[answer_type] * len(POWERS)
            )
        )
        assert all(score.value in (0.0, None) and not score.failed for score in found)
    assert time.monotonic() - began < 3
    assert call(lambda: reward(completions=[right], answer=["42"])) == [1.0]
