"""Completions scored a second, by our accuracy and think_format and by TRL's, on the same 10,000.

    python benchmarks/reward_throughput.py                       10,000 completions, three rounds of each
    python benchmarks/reward_throughput.py --count 2000 --rounds 5
    python benchmarks/reward_throughput.py --profile             where our own time goes

The completions are made up, the same for every run: reasoning of 50 to 2,000 tokens in the manner of R1,
eight for each question, the answer in a box between answer tags, which suits both libraries. About half are
right, a third wrong, the others malformed. Every round is a process of its own that scores batches of 128 in
one thread, so that nothing is remembered from the round before; imports and 128 other completions come before
the clock starts.
"""

import argparse
import cProfile
import json
import pstats
import random
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

GROUP, BATCH = 8, 128
SHORTEST, LONGEST = 50, 2000  # tokens of the reasoning
STEP_SECONDS = 35.0  # a step of configs/quickstart.yaml on 2 cores
QUICKSTART = (16, 8)  # prompts and completions of each in such a step

SENTENCES = (
    "Okay, so I need to find the value of {letter} here.",
    "Let me start by writing down what the problem gives: {a} and {b}.",
    "First, {a} + {b} = {sum}.",
    "Then {a} times {b} is {product}, so we get ${product}$.",
    "Wait, let me double-check that: is {a} - {b} really {difference}?",
    "Hmm, that does not look right. Let me recompute.",
    r"The fraction \(\frac{{{a}}}{{{b}}}\) can be simplified if {a} and {b} share a factor.",
    r"So we have \[ {letter}^2 - {a}{letter} + {b} = 0 \] and the discriminant is ${a}^2 - 4 \cdot {b}$.",
    r"Using the identity $\sin^2 {letter} + \cos^2 {letter} = 1$, this becomes simpler.",
    "Alternatively, I could try another approach.",
    "If {letter} < {a} then the inequality {letter} + {b} > 0 still holds.",
    "That means the remaining part is {difference}, because {a} = {difference} + {b}.",
    "But the question asks for the total, not for one of the parts.",
    r"Therefore $\sqrt{{{a}}}$ is the length of the side.",
    "So the answer should be {sum}. Let me verify.",
    r"Plugging back in: ${a}{letter} + {b} = {product}$. Yes, that works.",
    r"I think that the final result would be \boxed{{{sum}}}, but let me check once more.",
    "For example, with {letter} = {a}, we obtain {product}.",
)


@dataclass(frozen=True)
class Completion:
    """A completion, its gold answer, and its fate: right, wrong, or how it is malformed."""

    text: str
    gold: str
    fate: str


Draw = random.Random


def _whole(draw: Draw) -> tuple[str, list[str], list[str]]:
    n = draw.randint(2, 5000)
    return (
        str(n),
        [str(n), f"{n:,}", f"{n}.0", rf"{n}\text{{ units}}"],
        [str(n + 1), str(-n), str(n * 10), "0"],
    )


def _fraction(draw: Draw) -> tuple[str, list[str], list[str]]:
    a, b = draw.randint(1, 40), draw.choice([3, 7, 9, 11, 13])
    right = [rf"\frac{{{a}}}{{{b}}}", f"{a}/{b}", rf"\dfrac{{{2 * a}}}{{{2 * b}}}"]
    return (
        rf"\frac{{{a}}}{{{b}}}",
        right,
        [rf"\frac{{{a + 1}}}{{{b}}}", rf"\frac{{{b}}}{{{a + b}}}", f"-{a}/{b}"],
    )


def _decimal(draw: Draw) -> tuple[str, list[str], list[str]]:
    cents = draw.randint(101, 99999)
    text = f"{cents // 100}.{cents % 100:02d}"
    return text, [text, f"{text}0", rf"\${text}"], [f"{cents // 100 + 1}.{cents % 100:02d}", str(cents)]


def _root(draw: Draw) -> tuple[str, list[str], list[str]]:
    a, b = draw.randint(2, 12), draw.choice([2, 3, 5, 7])
    gold = rf"{a}\sqrt{{{b}}}"
    wrong = [rf"{a + 1}\sqrt{{{b}}}", rf"\sqrt{{{a * b}}}", str(a), rf"{a}\sqrt{{{b + 4}}}"]
    return gold, [gold, rf"\sqrt{{{a * a * b}}}", rf"{a} \cdot \sqrt{{{b}}}"], wrong


def _pi(draw: Draw) -> tuple[str, list[str], list[str]]:
    a, b = draw.choice([1, 2, 5, 7, 11]), draw.choice([3, 4, 6, 9])
    gold = rf"\frac{{{a}\pi}}{{{b}}}"
    return gold, [gold, rf"\frac{{{a}}}{{{b}}}\pi"], [rf"\frac{{{a + 1}\pi}}{{{b}}}", rf"\frac{{{a}}}{{{b}}}"]


def _polynomial(draw: Draw) -> tuple[str, list[str], list[str]]:
    a, b = draw.randint(1, 9), draw.randint(1, 9)
    gold = f"x^2+{a + b}x+{a * b}"
    right = [gold, f"(x+{a})(x+{b})", f"{a * b}+{a + b}x+x^2"]
    return gold, right, [f"x^2+{a + b}x+{a * b + 1}", f"(x-{a})(x+{b})", f"x^2+{a + b}"]


KINDS: tuple[tuple[int, Callable[[Draw], tuple[str, list[str], list[str]]]], ...] = (
    (45, _whole), (15, _fraction), (10, _decimal), (12, _root), (8, _pi), (10, _polynomial),
)  # fmt: skip
FATES = {
    "right": 46,
    "wrong": 34,
    "cut off": 10,
    "no tags": 4,
    "two answers": 2,
    "text around": 2,
    "empty": 2,
}


def _tokens(text: str) -> int:
    """Words, numbers and signs: within a fifth of what tokenizers of current models count."""
    return len(re.findall(r"[A-Za-z]+|[0-9]{1,3}|[^\sA-Za-z0-9]", text))


def _reasoning(draw: Draw) -> str:
    wanted = round(SHORTEST * (LONGEST / SHORTEST) ** draw.random())
    sentences: list[str] = []
    tokens = 0
    while tokens < wanted:
        a, b = draw.randint(2, 300), draw.randint(2, 90)
        sentence = draw.choice(SENTENCES).format(
            a=a, b=b, sum=a + b, product=a * b, difference=a - b, letter=draw.choice("xyzn")
        )
        sentences.append(sentence)
        tokens += _tokens(sentence)
    return "".join(sentence + draw.choice((" ", " ", "\n\n")) for sentence in sentences).strip()


def _render(fate: str, think: str, box: str, other: str) -> str:
    answer = f"<answer>{box}</answer>"
    if fate == "cut off":
        return f"<think>\n{think}"
    if fate == "no tags":
        return f"{think} The answer is {box}."
    if fate == "two answers":
        answer = f"<answer>{other}</answer>\n{answer}"
    if fate == "empty":
        answer = "<answer></answer>"
    text = f"<think>\n{think}\n</think>\n{answer}"
    return f"Sure!\n{text}" if fate == "text around" else text


def completions(count: int, seed: int = 0) -> list[Completion]:
    """`count` completions, GROUP after each other for one question."""
    draw = random.Random(seed)
    made: list[Completion] = []
    while len(made) < count:
        (kind,) = draw.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS])
        gold, right, wrong = kind(draw)
        for _ in range(GROUP):
            (fate,) = draw.choices(list(FATES), list(FATES.values()))
            good, bad = (rf"\boxed{{{draw.choice(texts)}}}" for texts in (right, wrong))
            if fate == "wrong":
                good, bad = bad, good
            made.append(Completion(_render(fate, _reasoning(draw), good, bad), gold, fate))
    return made[:count]


def _score(
    name: str, batch: list[Completion], clocks: dict[str, float]
) -> list[tuple[float | None, float | None]]:
    """(accuracy, format) of each completion; the seconds of each go to `clocks`."""
    if name == "ours":
        from rewards import REWARDS

        texts, golds = [item.text for item in batch], [item.gold for item in batch]
        calls: dict[str, Callable[[], Any]] = {
            "accuracy": lambda: REWARDS["accuracy"](completions=texts, answer=golds),
            "think_format": lambda: REWARDS["think_format"](completions=texts),
        }
    else:
        from trl.rewards import accuracy_reward, think_format_reward

        said = [[{"role": "assistant", "content": item.text}] for item in batch]
        solutions = [f"${item.gold}$" for item in batch]
        calls = {
            "accuracy": lambda: accuracy_reward(said, solutions),
            "think_format": lambda: think_format_reward(said),
        }
    values = []
    for part, call in calls.items():
        started = time.perf_counter()
        values.append(call())
        clocks[part] = clocks.get(part, 0.0) + time.perf_counter() - started
    return list(zip(*values, strict=True))


def one_round(name: str, count: int, seed: int) -> dict[str, Any]:
    """Score all completions in this process. Returns seconds by reward and the values."""
    made = completions(count, seed)
    _score(name, completions(BATCH, seed + 1), {})
    clocks: dict[str, float] = {}
    values = []
    for start in range(0, count, BATCH):
        values += _score(name, made[start : start + BATCH], clocks)
    return {"seconds": clocks, "values": values}


def _in_a_process(*arguments: str) -> Any:
    command = [sys.executable, __file__, *arguments]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)


def step() -> dict[str, float]:
    """Milliseconds that the quickstart's rubric takes for one step's completions, short and long ones."""
    from rlreason.config import load
    from rlreason.scoring import Scorer
    from rlreason.types import Example

    scorer = Scorer(load(ROOT / "configs" / "quickstart.yaml", []))
    prompts, size = QUICKSTART
    draw = random.Random(0)
    short = []
    for number in range(prompts * size):
        a, b, c = (draw.randint(1, 9) for _ in range(3))
        think = f"{a} + {b} = {a + b}\n{a + b} - {c} = {a + b - c}"
        text = f"<think>\n{think}\n</think>\n<answer>{a + b - c}</answer>"
        short.append(Completion(text, str(a + b - c + (number % 3 == 0)), ""))
    scorer.score([Example([], r"\sqrt{5}", {})], [r"<think>r</think><answer>\sqrt{7}</answer>"], [""], [[0]])
    found = {}
    for name, batch in (("quickstart", short), ("long", completions(prompts * size))):
        examples = [Example([{"role": "user", "content": "?"}], item.gold, {}) for item in batch]
        texts, ids = [item.text for item in batch], [[0]] * len(batch)
        times = []
        for _ in range(5):
            started = time.perf_counter()
            scorer.score(examples, texts, [""] * len(batch), ids)
            times.append(1000 * (time.perf_counter() - started))
        found[name] = times[0]  # the first: the later ones find expressions read
        found[f"{name}, again"] = statistics.median(times[1:])
    return found


def profile(count: int, seed: int) -> None:
    made = completions(count, seed)
    _score("ours", completions(BATCH, seed + 1), {})
    with cProfile.Profile() as profiler:
        _score("ours", made, {})
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(30)


def _agreement(made: list[Completion], ours: list[Any], theirs: list[Any]) -> None:
    for place, reward in enumerate(("accuracy", "think_format")):
        pairs = Counter((mine[place], other[place]) for mine, other in zip(ours, theirs, strict=True))
        said = ", ".join(f"ours {a:g} and TRL {b:g}: {n}" for (a, b), n in sorted(pairs.items()))
        print(f"{reward}: {said}")
    for fate in FATES:
        rows = [n for n, item in enumerate(made) if item.fate == fate]
        paid = [sum(values[n][0] == 1 for n in rows) for values in (ours, theirs)]
        print(f"  {fate}: {len(rows)}, of which accuracy pays ours {paid[0]}, TRL {paid[1]}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--one", choices=("ours", "TRL", "step"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = step() if options.one == "step" else one_round(options.one, options.count, options.seed)
        print(json.dumps(found))
        return
    if options.profile:
        profile(options.count, options.seed)
        return

    made = completions(options.count, options.seed)
    lengths = sorted(_tokens(item.text) for item in made)
    print(
        f"{len(made)} completions of {lengths[0]} to {lengths[-1]} tokens, median {lengths[len(made) // 2]}"
    )
    rounds: dict[str, list[dict[str, Any]]] = {"ours": [], "TRL": []}
    for _ in range(options.rounds):
        for name, results in rounds.items():
            results.append(
                _in_a_process("--one", name, "--count", str(options.count), "--seed", str(options.seed))
            )
    print(
        f"\n{'':14}{'ours':>10}{'TRL':>10}{'ratio':>8}   seconds, medians of {options.rounds} rounds by turns"
    )
    for part in ("accuracy", "think_format", "total"):
        medians = [
            statistics.median(
                sum(s for k, s in r["seconds"].items() if part in (k, "total")) for r in results
            )
            for results in rounds.values()
        ]
        print(f"{part:14}{medians[0]:10.3f}{medians[1]:10.3f}{medians[1] / medians[0]:8.1f}")
    for name, results in rounds.items():
        totals = [sum(result["seconds"].values()) for result in results]
        print(
            f"{name}: {options.count / statistics.median(totals):,.0f} completions a second; rounds",
            *(f"{total:.2f}" for total in totals),
        )
    print()
    _agreement(made, rounds["ours"][0]["values"], rounds["TRL"][0]["values"])
    print()
    for name, milliseconds in _in_a_process("--one", "step").items():
        print(
            f"128 completions by the quickstart's rubric ({name}): {milliseconds:.1f} ms, "
            f"{milliseconds / 10 / STEP_SECONDS:.3f}% of a step of {STEP_SECONDS:g} s"
        )


if __name__ == "__main__":
    main()
