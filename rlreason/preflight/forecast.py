"""How long a run will take, worked out from what a few tokens took."""

import math
from dataclasses import dataclass

from rlreason.config import RunConfig


@dataclass(frozen=True)
class Rates:
    """Seconds, measured: `prefill` of `width` prompts, `token` of one more token for each of them.

    `score` is of a completion, `update_fixed` of an optimizer step apart from its rows, `update_token` of
    each token in them. Without `token_exact`, `token` is an upper bound.
    """

    width: int
    prefill: float
    token: float
    score: float
    update_fixed: float
    update_token: float
    token_exact: bool = True


@dataclass(frozen=True)
class Lengths:
    """Tokens: of a prompt, a sampled completion, a row of `sft` on the mean; of an epoch over a step in all.

    Of the last two those that are computed: what rows begin with may count once.
    """

    prompt: float
    completion: float
    update: float
    traces: float
    trace_rows: int


@dataclass(frozen=True)
class Stage:
    """What a stage takes, in seconds, and its parts in words. `seconds` is None where it cannot be told."""

    name: str
    seconds: float | None
    parts: str


def forecast(config: RunConfig, rates: Rates, lengths: Lengths) -> list[Stage]:
    """Every stage of the config, evaluations with the stage that they belong to."""
    return [_stage(config, name, rates, lengths) for name in config.stages]


def total_seconds(stages: list[Stage]) -> float:
    """Of the stages that could be told."""
    return math.fsum(stage.seconds or 0.0 for stage in stages)


def sampling_seconds(rates: Rates, completions: int, mean_length: float) -> float:
    """Prompts and tokens of so many completions; fewer than `width` at a time take no less for each token."""
    rounds = completions / rates.width
    return rounds * rates.prefill + max(rounds, 1.0) * rates.token * mean_length


def _stage(config: RunConfig, name: str, rates: Rates, lengths: Lengths) -> Stage:
    if name == "sft":
        tokens = lengths.trace_rows * config.sft.epochs * lengths.traces
        updates = math.ceil(lengths.trace_rows / config.sft.batch_size) * config.sft.epochs
        seconds = tokens * rates.update_token + updates * rates.update_fixed
        rows = f"{lengths.trace_rows * config.sft.epochs:,} rows"
        return Stage(name, seconds, f"{rows}, {lengths.traces:.0f} tokens to compute for each")
    if name == "reward_model":
        return _reward_model(config, rates, lengths)
    if name == "pretrain":
        return Stage(name, None, "not told here: its text has not been read")
    return _online(config, rates, lengths)


def _reward_model(config: RunConfig, rates: Rates, lengths: Lengths) -> Stage:
    settings = config.reward_model
    if "rollouts" not in settings.pairs:
        return Stage("reward_model", None, "not told here: its pairs have not been read")
    sampled = (settings.questions + config.eval.questions) * settings.samples
    rows = 2 * settings.questions * settings.pairs_per_question * settings.epochs
    sampling = sampling_seconds(rates, sampled, lengths.completion) + sampled * rates.score
    learning = rows * (lengths.prompt + lengths.completion) * rates.update_token
    updates = rows / (2 * settings.batch_size) * rates.update_fixed
    return Stage(
        "reward_model", sampling + learning + updates, f"{sampled:,} completions, at most {rows:,} rows"
    )


def _online(config: RunConfig, rates: Rates, lengths: Lengths) -> Stage:
    online = config.online
    completions = online.prompts_per_step * online.group_size
    sample = sampling_seconds(rates, completions, lengths.completion)
    score = completions * rates.score
    update = online.epochs * (lengths.update * rates.update_token + online.minibatches * rates.update_fixed)
    step = sample + score + update
    asked = config.eval.questions * config.eval.samples
    times = 2 + (len(range(config.eval.every, online.steps, config.eval.every)) if config.eval.every else 0)
    evaluation = sampling_seconds(rates, asked, lengths.completion) + asked * rates.score
    parts = (
        f"{online.steps:,} steps of {step:.1f} s (sampling {sample:.1f}, scoring {score:.1f}, updating "
        f"{update:.1f}), {times} evaluations of {evaluation:.1f} s"
    )
    return Stage(config.online_stage, online.steps * step + times * evaluation, parts)
