"""Where the time of a step of GRPO goes, part by part: TRL's GRPOTrainer and ours.

    python benchmarks/profile_step.py --json profile.json
    python benchmarks/profile_step.py --device cuda --random-config qwen2-0.5b --trl-batch 64x1

The workload, the sides and their options are those of grpo_step.py. Functions of each side are wrapped in a
clock; a part is the time in its function less that of the parts within, so that all add up to the step. On
CUDA each boundary waits for the device and our steps are not recorded as graphs, which makes the whole slower
than grpo_step.py finds it.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import grpo_step
from grpo_step import add_trl_options, check_results, check_trl_options, start_trl
from hardware import sampling_flops, synchronized
from harness import Bench, Turns, by_turns, parse, parser, run_bench, run_side, table

# Phase and part of each row, in the order of a step.
ROWS = [
    ("sample", "prompts"),
    ("sample", "layers"),
    ("sample", "attention"),
    ("sample", "vocabulary"),
    ("sample", "rest"),
    ("update", "layers"),
    ("update", "attention"),
    ("update", "vocabulary"),
    ("update", "backward"),
    ("update", "optimizer"),
    ("update", "rest"),
    ("hand over", "weights"),
    _ELSEWHERE := ("other", "rest"),
]


class PartClock:
    """Seconds by phase and part. The outermost function that runs gives the phase."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._stack: list[tuple[str, str]] = []
        self._since = 0.0
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)

    def reset(self) -> None:
        self.seconds.clear()
        self._since = synchronized(self._device)

    def book(self) -> None:
        """Book what has passed since the last boundary."""
        now = synchronized(self._device)
        place = self._stack[-1] if self._stack else _ELSEWHERE
        self.seconds[place if place in ROWS else _ELSEWHERE] += now - self._since
        self._since = now

    def timed(self, function: Callable[..., Any], part: str, phase: str | None) -> Callable[..., Any]:
        @wraps(function)
        def run(*arguments: Any, **named: Any) -> Any:
            self.book()
            self._stack.append((self._stack[0][0] if self._stack else phase or "other", part))
            try:
                return function(*arguments, **named)
            finally:
                self.book()
                self._stack.pop()

        return run

    def wrap(self, owner: Any, name: str, part: str, *, phase: str | None = None) -> None:
        """Put a clock around a function of a module or a class, or a value of a dictionary."""
        if isinstance(owner, dict):
            owner[name] = self.timed(owner[name], part, phase)
        else:
            setattr(owner, name, self.timed(getattr(owner, name), part, phase))


class Clocked(Turns):
    """Tells the parent, with each step, where its time went."""

    def __init__(self, clock: PartClock, turns: Turns) -> None:
        self._clock, self._turns = clock, turns

    def wait(self) -> dict[str, Any] | None:
        case = self._turns.wait()
        self._clock.reset()
        return case

    def say(self, **message: Any) -> None:
        if "seconds" in message:
            self._clock.book()
            message["where"] = [[*key, seconds] for key, seconds in self._clock.seconds.items()]
        self._turns.say(**message)


def clock_of(settings: dict[str, Any]) -> PartClock:
    """A clock around what both sides use: the model's layers and attention, the backward pass, AdamW."""
    import accelerate
    import torch
    import transformers
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    clock = PartClock(settings["device"])
    config = transformers.AutoConfig.from_pretrained(Path(settings["folder"]) / "model")
    clock.wrap(transformers.AutoModel._model_mapping[type(config)], "forward", "layers")
    clock.wrap(ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", "attention")
    clock.wrap(accelerate.Accelerator, "backward", "backward", phase="update")
    clock.wrap(accelerate.Accelerator, "clip_grad_norm_", "optimizer", phase="update")
    clock.wrap(torch.optim.AdamW, "step", "optimizer", phase="update")
    return clock


def ours(settings: dict[str, Any], turns: Turns) -> None:
    clock = clock_of(settings)
    native, decoder, slots, blocks, forward, update = map(
        import_module,
        (
            "rlreason.rollout.native",
            "rlreason.rollout.decoder",
            "rlreason.rollout.slots",
            "rlreason.policy.blocks",
            "rlreason.policy.forward",
            "rlreason.stages.update",
        ),
    )
    clock.wrap(blocks.AttentionInterface._global_mapping, blocks.NAME, "attention")
    # A recorded step runs as a whole.
    native.pace_of = lambda device: replace(slots.pace_of(device), record=None)
    clock.wrap(native.NativeEngine, "generate", "rest", phase="sample")
    clock.wrap(decoder.Decoder, "prefill", "prompts")
    clock.wrap(decoder.Decoder, "decode", "layers")
    clock.wrap(decoder.Decoder, "_logits", "vocabulary")
    clock.wrap(decoder.Cache, "attend", "attention")
    clock.wrap(decoder.Prefixes, "attend", "attention")
    clock.wrap(slots, "sample_tokens", "vocabulary")
    clock.wrap(update.Updater, "update", "rest", phase="update")
    clock.wrap(forward, "token_logprobs", "vocabulary")
    clock.wrap(native.NativeEngine, "refresh", "weights", phase="hand over")
    grpo_step.ours(settings, Clocked(clock, turns))


def trl(settings: dict[str, Any], turns: Turns) -> None:
    import transformers
    import trl

    clock = clock_of(settings)
    clock.wrap(transformers.GenerationMixin, "generate", "vocabulary", phase="sample")
    clock.wrap(trl.GRPOTrainer, "_compute_loss", "rest", phase="update")
    clock.wrap(trl.GRPOTrainer, "_get_per_token_logps_and_entropies", "vocabulary")
    grpo_step.trl(settings, Clocked(clock, turns))


def measure(bench: Bench) -> dict[str, Any]:
    """Medians of seconds by side, phase and part, and what arithmetic without waste would take."""
    sides = {"TRL": start_trl(bench, bench.options.trl_batch[0]), "ours": bench.start("ours")}
    results, failed = by_turns({name: side.turn for name, side in sides.items()}, bench.options.rounds)
    where: dict[str, dict[str, float]] = {}
    for name, found in results.items():
        check_results(bench, name, found)
        rounds = [{(phase, part): took for phase, part, took in one["where"]} for one in found]
        where[name] = {
            " / ".join(row): median(one.get(row, 0.0) for one in rounds)
            for row in ROWS
            if any(row in one for one in rounds)
        }
    peak = bench.facts["roofline"][bench.options.dtype]
    sampling = sampling_flops(
        bench.facts["model"],
        prompts=bench.options.prompts,
        prompt_tokens=sum(bench.facts["prompt_tokens"]) / len(bench.facts["prompt_tokens"]),
        sequences=bench.options.prompts * bench.options.group_size,
        new_tokens=bench.options.new_tokens,
    )
    return {
        "where": where,
        "limits": {"sample": sampling / peak, "update": 3 * sampling / peak},
        "rounds": results,
        "failed": failed,
    }


def show(bench: Bench, found: dict[str, Any]) -> None:
    names, where = list(found["where"]), found["where"]
    rows = []
    for phase in dict.fromkeys(phase for phase, _ in ROWS):
        parts = [f"{phase} / {part}" for one, part in ROWS if one == phase]
        rows += [[part, *(_seconds(where[name].get(part)) for name in names)] for part in parts]
        if len(parts) == 1:
            continue
        limit = found["limits"].get(phase)
        whole = [sum(where[name].get(part, 0.0) for part in parts) for name in names]
        said = "" if limit is None else f" (arithmetic: {limit:.2f})"
        rows.append([f"{phase} in all{said}", *map(_seconds, whole)])
    rows.append(["step", *(_seconds(sum(where[name].values())) for name in names)])
    print()
    print(table(["seconds, median", *names], rows))
    for name, why in found["failed"].items():
        print(f"\n{name} failed: {why}")


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def main() -> None:
    if run_side({"ours": ours, "TRL": trl}):
        return
    made = parser(__doc__, new_tokens=56, rounds=3)
    add_trl_options(made)
    options = parse(made)
    check_trl_options(made, options)
    if len(options.trl_batch) > 1:
        made.error("--trl-batch: one of them is profiled; grpo_step.py finds the quickest of several")
    run_bench(options, __file__, measure, show)


if __name__ == "__main__":
    main()
