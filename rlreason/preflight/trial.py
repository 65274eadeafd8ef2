"""A few completions and updates by the run's own parts: how long they are, and how long they take.

The policy that is updated here is thrown away.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from rlreason.policy.chat import RenderedPrompt
from rlreason.preflight.forecast import Rates
from rlreason.rollout import Request, sequences_at_once
from rlreason.seeds import derive_seed
from rlreason.stages.collect import Sample
from rlreason.stages.context import RunContext
from rlreason.stages.loop_setup import OnlineSetup

COMPLETIONS = 16
"""Completions to sample in full, at least, in whole groups."""

SECONDS = 60.0
"""Longest time to sample them in; where it does not reach, they are cut off earlier and that is told."""

# Tokens of the two runs that tell a token's time from a prompt's. On a GPU both are long enough to have its
# steps recorded.
_FEW_AND_MORE, _ON_GPU = (2, 10), (18, 82)


@dataclass(frozen=True)
class Trial:
    """`limit` is where completions were cut off here, at most `rollout.max_new_tokens`."""

    samples: list[Sample]
    limit: int
    rates: Rates

    @property
    def lengths(self) -> list[int]:
        return [len(sample.rollout.completion_ids) for sample in self.samples]

    @property
    def cut_off(self) -> float:
        return sum(sample.truncated for sample in self.samples) / len(self.samples)


def try_out(
    context: RunContext, setup: OnlineSetup, prompts: Sequence[RenderedPrompt], tell: Callable[[str], None]
) -> Trial:
    """Sample, score and update a little. Raises UserError where a step of the run would."""
    online, limit = context.config.online, context.config.rollout.max_new_tokens
    tell("measuring the sampler ...")
    width, prefill, token, exact = _sampler_speed(context, setup, prompts)
    groups = min(max(1, -(-COMPLETIONS // online.group_size)), len(prompts))
    reach = min(limit, max(1, int(SECONDS / max(token, 1e-9))))
    tell(f"sampling {groups * online.group_size} completions ...")
    collector = replace(setup.collector, sampling=replace(setup.collector.sampling, max_new_tokens=reach))
    drawn = collector.sample(list(enumerate(prompts[:groups])), step=0)
    started = time.perf_counter()
    samples = collector.score(drawn)
    score = (time.perf_counter() - started) / len(samples)
    context.scorer.check([sample.score for sample in samples])
    tell("measuring an update ...")
    fixed, each = _update_speed(context, setup, samples)
    return Trial(samples, reach, Rates(width, prefill, token, score, fixed, each, token_exact=exact))


def _sampler_speed(
    context: RunContext, setup: OnlineSetup, prompts: Sequence[RenderedPrompt]
) -> tuple[int, float, float, bool]:
    """Sequences side by side, and what `apart` says of the seconds that two lengths of them took."""
    online, rollout = context.config.online, context.config.rollout
    at_once = sequences_at_once(rollout.max_sequences, setup.policy.device)
    width = min(at_once, online.prompts_per_step * online.group_size)
    requests = []
    for number in range(-(-width // online.group_size)):
        seeds = tuple(derive_seed("speed", number, place) for place in range(online.group_size))
        left = width - number * online.group_size
        requests.append(Request(prompts[number % len(prompts)].ids, seeds[:left]))
    on_gpu = setup.policy.device.type == "cuda"
    few, more = (min(count, rollout.max_new_tokens) for count in (_ON_GPU if on_gpu else _FEW_AND_MORE))

    def sample(asked: Sequence[Request], count: int) -> None:
        setup.engine.generate(asked, replace(setup.collector.sampling, max_new_tokens=count))

    # The first is warm-up, of which kernels of a GPU need as much as there is to measure.
    sample(*((requests, few) if on_gpu else (requests[:1], 1)))
    short, long = (_timed(partial(sample, requests, count)) for count in (few, more))
    return width, *apart((few, more), (short, long))


def apart(counts: tuple[int, int], seconds: tuple[float, float]) -> tuple[float, float, bool]:
    """Seconds for the prompts and for one more token of each sequence, from two runs of a few tokens.

    The last is whether they could be told apart. Where the longer run took no longer than the shorter one,
    a token's time is an upper bound: all of the longer run over its tokens.
    """
    (few, more), (short, long) = counts, seconds
    exact = more > few and long > short
    token = (long - short) / (more - few) if exact else long / more
    # The first token comes with the prompt.
    return max(short - token * (few - 1), 0.0), token, exact


def _update_speed(context: RunContext, setup: OnlineSetup, samples: list[Sample]) -> tuple[float, float]:
    """Seconds of an optimizer step apart from its rows, and for each token in them."""
    samples = setup.method.select(samples)
    setup.method.advantage(setup, samples)
    groups: dict[int, list[Sample]] = {}
    for place, sample in enumerate(samples):
        groups.setdefault(sample.group, []).append(sample)
        if sample.tokens is None and sample.token_advantages is None:
            # One that teaches nothing would be left out, and cost nothing.
            sample.advantage = sample.advantage or (1.0 if place % 2 else -1.0)
    online = context.config.online
    step = getattr(getattr(online, "critic", None), "warmup_steps", 0) + 1
    steps = online.epochs * online.minibatches
    first = next(iter(groups.values()))
    setup.updater.update(first, step)  # the first makes the moments
    small = _timed(lambda: setup.updater.update(first, step))
    tokens = [
        setup.updater.tokens([one.sequence for one in part]) * online.epochs for part in (first, samples)
    ]
    if len(groups) == 1:
        return 0.0, small / max(1, tokens[0])
    large = _timed(lambda: setup.updater.update(samples, step))
    if large <= small:  # the clock is too coarse, or the machine too busy, to tell them apart
        return 0.0, large / max(1, tokens[1])
    each = (large - small) / max(1, tokens[1] - tokens[0])
    return max(small - each * tokens[0], 0.0) / steps, each


def _timed(work: Callable[[], object]) -> float:
    _wait()
    started = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - started


def _wait() -> None:
    """Until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
