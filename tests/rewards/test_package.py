"""The package stands alone: light to import, and without the rest of the project."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHECK = """
import sys, time
start = time.perf_counter()
import rewards
seconds = time.perf_counter() - start
heavy = {"torch", "transformers", "sympy", "math_verify", "reasoning_gym", "rlreason"} & set(sys.modules)
assert not heavy, heavy
assert seconds < 0.5, seconds
half = "<think>r</think><answer>1/2</answer>"
assert rewards.REWARDS["accuracy"](completions=[half], answer=["0.5"]) == [1.0]
assert "sympy" not in sys.modules
"""


def test_it_imports_in_half_a_second_without_torch() -> None:
    subprocess.run([sys.executable, "-c", CHECK], cwd=ROOT, check=True, timeout=60)


def test_it_imports_nothing_of_rlreason() -> None:
    for path in (ROOT / "rewards").glob("*.py"):
        assert "rlreason" not in path.read_text().replace("neither torch nor rlreason", ""), path


def test_the_registry() -> None:
    from rewards import REWARDS

    assert set(REWARDS) == {
        *("accuracy", "countdown", "code", "reasoning_gym", "learned", "random"),
        *("think_format", "think_format_graded", "language"),
        *("length_cosine", "length_overlong", "repetition"),
    }
    assert all(reward.__name__ == name for name, reward in REWARDS.items())
