"""Time the parser on texts of growing length, ordinary ones and such as are made to slow a parser down.

    python benchmarks/parser_linear.py

Prints one table for each form of a completion: milliseconds of processor time (the least of five) a parse.
Time is linear where the last column, the growth of time from 128 KB to 1 MB, stays about 8.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rewards import SPECS, TagSpec, parse

SIZES = (1, 8, 32, 128, 512, 1024)  # KB
CLOSED = "<think>so</think>"
TRIES = 5

# What stands in front, and what is repeated behind it until the text is long enough.
HARD = {
    "many <think>": ("", "<think>"),
    "many </think>": ("", "</think>"),
    "many <think></think>": ("", "<think></think>"),
    "many <answer>": (CLOSED, "<answer>"),
    "many \\boxed{": (CLOSED, "\\boxed{"),
    "many { in a box": (f"{CLOSED}\\boxed{{", "{"),
    "many \\ in a box": (f"{CLOSED}\\boxed{{", "\\"),
    "many lines ####": (CLOSED, "\n#### "),
    "many #": (CLOSED, "#"),
    "many <": ("", "<"),
    "many spaces": (CLOSED, " "),
    "many empty lines": (CLOSED, "\n"),
    "many zero-width characters": (CLOSED, "\u200b"),
}


def completion(spec: TagSpec, size: int) -> str:
    """A well-formed completion of about `size` characters, nearly all of it reasoning."""
    return spec.render("2 + 2 = 4, so the sum is 4.\n" * (size // 28), "4")


def repeated(lead: str, unit: str, size: int) -> str:
    return lead + unit * ((size - len(lead)) // len(unit))


def milliseconds(text: str, spec: TagSpec) -> float:
    calls = max(1, 20_000 // len(text))  # a clock tick must not show on short texts
    best = float("inf")
    for _ in range(TRIES):
        start = time.process_time()
        for _ in range(calls):
            parse(text, spec=spec)
        best = min(best, (time.process_time() - start) / calls)
    return best * 1e3


def row(label: str, texts: list[str], spec: TagSpec) -> str:
    times = [milliseconds(text, spec) for text in texts]
    growth = times[-1] / times[SIZES.index(128)]
    return f"| {label} | " + " | ".join(f"{t:.3g}" for t in times) + f" | {growth:.1f} |"


def main() -> None:
    sizes = [size * 1024 for size in SIZES]
    for name, spec in SPECS.items():
        print(f"\n| {name}, ms | " + " | ".join(f"{size} KB" for size in SIZES) + " | growth |")
        print("| --- |" + " --- |" * (len(SIZES) + 1))
        print(row("a completion", [completion(spec, size) for size in sizes], spec))
        for label, (lead, unit) in HARD.items():
            print(row(label, [repeated(lead, unit, size) for size in sizes], spec))


if __name__ == "__main__":
    main()
