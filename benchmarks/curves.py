"""Draw the training curves of runs side by side.

    python benchmarks/curves.py docs/figures/quickstart.png runs/quickstart runs/quickstart-random

One panel each: accuracy, share that derives, format, length in tokens; one line a run. Dots at both ends
of the first panel are held-out accuracy before and after, with their 95% intervals.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {
    "accuracy": "accuracy (rollouts; dots: held out)",
    "derives": "share that works in steps",
    "format": "share in the asked form",
    "length": "tokens in a completion",
}


def main(target: str, *runs: str) -> None:
    if not runs:
        sys.exit("usage: python benchmarks/curves.py TARGET.png RUN [RUN ...]")
    figure, axes = plt.subplots(1, len(PANELS), figsize=(15, 3.6), layout="constrained")
    for number, run in enumerate(map(Path, runs)):
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if line["stage"] in ("grpo", "ppo")]
        for axis, (key, title) in zip(axes, PANELS.items(), strict=True):
            axis.plot([s["step"] for s in steps], [s[key] for s in steps], label=run.name, color=f"C{number}")
            axis.set(title=title, xlabel="step")
            if key != "length":
                axis.set_ylim(0, 1.02)
        result = json.loads((run / "eval.json").read_text())
        for place, key in ((0, "before"), (steps[-1]["step"] + 1, "after")):
            low, high = result[key]["ci95"]
            middle = result[key]["accuracy"]
            axes[0].errorbar(
                place, middle, yerr=[[middle - low], [high - middle]], fmt="o", capsize=3, color=f"C{number}"
            )
    axes[0].legend()
    figure.savefig(target, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
