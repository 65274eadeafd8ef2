"""Peak memory of one step of GRPO, ours and TRL's, at short and at long completions.

    python benchmarks/memory.py --json memory.json
    python benchmarks/memory.py --lengths 1024 --trl-batch 8x8 --trl gradient_checkpointing=true

Every figure comes from a fresh process, which takes --warmup steps and then the one that counts, with the
moments of AdamW in place. "step" is the peak of resident memory in that step (where the system can tell), and
"process" the peak since the process began, so with loading. The processes that score for ours are added, each
with its own peak. On CUDA both are of the memory that torch has given out there. The workload is that of
grpo_step.py, as are --trl and --ours.

A peak hardly varies and a step of long completions is slow, so by default each is measured once.
"""

import sys
from statistics import median
from typing import Any

from grpo_step import add_trl_options, check_results, check_trl_options, ours, start_trl, trl
from harness import (
    Bench,
    SideFailed,
    at_least_one,
    by_turns,
    compared,
    heading,
    parse,
    parser,
    run_side,
    table,
)


def fresh_step(bench: Bench, name: str) -> dict[str, Any]:
    """Memory of a step of one side, from start to end of a process."""
    side = start_trl(bench, bench.options.trl_batch[0]) if name == "TRL" else bench.start(name)
    try:
        result = side.turn()
    finally:
        bench.stop(side)
    check_results(bench, name, [result])
    return result


def peaks(results: list[dict[str, Any]], kind: str, device: str) -> list[int]:
    """Bytes of `kind`, step or process; the process where the system does not tell the step's."""
    memory = [result["memory"] for result in results]
    if device == "cuda":
        return [found[f"cuda_{kind}"] for found in memory]
    return [found["process"] if found[kind] is None else found[kind] for found in memory]


def measure(bench: Bench, length: int) -> dict[str, Any]:
    """Peaks of both sides with completions of `length` tokens."""
    bench.settings["new_tokens"] = length
    sides = {name: lambda name=name: fresh_step(bench, name) for name in ("ours", "TRL")}
    results, failed = by_turns(sides, bench.options.rounds)
    found: dict[str, Any] = {"length": length, "rounds": results, "failed": failed}
    for kind in ("step", "process"):
        of = {name: peaks(rounds, kind, bench.options.device) for name, rounds in results.items()}
        found[kind] = compared(of["ours"], of["TRL"]) if len(of) == 2 else None
    return found


def row(found: dict[str, Any], device: str) -> list[str]:
    """A line of the table: peaks in GB, ours as a share of TRL's, every round."""
    cells = [str(found["length"])]
    for kind in ("step", "process"):
        of = {name: median(peaks(rounds, kind, device)) / 1e9 for name, rounds in found["rounds"].items()}
        cells += [f"{of[name]:.2f}" if name in of else "failed" for name in ("ours", "TRL")]
        cells.append(f"{of['ours'] / of['TRL']:.2f}" if len(of) == 2 else "-")
    every = [
        f"{name} " + " ".join(f"{peak / 1e9:.2f}" for peak in peaks(rounds, "step", device))
        for name, rounds in found["rounds"].items()
    ]
    return [*cells, ", ".join(every)]


def main() -> None:
    if run_side({"ours": ours, "TRL": trl}):
        return
    made = parser(__doc__, rounds=1)
    made.add_argument(
        "--lengths", type=at_least_one, nargs="+", default=[56, 1024], help="tokens of a completion (56 1024)"
    )
    add_trl_options(made)
    options = parse(made)
    check_trl_options(made, options)
    if len(options.trl_batch) > 1:
        made.error("--trl-batch: memory is measured of one; give the one that grpo_step.py found quickest")
    found = []
    try:
        with Bench(options, __file__, new_tokens=max(options.lengths)) as bench:
            print(heading(bench), flush=True)
            for length in options.lengths:
                found.append(measure(bench, length))
                print(f"{length} tokens: done", flush=True)
            bench.report(lengths=found)
    except SideFailed as error:
        sys.exit(str(error))
    headers = ["tokens", "step, ours", "TRL", "RATIO", "process, ours", "TRL", "RATIO", "rounds (step)"]
    size, passes = options.trl_batch[0]
    print(
        f"\nPeaks in GB; {options.prompts} prompts, {options.group_size} completions each; TRL in {passes} "
        f"passes of {size}. RATIO is ours / TRL.\n"
    )
    print(table(headers, [row(one, options.device) for one in found]))
    for one in found:
        for name, why in one["failed"].items():
            print(f"\n{name} failed at {one['length']} tokens: {why}")
    if any(one["failed"] for one in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
