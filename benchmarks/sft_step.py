"""One optimizer step of the cold start, ours against TRL's SFTTrainer: forward, backward, clip, step.

    python benchmarks/sft_step.py --json sft.json
    python benchmarks/sft_step.py --prompts 16 --new-tokens 200

A batch is --prompts solved questions of about --prompt-tokens tokens behind the system prompt that asks for
the form; what carries loss has about --new-tokens tokens. Both sides get the same token ids, train all
weights in float32 with AdamW and compute in --dtype; neither recomputes activations, logs or saves.

Ours is stage `sft` of train.py. Both run on transformers' Trainer, and a step is what lies between its
`on_step_begin` and `on_step_end`. A side whose loss is another one did other work, and is not compared.
"""

import json
import random
import sys
from pathlib import Path
from statistics import median
from typing import Any

from grpo_step import config_of
from hardware import Memory, synchronized
from harness import (
    Bench,
    Side,
    SideFailed,
    Turns,
    by_turns,
    compared,
    parse,
    parser,
    run_bench,
    run_side,
    show_failures,
    show_ratio,
    table,
)

_FOR_EVER = 1_000_000  # passes over the batch; the parent ends the process


def traces_of(settings: dict[str, Any]) -> Path:
    """The solved questions as a file of traces; the reasoning is digits and signs drawn at random."""
    folder = Path(settings["folder"])
    path = Path(settings["own_folder"]) / "traces.jsonl"
    draw = random.Random(0)
    rows = []
    for line in (folder / "train.jsonl").read_text().splitlines()[: settings["prompts"]]:
        asked = json.loads(line)
        sums = " ".join(f"{draw.randint(0, 9)} +" for _ in range(settings["new_tokens"] // 4))
        rows.append({"question": asked["prompt"][0]["content"], "think": sums, "answer": asked["answer"]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stage_config(settings: dict[str, Any]) -> Any:
    """The workload as a checked RunConfig, with the overrides of --ours."""
    from rlreason.config import load

    made = config_of(settings)
    limit = 4 * (settings["prompt_tokens"] + settings["new_tokens"]) + 200
    made.update(
        stage="sft",
        prompt={"max_tokens": limit},
        sft={
            "traces": str(traces_of(settings)),
            "size": settings["prompts"],
            "batch_size": settings["prompts"],
            "epochs": _FOR_EVER,
        },
    )
    path = Path(settings["own_folder"]) / "config.yaml"
    path.write_text(json.dumps(made))  # JSON is YAML
    return load(path, settings["ours"])


def take_turns(trainer: Any, settings: dict[str, Any], turns: Turns) -> None:
    """Let a Trainer wait for its turn before each step, and tell what the step was and took."""
    from transformers import TrainerCallback

    memory, done = Memory(settings["device"]), {}
    own = trainer.training_step

    def training_step(model: Any, inputs: dict[str, Any], *rest: Any) -> Any:
        done["tokens"] = int((inputs["labels"] != -100).sum())
        loss = own(model, inputs, *rest)
        done["loss"] = float(loss)
        return loss

    class Waits(TrainerCallback):
        started = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == settings["warmup"]:
                turns.say(updates=1)
            if state.global_step >= settings["warmup"]:
                if turns.wait() is None:
                    sys.exit()
                memory.reset()
            self.started = synchronized(settings["device"])

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seconds = synchronized(settings["device"]) - self.started
            if state.global_step > settings["warmup"]:
                turns.say(seconds=seconds, memory=memory.read(), **done)

    trainer.training_step = training_step
    trainer.add_callback(Waits())


def ours(settings: dict[str, Any], turns: Turns) -> None:
    from rlreason.stages import run
    from rlreason.stages.exact import ExactTrainer

    run_stage = ExactTrainer.run_stage

    def watched(self: Any, *rest: Any) -> Any:
        take_turns(self, settings, turns)
        return run_stage(self, *rest)

    ExactTrainer.run_stage = watched  # type: ignore[method-assign]
    run(stage_config(settings))


def trl(settings: dict[str, Any], turns: Turns) -> None:
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from rlreason.policy.chat import Renderer
    from rlreason.stages.sft import trace_rows
    from rlreason.tasks import load_traces

    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    config = stage_config(settings)
    model = str(Path(settings["folder"]) / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    renderer = Renderer(tokenizer, prompt_format=config.prompt.format, system=config.prompt.system)
    found, _ = load_traces(config.sft.traces, exclude=[])
    rows, _ = trace_rows(renderer, found, limit=config.prompt.max_tokens)
    on_cpu, optim = settings["device"] == "cpu", config.sft.optim
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(Path(settings["own_folder"]) / "trl"),
            model_init_kwargs={"dtype": "float32"},
            use_cpu=on_cpu,
            bf16=settings["dtype"] == "bfloat16",
            per_device_train_batch_size=settings["prompts"],
            num_train_epochs=_FOR_EVER,
            learning_rate=optim.lr,
            lr_scheduler_type="constant",
            weight_decay=optim.weight_decay,
            max_grad_norm=optim.max_grad_norm,
            completion_only_loss=True,
            max_length=None,
            gradient_checkpointing=False,  # on by default, which is slower
            dataloader_pin_memory=not on_cpu,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    take_turns(trainer, settings, turns)
    trainer.train()


def check_results(results: dict[str, list[dict[str, Any]]], *, within: float) -> None:
    """Both sides had the same tokens and, in the first round, the same loss to that share of it."""
    if len(results) < 2:
        return
    one, other = (found[0] for found in results.values())
    if one["tokens"] != other["tokens"] or abs(one["loss"] - other["loss"]) > within * abs(other["loss"]):
        raise SideFailed(f"the sides did not do the same work: {one} and {other}")


def race(bench: Bench) -> dict[str, Any]:
    sides: dict[str, Side] = {name: bench.start(name) for name in ("ours", "TRL")}
    results, failed = by_turns({name: side.turn for name, side in sides.items()}, bench.options.rounds)
    check_results(results, within=0.02 if bench.options.dtype == "bfloat16" else 1e-3)
    seconds = {name: [result["seconds"] for result in found] for name, found in results.items()}
    return {
        "compared": compared(seconds["ours"], seconds["TRL"]) if len(seconds) == 2 else None,
        "rounds": results,
        "failed": failed,
    }


def show(bench: Bench, found: dict[str, Any]) -> None:
    rows = []
    for name, results in found["rounds"].items():
        every = " ".join(f"{result['seconds']:.3g}" for result in results)
        middle = median(result["seconds"] for result in results)
        rows.append([name, f"{middle:.3f}", str(results[0]["tokens"]), f"{results[0]['loss']:.4f}", every])
    print(f"\n{bench.options.prompts} examples in a batch.\n")
    print(table(["a step", "seconds, median", "tokens with loss", "loss", "rounds"], rows))
    show_ratio(found)
    show_failures(found)


def main() -> None:
    if run_side({"ours": ours, "TRL": trl}):
        return
    made = parser(__doc__, new_tokens=36, prompt_tokens=44)
    made.set_defaults(ends=True)  # what is imitated ends, so the model's folder keeps the token for it
    run_bench(parse(made), __file__, race, show)


if __name__ == "__main__":
    main()
