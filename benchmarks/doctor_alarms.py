"""How often the doctor raises a false alarm: healthy runs, drawn by a seed, of different lengths and sizes.

    python benchmarks/doctor_alarms.py [RUNS]

For each length and number of questions a step: the share of RUNS runs (default 200) with any finding, with
any warning, and the findings by name. A run that has solved its questions is told so (no_signal, a note):
that is no false alarm, and is counted apart.
"""

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from healthy import healthy

from rlreason.doctor import Doctor, Facts, Finding


def findings(seed: int, steps: int, groups: int) -> list[Finding]:
    doctor = Doctor(Facts("grpo", groups, learned=True))
    for line in healthy(seed, steps=steps, groups=groups):
        doctor.step(line)
    return doctor.findings


def main(runs: int) -> None:
    print("steps  questions  any finding  any warning  solved  which")
    for steps in (10, 30, 100, 300, 1000):
        for groups in (4, 16, 64):
            found = [findings(seed, steps, groups) for seed in range(runs)]
            solved = sum(any(_solved(one) for one in each) for each in found)
            found = [[one for one in each if not _solved(one)] for each in found]
            some = sum(map(bool, found)) / runs
            bad = sum(any(one.level == "warning" for one in each) for each in found) / runs
            names = Counter(name for each in found for name in {one.rule.name for one in each})
            which = ", ".join(f"{name} {count}" for name, count in names.most_common())
            print(
                f"{steps:>5}  {groups:>9}  {some:>11.1%}  {bad:>11.1%}  {solved / runs:>6.1%}  {which}",
                flush=True,
            )


def _solved(finding: Finding) -> bool:
    return finding.rule.name == "no_signal" and finding.level == "note"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
