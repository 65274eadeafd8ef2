"""How the cost of sampling grows with the group, with the length and with the number of prompts.

    python benchmarks/scaling.py --json scaling.json
    python benchmarks/scaling.py --groups 8 64 --lengths 64 --prompt-counts 8
    python benchmarks/scaling.py --device cuda --random-config qwen2-0.5b --lengths 64 1024 4096

One process with our engine, as a run builds it. From a middle case (--prompts, --group-size, --new-tokens)
one size at a time is varied; every round measures each case once, in reversed order every other round. A case
is sampled four times: whole, for two tokens, for one, and for one after prompts of one token. From these:

    prefill    seconds for all prompts: one token after the prompts, less one token after next to nothing. So
               whatever a group makes of its prompt's cache is in it
    decode     microseconds for a further token of one completion: the whole, less two tokens, with which all
               that is done once a call is done

RATIO is to the middle case. "of arithmetic" and "of bandwidth" are the shares of what the machine was
measured to do, in a matrix product and in a copy, that decoding needs at least.
"""

import dataclasses
import sys
from itertools import count
from statistics import median
from typing import Any

from hardware import decode_bytes, sampling_flops, synchronized
from harness import (
    Bench,
    SideFailed,
    Turns,
    at_least_one,
    by_turns,
    heading,
    parse,
    parser,
    run_side,
    table,
)
from rollout import build

Case = tuple[int, int, int]
"""Prompts, completions of each, tokens of each."""


def native(settings: dict[str, Any], turns: Turns) -> None:
    import torch
    from grpo_step import load_config

    from rlreason.rollout import Request, sequences_at_once

    engine, sampling, said = build(settings, "native")
    seeds = count()

    def seconds(prompts: list[list[int]], size: int, tokens: int) -> float:
        requests = [Request(ids, tuple(next(seeds) for _ in range(size))) for ids in prompts]
        started = synchronized(settings["device"])
        groups = engine.generate(requests, dataclasses.replace(sampling, max_new_tokens=tokens))
        passed = synchronized(settings["device"]) - started
        drawn = sum(len(rollout.completion_ids) for group in groups for rollout in group)
        if drawn != len(prompts) * size * tokens:
            raise RuntimeError(f"{drawn} tokens were drawn, not {len(prompts)} x {size} x {tokens}")
        return passed

    def turn(case: Case) -> dict[str, float]:
        prompts, size, tokens = case
        asked = settings["prompt_ids"][:prompts]
        first = seconds(asked, size, 1)
        prefill = first - seconds([ids[-1:] for ids in asked], size, 1)
        decode = seconds(asked, size, tokens) - seconds(asked, size, 2)
        return {"prefill": prefill, "decode": decode, "first": first}

    for _ in range(settings["warmup"]):
        turn((settings["prompts"], settings["group_size"], settings["middle_tokens"]))
    asked = load_config(settings).rollout.max_sequences
    turns.say(engine=said, max_sequences=sequences_at_once(asked, torch.device(settings["device"])))
    while (case := turns.wait()) is not None:
        turns.say(**turn(case["case"]))


# ---------------------------------------------------------------------- the cases, by turns


def cases_of(options: Any) -> tuple[Case, dict[str, list[Case]]]:
    """The middle case, and for each size that is varied its cases, the middle one among them."""
    prompts, size, tokens = options.prompts, options.group_size, options.new_tokens
    return (prompts, size, tokens), {
        "completions of a prompt": [(prompts, n, tokens) for n in sorted({*options.groups, size})],
        "tokens of a completion": [(prompts, size, n) for n in sorted({*options.lengths, tokens})],
        "prompts": [(n, size, tokens) for n in sorted({*options.prompt_counts, prompts})],
    }


def limits(bench: Bench, case: Case, *, at_once: int) -> dict[str, float]:
    """Seconds that decoding takes at least, from the third token on, for which the second is computed.

    By arithmetic, and by what it reads, wave after wave.
    """
    prompts, size, tokens = case
    model, peaks = bench.facts["model"], bench.facts["roofline"]
    lengths = bench.facts["prompt_tokens"]
    before = sum(lengths) / len(lengths) + 1
    sequences = prompts * size
    whole, rest = divmod(sequences, at_once)
    item = 2 if bench.options.dtype == "bfloat16" else 4
    read = sum(
        decode_bytes(
            model,
            prompts=max(1, wave / size),
            prompt_tokens=before,
            sequences=wave,
            new_tokens=tokens - 2,
            item=item,
        )
        for wave in [at_once] * whole + [rest] * bool(rest)
    )
    flops = sampling_flops(model, prompts=0, prompt_tokens=before, sequences=sequences, new_tokens=tokens - 2)
    return {"arithmetic": flops / peaks[bench.options.dtype], "bandwidth": read / peaks["bandwidth"]}


def measure(bench: Bench) -> dict[str, Any]:
    """Medians and rounds of each case, with their ratios to the middle one."""
    middle, sweeps = cases_of(bench.options)
    side = bench.start("native", middle_tokens=middle[2])
    turns = {
        str(case): lambda case=case: side.turn(case=case)
        for case in dict.fromkeys(case for cases in sweeps.values() for case in cases)
    }
    results, failed = by_turns(turns, bench.options.rounds)
    if failed:
        raise SideFailed(next(iter(failed.values())))
    middles = {kind: median(one[kind] for one in results[str(middle)]) for kind in ("prefill", "decode")}
    per_token = middles["decode"] / (middle[0] * middle[1] * (middle[2] - 2))
    per_prompt = middles["prefill"] / middle[0]
    found = []
    for name, cases in sweeps.items():
        for case in cases:
            rounds = results[str(case)]
            decode, prefill = (median(one[kind] for one in rounds) for kind in ("decode", "prefill"))
            tokens = case[0] * case[1] * (case[2] - 2)
            at_least = limits(bench, case, at_once=side.facts["max_sequences"])
            found.append(
                {
                    "varied": name,
                    "case": dict(zip(("prompts", "group_size", "new_tokens"), case, strict=True)),
                    "prefill_seconds": prefill,
                    "prefill_ratio": prefill / case[0] / per_prompt,
                    "decode_seconds": decode,
                    "token_seconds": decode / tokens,
                    "token_ratio": decode / tokens / per_token,
                    "of_arithmetic": at_least["arithmetic"] / decode,
                    "of_bandwidth": at_least["bandwidth"] / decode,
                    "rounds": rounds,
                }
            )
    return {"engine": side.facts, "cases": found}


def show(found: dict[str, Any]) -> None:
    print(f"\n{found['engine']['engine']}, at most {found['engine']['max_sequences']} sequences at once")
    headers = [
        "", "decode, us a token", "RATIO", "of arithmetic", "of bandwidth", "prefill, ms a prompt", "RATIO",
        "rounds, us a token",
    ]  # fmt: skip
    places = {
        "completions of a prompt": "group_size",
        "tokens of a completion": "new_tokens",
        "prompts": "prompts",
    }
    for name, key in places.items():
        rows = []
        for one in (one for one in found["cases"] if one["varied"] == name):
            case = one["case"]
            tokens = case["prompts"] * case["group_size"] * (case["new_tokens"] - 2)
            rows.append(
                [
                    f"{case[key]:,} {name}",
                    f"{1e6 * one['token_seconds']:,.0f}",
                    f"{one['token_ratio']:.2f}",
                    f"{one['of_arithmetic']:.0%}",
                    f"{one['of_bandwidth']:.0%}",
                    f"{1e3 * one['prefill_seconds'] / case['prompts']:.2f}",
                    f"{one['prefill_ratio']:.2f}",
                    " ".join(f"{1e6 * r['decode'] / tokens:,.0f}" for r in one["rounds"]),
                ]
            )
        print(f"\n{table(headers, rows)}")


def main() -> None:
    if run_side({"native": native}):
        return
    made = parser(__doc__, new_tokens=64, prompt_tokens=256)
    numbers: dict[str, Any] = {"type": at_least_one, "nargs": "+"}
    made.add_argument("--groups", default=[2, 4, 8, 16, 32, 64], help="completions of a prompt", **numbers)
    made.add_argument("--lengths", default=[64, 256, 1024], help="tokens of a completion", **numbers)
    made.add_argument("--prompt-counts", default=[2, 8, 32], help="prompts", **numbers)
    options = parse(made)
    if min(options.new_tokens, *options.lengths) < 3:
        made.error("--new-tokens, --lengths: the cost of a token is told from the third on; give 3 or more")
    options.most_prompts = max(options.prompts, *options.prompt_counts)
    try:
        longest = max(options.new_tokens, *options.lengths)
        with Bench(options, __file__, new_tokens=longest) as bench:
            print(heading(bench), flush=True)
            found = measure(bench)
            bench.report(**found)
    except SideFailed as error:
        sys.exit(str(error))
    show(found)


if __name__ == "__main__":
    main()
