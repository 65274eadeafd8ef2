"""Pairs out of sampled completions, ranked by the rule rewards of the config."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from rlreason.evaluation.asking import Asker
from rlreason.policy.chat import Renderer, render_all
from rlreason.policy.model import Policy
from rlreason.report.progress import Progress
from rlreason.rollout import build_engine, sampling_of
from rlreason.scoring import Scorer, rules_only
from rlreason.seeds import derive_seed
from rlreason.stages.context import RunContext
from rlreason.tasks import Pair
from rlreason.types import Example, Message


@dataclass(frozen=True)
class Ranked:
    """All completions of one question: what was said, what the rules pay, and whether it is right."""

    prompt: tuple[Message, ...]
    texts: list[str]
    rewards: list[float]
    marks: list[float]


def rollout_pairs(
    context: RunContext, policy: Policy, examples: Sequence[Example], part: str
) -> tuple[list[Pair], list[Ranked]]:
    """Sample completions of each question and pair those whose rewards differ, the better one first.

    At most `pairs_per_question` of each question, drawn by the run's seed. Completions on which the rewards
    abstain have no part.
    """
    config = context.config
    settings = config.reward_model
    ranked = _ranked(context, policy, examples, part)
    pairs: list[Pair] = []
    for number, one in enumerate(ranked):
        found = list(
            dict.fromkeys(
                (one.texts[a], one.texts[b])
                for a, b in permutations(range(len(one.texts)), 2)
                if one.rewards[a] > one.rewards[b] and one.texts[a].strip() and one.texts[b].strip()
            )
        )
        random.Random(derive_seed("pairs", config.seed, part, number)).shuffle(found)
        pairs += [Pair(one.prompt, *sides) for sides in found[: settings.pairs_per_question]]
    return pairs, ranked


def _ranked(context: RunContext, policy: Policy, examples: Sequence[Example], part: str) -> list[Ranked]:
    config = context.config
    renderer = Renderer(policy.tokenizer, prompt_format=config.prompt.format, system=config.prompt.system)
    prompts, _ = render_all(renderer, examples, max_tokens=config.prompt.max_tokens)
    engine, _ = build_engine(policy, config.rollout)
    seeds = [
        [derive_seed("pairs", config.seed, part, place, n) for n in range(config.reward_model.samples)]
        for place in range(len(prompts))
    ]
    with Scorer(rules_only(config)) as scorer:
        asker = Asker(engine, renderer, policy.eos_ids, scorer)
        told = Progress(context.view.note, f"completions of {part} questions", sum(map(len, seeds)))
        groups = asker.ask(prompts, seeds, sampling_of(config.rollout), told)
        main = scorer.main
    found = []
    for prompt, group in zip(prompts, groups, strict=True):
        kept = [one for one in group if one.score.total is not None]
        if kept:
            found.append(
                Ranked(
                    tuple(prompt.example.prompt),
                    [prompt.prefill + one.text for one in kept],
                    [float(one.score.total or 0.0) for one in kept],
                    [float(one.score.parts[main].value or 0.0) for one in kept],
                )
            )
    return found
