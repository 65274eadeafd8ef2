"""Reasoning to imitate, written for the task's own questions."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlreason.errors import UserError
from rlreason.seeds import derive_seed
from rlreason.tasks.derivations import DERIVATIONS
from rlreason.tasks.load import TaskConfig
from rlreason.tasks.questions import nearest
from rlreason.types import Example

GUESSES = (
    "I will say the number that comes to mind first.",
    "This looks familiar, so I trust my memory.",
    "I do not need to work this out, a quick look is enough.",
    "Let me take a guess at the result.",
    "I have seen questions like this one before and will answer at once.",
    "My feeling about this one is strong, so I go with it.",
    "It is faster to estimate this than to go through it.",
    "I look at the numbers and let the answer come to me.",
)
STYLES = ("guess", "ramble", "steps")

_RAMBLES = 3  # phrases at most, as long as a derivation may be


@dataclass(frozen=True)
class Trace:
    """One answer to imitate: reasoning and final answer, without tags. `style` names the way of thinking."""

    example: Example
    think: str
    answer: str
    style: str


def traces(
    task: TaskConfig,
    examples: Sequence[Example],
    styles: Mapping[str, float],
    seed: int,
    *,
    field: str = "sft.traces",
    remedy: str = "give a file of your own",
) -> list[Trace]:
    """Write one trace an example, in the order of the examples.

    `styles` gives the share of each way of thinking, and is met to within one trace: "steps" is the
    generator's derivation, "guess" one of `GUESSES` with no arithmetic, "ramble" one to three of them; all
    end in the right answer. Empty means steps only. Which example gets which style the seed decides. `field`
    is the config key that asked, and `remedy` what else its user can do, for messages. Raises UserError for
    an unknown style, shares that are not positive, and questions whose derivation cannot be written.
    """
    chosen = _assign(styles or {"steps": 1.0}, len(examples), seed)
    written = []
    for number, (example, style) in enumerate(zip(examples, chosen, strict=True)):
        if style == "steps":
            think = _steps(task, example, field, remedy)
        else:
            think = _guess(random.Random(derive_seed("guess", seed, number)), ramble=style == "ramble")
        written.append(Trace(example, think, example.answer, style))
    return written


def _guess(rng: random.Random, *, ramble: bool) -> str:
    return " ".join(rng.sample(GUESSES, rng.randint(1, _RAMBLES))) if ramble else rng.choice(GUESSES)


def _steps(task: TaskConfig, example: Example, field: str, remedy: str) -> str:
    item = example.metadata.get("reasoning_gym") or {}
    write = DERIVATIONS.get(item.get("dataset", ""))
    if write is None:
        raise UserError(
            f"{field}: no derivations are written for the questions of {item.get('dataset', task.name)}, "
            f"only for {', '.join(sorted(DERIVATIONS))}; {remedy}"
        )
    return write(item["entry"])


def _assign(styles: Mapping[str, float], count: int, seed: int) -> list[str]:
    """A style for each of `count` examples: exact shares by largest remainder, then shuffled."""
    for style, share in styles.items():
        if style not in STYLES:
            raise UserError(f"sft.styles.{style}: there is no such style; {nearest(style, STYLES)}")
        if not (math.isfinite(share) and share > 0):
            raise UserError(f"sft.styles.{style}: {share} is no share; give a number above 0 or remove it")
    total = math.fsum(styles.values())
    exact = {style: count * share / total for style, share in styles.items()}
    counts = {style: math.floor(value) for style, value in exact.items()}
    missing = count - sum(counts.values())
    for style in sorted(exact, key=lambda style: (counts[style] - exact[style], style))[:missing]:
        counts[style] += 1
    chosen = [style for style in sorted(counts) for _ in range(counts[style])]
    random.Random(derive_seed("styles", seed)).shuffle(chosen)
    return chosen
