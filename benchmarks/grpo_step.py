"""One step of GRPO, ours against TRL's GRPOTrainer: sample, score, update, hand over the weights.

    python benchmarks/grpo_step.py --json step.json
    python benchmarks/grpo_step.py --trl-batch 16x4 32x2 64x1       tries each, then races the quickest
    python benchmarks/grpo_step.py --device cuda --random-config qwen2-0.5b --prompts 64 --new-tokens 256 \\
        --trl-batch 64x8 128x4

Both sides train all weights of the same model in float32 with AdamW and compute in --dtype. They get the same
prompts and draw the same number of completions of exactly --new-tokens tokens at temperature 1. A reward by
hash makes every group informative. Every step is one optimizer step.

Ours is what train.py runs, from the config to the loop: only the screen is another one, which waits for its
turn between two steps. Its time runs from one call of that screen to the next, so it includes what the step
writes to disk. TRL's runs from `on_step_begin` to `on_step_end`; it logs and saves nothing. `--trl` and
`--ours` take any further setting of the GRPOConfig and of our config.
"""

import argparse
import importlib
import json
import math
import sys
from pathlib import Path
from statistics import median
from typing import Any

from hardware import Memory, step_flops, synchronized
from harness import (
    Bench,
    Side,
    SideFailed,
    Turns,
    by_turns,
    compared,
    key_value,
    parse,
    parser,
    run_bench,
    run_side,
    show_failures,
    show_ratio,
    table,
)

_FOR_EVER = 1_000_000  # steps; the parent ends the process


# ---------------------------------------------------------------------- ours


def config_of(settings: dict[str, Any]) -> dict[str, Any]:
    """The workload as a config of ours, in plain values; all that is not named has its default."""
    folder = Path(settings["folder"])
    grpo = {
        "steps": _FOR_EVER,
        "prompts_per_step": settings["prompts"],
        "group_size": settings["group_size"],
        "kl": {"reference": "none"},  # as on TRL's side
    }
    return {
        "name": "step",
        "output_dir": str(Path(settings["own_folder"]) / "runs"),
        "threads": settings["threads"],
        "stage": "grpo",
        "model": {"path": str(folder / "model"), "precision": settings["dtype"]},
        "task": {
            "source": "file",
            "name": str(folder / "train.jsonl"),
            "eval_name": str(folder / "held_out.jsonl"),
            "train_size": settings["prompts"],
        },
        "prompt": {"system": None, "max_tokens": 2 * settings["prompt_tokens"] + 8},
        "rewards": {settings["reward"]: 1.0},
        "rollout": {"max_new_tokens": settings["new_tokens"], "precision": settings["dtype"]},
        "grpo": grpo,
        "eval": {"questions": 1},
        "log": {"sample_every": 0, "checkpoint_every": 0},
    }


def load_config(settings: dict[str, Any]) -> Any:
    """The same as a checked RunConfig, with the overrides of --ours."""
    from rlreason.config import load

    path = Path(settings["own_folder"]) / "config.yaml"
    path.write_text(json.dumps(config_of(settings)))  # JSON is YAML
    return load(path, settings["ours"])


def ours(settings: dict[str, Any], turns: Turns) -> None:
    from rlreason.report.terminal import View

    config = load_config(settings)
    run = importlib.import_module("rlreason.stages.run")  # the package's attribute of this name is a function

    class Screen(View):
        """What train.py shows, and between two steps a wait for this side's turn."""

        count, started, memory = 0, 0.0, Memory(settings["device"])

        def step(self, metrics: Any) -> None:
            now = synchronized(settings["device"])
            super().step(metrics)
            self.count += 1
            if self.count == settings["warmup"]:
                turns.say(updates=1)
            elif self.count > settings["warmup"]:
                parts = {name: metrics["time"][name] for name in ("sample", "score", "advantage", "update")}
                turns.say(
                    seconds=now - self.started,
                    parts=parts,
                    tokens=metrics["tokens"],
                    informative=metrics["informative"],
                    memory=self.memory.read(),
                )
            if self.count >= settings["warmup"]:
                if turns.wait() is None:
                    sys.exit()
                self.memory.reset()
                self.started = synchronized(settings["device"])

    run.View = Screen
    run.run(config)


# ---------------------------------------------------------------------- TRL


def trl_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Arguments of GRPOConfig: the workload, the quicker of its switches, and what --trl says."""
    device_batch, accumulation = settings["trl_batch"]
    on_cpu = settings["device"] == "cpu"
    return {
        "output_dir": str(Path(settings["own_folder"]) / "trl"),
        "use_cpu": on_cpu,
        "bf16": settings["dtype"] == "bfloat16",
        "model_init_kwargs": {"dtype": "float32"},
        "per_device_train_batch_size": device_batch,
        "gradient_accumulation_steps": accumulation,
        "num_generations": settings["group_size"],
        "max_completion_length": settings["new_tokens"],
        "temperature": 1.0,
        "learning_rate": 1e-5,
        "lr_scheduler_type": "constant",
        "beta": 0.0,  # no reference model
        "gradient_checkpointing": False,  # on by default, which is slower
        "dataloader_pin_memory": not on_cpu,
        "max_steps": _FOR_EVER,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        **dict(settings["trl"]),
    }


def trl(settings: dict[str, Any], turns: Turns) -> None:
    import torch
    from datasets import load_dataset
    from harness import spread
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    lengths: list[int] = []

    def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return spread(completion_ids)

    class Waits(TrainerCallback):
        started, memory = 0.0, Memory(settings["device"])

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == settings["warmup"]:
                turns.say(updates=1)
            if state.global_step >= settings["warmup"]:
                if turns.wait() is None:
                    sys.exit()
                self.memory.reset()
            lengths.clear()
            self.started = synchronized(settings["device"])

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds = synchronized(settings["device"]) - self.started
            if state.global_step > settings["warmup"]:
                turns.say(seconds=seconds, tokens=sum(lengths), memory=self.memory.read())

    folder = Path(settings["folder"])
    data = load_dataset("json", data_files=str(folder / "train.jsonl"), cache_dir=settings["own_folder"])
    trainer = GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=reward,
        args=GRPOConfig(**trl_options(settings)),
        train_dataset=data["train"].select(range(settings["prompts"])),
        callbacks=[Waits()],
    )
    trainer.train()


# ---------------------------------------------------------------------- both, by turns


def batch(text: str) -> tuple[int, int]:
    """`16x4`: completions in a forward pass, and passes in an optimizer step."""
    try:
        size, passes = map(int, text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 16x4") from None
    return size, passes


def add_trl_options(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--trl-batch", type=batch, nargs="+", metavar="SIZExPASSES",
        help="completions in a forward pass of TRL, and passes in a step; of several the quickest is raced "
        "(default: passes of 16)",
    )  # fmt: skip
    made.add_argument(
        "--trl", type=key_value, metavar="KEY=VALUE", nargs="+", default=[],
        help="further arguments of TRL's GRPOConfig, such as gradient_checkpointing=true",
    )  # fmt: skip


def check_trl_options(made: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse a batch of TRL's that is not the step's; fill in the default."""
    completions = options.prompts * options.group_size
    if options.group_size < 2:
        made.error(f"--group-size {options.group_size}: a group of one has no advantage; give 2 or more")
    if options.trl_batch is None:
        size = min(16, completions)
        if completions % size:
            made.error(f"--trl-batch: {completions} completions are no whole passes of 16; give SIZExPASSES")
        options.trl_batch = [(size, completions // size)]
    for size, passes in options.trl_batch:
        if size * passes != completions:
            made.error(
                f"--trl-batch {size}x{passes}: a step has {options.prompts} x {options.group_size} = "
                f"{completions} completions; give numbers whose product is that"
            )


def start_trl(bench: Bench, size: tuple[int, int]) -> Side:
    return bench.start("TRL", trl_batch=size)


def quickest(bench: Bench) -> tuple[tuple[int, int], dict[str, float | None]]:
    """The batch of TRL's to race, and the seconds of each tried; None where it failed.

    Of several, each has one step in a process of its own.
    """
    batches = bench.options.trl_batch
    if len(batches) == 1:
        return batches[0], {}
    seconds: dict[tuple[int, int], float] = {}
    for size in batches:
        try:
            side = start_trl(bench, size)
            seconds[size] = side.turn()["seconds"]
            bench.stop(side)
        except SideFailed as error:
            seconds[size] = math.inf
            print(error)
        print(f"TRL, trial of {written(size)}: {seconds[size]:.3g} s", flush=True)
    found = {written(size): time if math.isfinite(time) else None for size, time in seconds.items()}
    return min(seconds, key=seconds.__getitem__), found


def written(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def check_results(bench: Bench, name: str, results: list[dict[str, Any]]) -> None:
    """Both sides did the whole workload, or the ratio means nothing."""
    options = bench.options
    wanted = options.prompts * options.group_size * bench.settings["new_tokens"]
    for result in results:
        if result["tokens"] != wanted or result.get("informative", 1.0) != 1.0:
            raise SideFailed(
                f"{name} sampled {result['tokens']} tokens of {wanted}, with a share of informative groups "
                f"of {result.get('informative', 1.0)}: the sides did not do the same work"
            )


def race(bench: Bench) -> dict[str, Any]:
    size, trials = quickest(bench)
    sides = {"ours": bench.start("ours"), "TRL": start_trl(bench, size)}
    results, failed = by_turns({name: side.turn for name, side in sides.items()}, bench.options.rounds)
    for name, found in results.items():
        check_results(bench, name, found)
    seconds = {name: [result["seconds"] for result in found] for name, found in results.items()}
    flops = step_flops(
        bench.facts["model"],
        prompts=bench.options.prompts,
        prompt_tokens=sum(bench.facts["prompt_tokens"]) / len(bench.facts["prompt_tokens"]),
        sequences=bench.options.prompts * bench.options.group_size,
        new_tokens=bench.options.new_tokens,
    )
    return {
        "trl_batch": written(size),
        "trials": trials,
        "limit_seconds": flops / bench.facts["roofline"][bench.options.dtype],
        "compared": compared(seconds["ours"], seconds["TRL"]) if len(seconds) == 2 else None,
        "rounds": results,
        "failed": failed,
    }


def show(bench: Bench, found: dict[str, Any]) -> None:
    options, limit = bench.options, found["limit_seconds"]
    print(
        f"\n{options.prompts} prompts, {options.group_size} completions each of exactly {options.new_tokens} "
        f"tokens; TRL in passes of {found['trl_batch']}. Arithmetic without waste at the peak of a matrix "
        f"product: {limit:.3g} s.\n"
    )
    rows = []
    for name, results in found["rounds"].items():
        middle = median(result["seconds"] for result in results)
        every = " ".join(f"{result['seconds']:.3g}" for result in results)
        rows.append([name, f"{middle:.3f}", f"{limit / middle:.0%}", every])
    print(table(["a step", "seconds, median", "of the peak", "rounds"], rows))
    show_ratio(found)
    parts = [result["parts"] for result in found["rounds"].get("ours", [])]
    for name in parts[0] if parts else ():
        print(f"  ours, {name}: {median(part[name] for part in parts):.3f} s")
    show_failures(found)


def main() -> None:
    if run_side({"ours": ours, "TRL": trl}):
        return
    made = parser(__doc__, new_tokens=56)
    add_trl_options(made)
    options = parse(made)
    check_trl_options(made, options)
    run_bench(options, __file__, race, show)


if __name__ == "__main__":
    main()
