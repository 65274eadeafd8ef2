"""The short form of benchmarks/faults.py: kills at random moments, and a run as if there had been none."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_run_that_is_killed_ends_as_one_that_is_not() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/faults.py", "--kills", "3", "--seed", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"3 kills \(.*: (\d+) of \1 runs equal the one left alone", done.stdout), done.stdout
