"""Pairs out of sampled completions, ranked by the rule rewards of the config."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from rlreason.policy.chat import Renderer, render_all
from rlreason.policy.model import Policy
from rlreason.rollout import Request, Sampling, build_engine
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
    rollout, count = config.rollout, config.reward_model.samples
    engine, _ = build_engine(policy, rollout)
    seeds = [
        tuple(derive_seed("pairs", config.seed, part, place, number) for number in range(count))
        for place in range(len(prompts))
    ]
    sampling = Sampling(
        rollout.max_new_tokens, rollout.temperature, rollout.top_p, rollout.top_k, rollout.min_p
    )
    requests = [Request(prompt.ids, each) for prompt, each in zip(prompts, seeds, strict=True)]
    groups = engine.generate(requests, sampling)
    asked = [(prompt, one) for prompt, group in zip(prompts, groups, strict=True) for one in group]
    texts = [renderer.decode(one.completion_ids, policy.eos_ids) for _, one in asked]
    with Scorer(rules_only(config)) as scorer:
        scores = scorer.score(
            [prompt.example for prompt, _ in asked],
            texts,
            [prompt.prefill for prompt, _ in asked],
            [one.completion_ids for _, one in asked],
        )
        scorer.check(scores)
        main = scorer.main
    found = []
    for place, prompt in enumerate(prompts):
        rows = range(place * count, (place + 1) * count)
        kept = [row for row in rows if scores[row].total is not None]
        if kept:
            found.append(
                Ranked(
                    tuple(prompt.example.prompt),
                    [prompt.prefill + texts[row] for row in kept],
                    [float(scores[row].total or 0.0) for row in kept],
                    [float(scores[row].parts[main].value or 0.0) for row in kept],
                )
            )
    return found
