"""The preflight's memory estimate beside what a run then takes.

    python benchmarks/memory_estimate.py configs/quickstart.yaml stage=grpo grpo.steps=2

Trains as the config and its overrides say, in a folder of its own, and prints the peak of resident memory:
each process of the run with its own high-water mark, so that the sum is no less than what was ever in use.
The estimate is what the run itself says in its plan.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hardware import peak_rss

ROOT = Path(__file__).parents[1]


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    import psutil

    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.Error:
        return [pid]


def measured(arguments: list[str], *, every: float = 0.1) -> tuple[str, int, float]:
    """Run train.py; return what it printed, its peak in bytes and the seconds it took."""
    with tempfile.TemporaryFile("w+") as out:
        started = time.perf_counter()
        command = [sys.executable, "train.py", *arguments]
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, text=True)
        peaks: dict[int, int] = {}
        while process.poll() is None:
            for pid in tree(process.pid):
                peaks[pid] = max(peaks.get(pid, 0), peak_rss(pid))
            time.sleep(every)
        out.seek(0)
        text = out.read()
    if process.returncode != 0:
        sys.exit(f"{text}\n{' '.join(command)} ended with {process.returncode}")
    return text, sum(peaks.values()), time.perf_counter() - started


def estimated(text: str) -> float | None:
    """The GB of the run's own estimate."""
    found = re.findall(r"^ *memory +about ([\d.]+) GB", text, re.MULTILINE)
    return float(found[-1]) if found else None


def main() -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("arguments", nargs="+", metavar="CONFIG key=value", help="as for train.py")
    options = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        text, peak, seconds = measured([*options.arguments, f"output_dir={folder}"])
    said = estimated(text)
    print("\n".join(line for line in text.splitlines() if "memory" in line or "GB" in line))
    print(f"measured {peak / 1e9:.2f} GB in {seconds:.0f} s")
    if said is not None:
        print(f"estimated {said:.2f} GB, {100 * (said * 1e9 / peak - 1):+.0f}%")


if __name__ == "__main__":
    main()
