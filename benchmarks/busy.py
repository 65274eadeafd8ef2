"""What waiting costs when the machine is busy: threads that spin against threads that sleep.

    python benchmarks/busy.py

The products of a small language model (the layer shapes of SmolLM2-135M, float32) on all cores, for as many
rows as decoding 64 sequences has and for those of a small training pass. By turns with OpenMP's own policy
and with OMP_WAIT_POLICY=passive, which every command of rlreason sets; first alone, then beside one process
that only counts. Each turn is a process of its own, as the policy is read once. The ratio of the medians says
how many times as fast passive waiting is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

WIDTHS = ((576, 1536), (1536, 576))
ROWS = {"decode": (64, 600), "train": (800, 60)}
"""Rows of the left matrix, and how often its products are repeated."""

POLICIES = {"default": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}
_SET_OTHERWISE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "KMP_BLOCKTIME")


def work() -> None:
    """Print, as JSON, the milliseconds of one round of products for each number of rows."""
    import torch

    found = {}
    for name, (rows, repeats) in ROWS.items():
        inputs = [torch.randn(rows, width) for width, _ in WIDTHS]
        weights = [torch.randn(width, to) for width, to in WIDTHS]
        for counted in (max(1, repeats // 10), repeats):  # the first is warm-up
            start = time.perf_counter()
            for _ in range(counted):
                for left, right in zip(inputs, weights, strict=True):
                    (left @ right).relu_()
            found[name] = (time.perf_counter() - start) / counted * 1e3
    print(json.dumps(found))


def turn(policy: dict[str, str]) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if k not in _SET_OTHERWISE} | policy
    said = subprocess.run(
        [sys.executable, __file__, "--work"], env=environment, check=True, capture_output=True, text=True
    )
    return json.loads(said.stdout)


def measure(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds by policy and kind of work, one a round; the order of the policies turns every round."""
    found: dict[str, dict[str, list[float]]] = {p: {name: [] for name in ROWS} for p in POLICIES}
    for number in range(rounds):
        for policy in sorted(POLICIES, reverse=bool(number % 2)):
            for name, took in turn(POLICIES[policy]).items():
                found[policy][name].append(took)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each policy (5)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write all that was measured to this file")
    given = parser.parse_args()
    if given.work:
        work()
        return
    every = {"alone": measure(given.rounds)}
    neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        every["beside a busy process"] = measure(given.rounds)
    finally:
        neighbour.kill()
        neighbour.wait()
    print(f"{'':<24}{'rows':>6}{'default':>12}{'passive':>12}{'ratio':>8}    milliseconds, medians")
    for where, found in every.items():
        for name, (rows, _) in ROWS.items():
            spun, slept = (statistics.median(found[policy][name]) for policy in POLICIES)
            print(f"{where:<24}{rows:>6}{spun:>12.2f}{slept:>12.2f}{spun / slept:>8.2f}")
    if given.json:
        given.json.write_text(json.dumps(every, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
