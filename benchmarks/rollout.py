"""Sampling: tokens a second of our native engine, of transformers `generate`, and of others.

    python benchmarks/rollout.py --json rollout.json
    python benchmarks/rollout.py --sequences 64 --dtype float32
    python benchmarks/rollout.py --vllm-python ~/vllm/bin/python        vLLM in an environment of its own
    python benchmarks/rollout.py --device cuda --random-config qwen2-0.5b --sequences 512 --new-tokens 256

The sides, each a process of its own with weights in --dtype:

    native        our engine, as a run builds it; its log-probs are part of the work
    generate      transformers: model.generate with its own sampling
    engine        our transformers engine: generate under autocast, with a seed a sequence and log-probs
    continuous    transformers: model.generate_batch, its continuous batching
    vllm          vLLM, if it can be imported

All draw --group-size completions of each prompt, of exactly --new-tokens tokens, from the whole vocabulary at
temperature 1. `--generate`, `--continuous` and `--vllm` take further settings of GenerationConfig,
ContinuousBatchingConfig and vllm.LLM.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from grpo_step import load_config
from hardware import decode_bytes, sampling_flops, synchronized
from harness import (
    Bench,
    SideFailed,
    Turns,
    at_least_one,
    by_turns,
    compared,
    heading,
    key_value,
    parse,
    parser,
    run_side,
    table,
)

SIDES = ("native", "generate", "engine", "continuous", "vllm")
_PAGE = 256  # tokens in a page of transformers' paged cache


def _serve(
    settings: dict[str, Any], turns: Turns, sample: Callable[[list[list[int]], int], int], **facts: Any
) -> None:
    """Answer turns: `sample(prompts, group_size)` draws and returns the number of tokens that it drew."""

    def turn(sequences: int) -> dict[str, Any]:
        size = settings["group_size"]
        prompts = settings["prompt_ids"][: sequences // size]
        started = synchronized(settings["device"])
        tokens = sample(prompts, size)
        seconds = synchronized(settings["device"]) - started
        if tokens != sequences * settings["new_tokens"]:
            raise RuntimeError(f"{tokens} tokens were drawn, not {sequences} x {settings['new_tokens']}")
        return {"seconds": seconds, "tokens": tokens}

    for _ in range(settings["warmup"]):
        for sequences in sorted(settings["sequences"], reverse=True):  # what is sized once, for the most
            turn(sequences)
    turns.say(**facts)
    while (case := turns.wait()) is not None:
        turns.say(**turn(case["sequences"]))


def build(settings: dict[str, Any], engine: str) -> tuple[Any, Any, str]:
    """Engine, sampling and the engine's description, built as a run builds them."""
    import torch

    from rlreason.policy.model import load_policy
    from rlreason.rollout import build_engine, sampling_of

    config = load_config({**settings, "ours": [f"rollout.engine={engine}", *settings["ours"]]})
    if config.threads:
        torch.set_num_threads(config.threads)
    policy = load_policy(config.model, device=torch.device(settings["device"]))
    built, name = build_engine(policy, config.rollout)
    return built, sampling_of(config.rollout), name


def _our_engine(name: str) -> Callable[[dict[str, Any], Turns], None]:
    def side(settings: dict[str, Any], turns: Turns) -> None:
        from itertools import count

        from rlreason.rollout import Request

        at_once = f"rollout.max_sequences={max(settings['sequences'])}"
        engine, sampling, said = build({**settings, "ours": [at_once, *settings["ours"]]}, name)
        seeds = count()
        started = synchronized(settings["device"])
        engine.refresh()
        refresh = synchronized(settings["device"]) - started

        def sample(prompts: list[list[int]], size: int) -> int:
            requests = [Request(ids, tuple(next(seeds) for _ in range(size))) for ids in prompts]
            groups = engine.generate(requests, sampling)
            return sum(len(rollout.completion_ids) for group in groups for rollout in group)

        _serve(settings, turns, sample, engine=said, refresh_seconds=refresh)

    return side


def _plain_model(settings: dict[str, Any]) -> tuple[Any, int]:
    """The model as transformers loads it, with weights in the dtype, and its padding token."""
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    if settings["threads"]:
        torch.set_num_threads(settings["threads"])
    dtype = getattr(torch, settings["dtype"])
    path = f"{settings['folder']}/model"
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    return model.to(settings["device"]).eval(), model.generation_config.pad_token_id


def _generation(settings: dict[str, Any]) -> Any:
    from transformers import GenerationConfig

    path = f"{settings['folder']}/model"
    return GenerationConfig.from_pretrained(
        path, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=settings["new_tokens"],
        **dict(settings["generate"]),
    )  # fmt: skip


def generate(settings: dict[str, Any], turns: Turns) -> None:
    import torch

    model, pad = _plain_model(settings)
    options = _generation(settings)

    def sample(prompts: list[list[int]], size: int) -> int:
        rows = [ids for ids in prompts for _ in range(size)]
        width = max(map(len, rows))
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=settings["device"])
        mask = torch.tensor(
            [[0] * (width - len(row)) + [1] * len(row) for row in rows], device=settings["device"]
        )
        output = model.generate(input_ids=ids, attention_mask=mask, generation_config=options)
        return int(output[:, width:].numel())

    _serve(settings, turns, sample)


def continuous(settings: dict[str, Any], turns: Turns) -> None:
    from transformers import ContinuousBatchingConfig

    model, _ = _plain_model(settings)
    options = _generation(settings)
    pages = -(-(max(map(len, settings["prompt_ids"])) + settings["new_tokens"]) // _PAGE)
    # Left alone it takes nine tenths of the free memory, of which the other sides need some.
    blocks = max(settings["sequences"]) * pages + 16
    room = {"num_blocks": blocks} if settings["device"] == "cpu" else {"max_memory_percent": 0.3}
    chosen = {**room, **dict(settings["continuous"])}

    def sample(prompts: list[list[int]], size: int) -> int:
        rows = [ids for ids in prompts for _ in range(size)]
        batching = ContinuousBatchingConfig(**chosen)
        found = model.generate_batch(
            rows,
            generation_config=options,
            continuous_batching_config=batching,
            persistent_manager=True,  # else each call would set up its cache anew
        )
        return sum(len(one.generated_tokens) for one in found.values())

    _serve(settings, turns, sample)


def vllm(settings: dict[str, Any], turns: Turns) -> None:
    if settings["device"] == "cpu":
        # Left alone it keeps a core free for a server, and takes its cache from most of the memory.
        os.environ.setdefault("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "4")  # GiB
    from vllm import LLM, SamplingParams

    longest = max(map(len, settings["prompt_ids"])) + settings["new_tokens"]
    chosen = {"gpu_memory_utilization": 0.4} if settings["device"] == "cuda" else {"enforce_eager": True}
    engine = LLM(
        model=f"{settings['folder']}/model",
        dtype=settings["dtype"],
        max_model_len=longest,
        max_num_seqs=max(settings["sequences"]),
        **{**chosen, **dict(settings["vllm"])},
    )

    def sample(prompts: list[list[int]], size: int) -> int:
        wanted = SamplingParams(
            n=size, temperature=1.0, max_tokens=settings["new_tokens"], ignore_eos=True, detokenize=False
        )
        found = engine.generate([{"prompt_token_ids": ids} for ids in prompts], wanted, use_tqdm=False)
        return sum(len(one.token_ids) for group in found for one in group.outputs)

    _serve(settings, turns, sample, version=__import__("vllm").__version__)


# ---------------------------------------------------------------------- all, by turns


def has_vllm(python: str) -> bool:
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('vllm') is None)"
    return subprocess.run([python, "-c", look], capture_output=True, check=False).returncode == 0


def start_all(bench: Bench) -> tuple[dict[str, Any], dict[str, str]]:
    """The sides that could be started, and why the others could not."""
    sides: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for name in bench.options.sides:
        python = bench.options.vllm_python if name == "vllm" else sys.executable
        if name == "vllm" and not has_vllm(python):
            failed[name] = "it is not installed"
            continue
        try:
            sides[name] = bench.start(name, python=python)
            print(f"{name} is ready {json.dumps(sides[name].facts)}", flush=True)
        except SideFailed as error:
            failed[name] = str(error)
    return sides, failed


def measure(bench: Bench, sides: dict[str, Any], sequences: int) -> dict[str, Any]:
    """Seconds of every side for so many sequences, and the limits that the machine sets."""
    options, facts = bench.options, bench.facts
    turns = {name: lambda side=side: side.turn(sequences=sequences) for name, side in sides.items()}
    results, failed = by_turns(turns, options.rounds)
    seconds = {name: [result["seconds"] for result in found] for name, found in results.items()}
    prompts = sequences // options.group_size
    tokens = facts["prompt_tokens"][:prompts]
    mean = sum(tokens) / len(tokens)
    sizes = {"prompt_tokens": mean, "sequences": sequences, "new_tokens": options.new_tokens}
    flops = sampling_flops(facts["model"], prompts=prompts, **sizes)
    item = 2 if options.dtype == "bfloat16" else 4
    read = decode_bytes(facts["model"], prompts=prompts, item=item, **sizes)
    return {
        "sequences": sequences,
        "limit_seconds": {
            "arithmetic": flops / facts["roofline"][options.dtype],
            "bandwidth": read / facts["roofline"]["bandwidth"],
        },
        "compared": {
            name: compared(seconds["native"], times)
            for name, times in seconds.items()
            if "native" in seconds and name != "native"
        },
        "rounds": seconds,
        "failed": failed,
    }


def show(found: dict[str, Any], new_tokens: int) -> None:
    tokens, limits = found["sequences"] * new_tokens, found["limit_seconds"]
    rows = []
    for name, seconds in found["rounds"].items():
        middle = median(seconds)
        pair = found["compared"].get(name)
        rows.append(
            [
                name,
                f"{tokens / middle:,.0f}",
                f"{pair['ratio']:.2f}" if pair else "-",
                f"{limits['arithmetic'] / middle:.0%}",
                f"{limits['bandwidth'] / middle:.0%}",
                " ".join(f"{tokens / one:,.0f}" for one in seconds),
            ]
        )
    print(f"\n{found['sequences']} sequences of exactly {new_tokens} tokens")
    headers = ["", "tokens/s, median", "RATIO, native to it", "of arithmetic", "of bandwidth", "rounds"]
    print(table(headers, rows))
    for name, why in found["failed"].items():
        print(f"{name} failed: {why}")


def main() -> None:
    sides = {
        "native": _our_engine("native"),
        "engine": _our_engine("transformers"),
        "generate": generate,
        "continuous": continuous,
        "vllm": vllm,
    }
    if run_side(sides):
        return
    made = parser(__doc__, new_tokens=64)
    made.add_argument(
        "--sequences", type=at_least_one, nargs="+", default=[64, 128], help="at once (64 128); not --prompts"
    )
    made.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="which to race (all)")
    made.add_argument("--vllm-python", default=sys.executable, help="the Python that has vLLM")
    for name in ("generate", "continuous", "vllm"):
        made.add_argument(f"--{name}", type=key_value, metavar="KEY=VALUE", nargs="+", default=[])
    options = parse(made)
    for sequences in options.sequences:
        if sequences % options.group_size:
            made.error(f"--sequences {sequences}: no multiple of --group-size {options.group_size}")
    options.prompts = max(options.sequences) // options.group_size
    found = []
    try:
        with Bench(options, str(Path(__file__)), new_tokens=options.new_tokens) as bench:
            print(heading(bench), flush=True)
            running, failed = start_all(bench)
            for sequences in options.sequences:
                found.append(measure(bench, running, sequences))
                show(found[-1], options.new_tokens)
            bench.report(sizes=found, failed=failed, sides={n: s.facts for n, s in running.items()})
    except SideFailed as error:
        sys.exit(str(error))
    for name, why in failed.items():
        print(f"\n{name}: {why}")


if __name__ == "__main__":
    main()
