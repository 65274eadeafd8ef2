"""Provoke over-optimisation: a reward model that likes long completions, and PPO against it alone.

    python train.py configs/tiny_rlhf.yaml
    python benchmarks/overoptimization.py runs/tiny_rlhf

Takes the pairs that the run's reward model was trained on and turns each so that its longer side is the
chosen one, right or wrong. A reward model of these pairs is learned from the run's cold start, and 40 PPO
steps follow in which accuracy is recorded but earns nothing. The new run lies beside the old one, -long
behind its name. Prints the steps with an alarm and held-out accuracy; exit code 1 where that fell without an
alarm.
"""

import json
import subprocess
import sys
from pathlib import Path

STEPS = 40


def main(run: str) -> int:
    source = Path(run)
    target = source.with_name(f"{source.name}-long")
    pairs = target.with_name(f"{target.name}-pairs.jsonl")
    rows = [json.loads(line) for line in (source / "checkpoints/pairs/pairs.jsonl").open()]
    with pairs.open("x") as file:
        for row in rows:
            shorter, longer = sorted((row["chosen"], row["rejected"]), key=lambda text: len(text.split()))
            if len(shorter.split()) < len(longer.split()):
                row = {"prompt": row["prompt"], "chosen": longer, "rejected": shorter}
                file.write(json.dumps(row) + "\n")
    overrides = [
        f"name={target.name}",
        f"output_dir={target.parent}",
        "stage=[reward_model,ppo]",
        "model.scratch=null",
        f"model.path={source / 'checkpoints/sft'}",
        "rewards={accuracy: {weight: 0}, learned: 1}",
        f"reward_model.pairs={pairs}",
        f"ppo.steps={STEPS}",
    ]
    subprocess.run([sys.executable, "train.py", source / "config.yaml", *overrides], check=True)
    lines = [json.loads(line) for line in (target / "metrics.jsonl").open()]
    alarms = [line["step"] for line in lines if "learned_apart" in line.get("findings", ())]
    evaluation = json.loads((target / "eval.json").read_text())
    before, after = (evaluation[key]["accuracy"] for key in ("before", "after"))
    print(f"held-out accuracy {before:.1%} -> {after:.1%}; steps with an alarm: {alarms or 'none'}")
    return int(after < before and not alarms)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python benchmarks/overoptimization.py RUN")
    sys.exit(main(sys.argv[1]))
