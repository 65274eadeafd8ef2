"""Stage `grpo`: group-relative policy optimisation (arXiv 2402.03300) and its relatives.

The loop is `train_grpo`, and it reads: sample, score, advantage, update, record.
"""

import math

import torch
from accelerate.utils import gather_object

from rlreason.algorithms import (
    decoupled_rewards,
    gdpo_advantages,
    group_advantages,
    informative,
    overlong_penalty,
)
from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.scoring import failures
from rlreason.stages.clock import Clock
from rlreason.stages.collect import Sample
from rlreason.stages.context import RunContext
from rlreason.stages.grpo_setup import GrpoSetup, evaluate, prepare, save_checkpoint
from rlreason.stages.interrupt import Interrupts
from rlreason.stages.record import sample_records, step_record
from rlreason.stages.update import UpdateResult


def train_grpo(context: RunContext) -> None:
    """Run the stage to its last step; afterwards `context.start` is the trained model's directory."""
    setup = prepare(context)
    clock = Clock()
    with Interrupts() as interrupts:
        while setup.step < context.config.grpo.steps and not requested(context, interrupts):
            clock.start()
            step = setup.step + 1
            samples, drawn = sample_and_score(context, setup, step, clock)
            advantage(context, setup, samples)
            clock.lap("advantage")
            result = setup.updater.update(samples, step)
            setup.engine.refresh()
            clock.lap("update")
            setup.step = step
            record(context, setup, samples, drawn, result, clock)
    if setup.step < context.config.grpo.steps:
        save_checkpoint(context, setup)
        raise KeyboardInterrupt(interrupts.requested)
    finish(context, setup)


def requested(context: RunContext, interrupts: Interrupts) -> bool:
    """Whether any process was asked to stop: all must leave the loop at the same step."""
    if context.accelerator.num_processes == 1:
        return interrupts.requested is not None
    return any(gather_object([interrupts.requested is not None]))


# ---------------------------------------------------------------------- sample, score


def sample_and_score(
    context: RunContext, setup: GrpoSetup, step: int, clock: Clock
) -> tuple[list[Sample], list[Sample]]:
    """Draw and score the step's groups; every process returns those of all processes.

    Returns the samples to learn from, and all that were drawn for them. With dynamic sampling (DAPO, arXiv
    2503.14476, section 3.2) groups whose rewards are all equal are replaced from further questions, for at
    most `dynamic_sampling` rounds; what is still without signal then fills the step up. Raises UserError
    if a reward has failed on too many of the completions.
    """
    config = context.config.grpo
    kept: list[Sample] = []
    spare: list[Sample] = []
    drawn: list[Sample] = []
    for round_number in range(config.dynamic_sampling + 1):
        missing = config.prompts_per_step - len({sample.group for sample in kept})
        if missing == 0:
            break
        first = round_number * config.prompts_per_step
        fresh = draw(context, setup, step, first, missing, clock)
        drawn += fresh
        if config.dynamic_sampling == 0:
            kept = fresh
            break
        flags = informative(*_comparable(context.config, fresh)).tolist()
        with_signal = {sample.group for sample, flag in zip(fresh, flags, strict=True) if flag}
        kept += [sample for sample in fresh if sample.group in with_signal]
        spare += [sample for sample in fresh if sample.group not in with_signal]
    missing = config.prompts_per_step - len({sample.group for sample in kept})
    fill = sorted({sample.group for sample in spare})[:missing]
    context.scorer.check([sample.score for sample in drawn])
    return kept + [sample for sample in spare if sample.group in fill], drawn


def draw(
    context: RunContext, setup: GrpoSetup, step: int, first_group: int, count: int, clock: Clock
) -> list[Sample]:
    """Sample and score `count` further prompts, shared out over the processes."""
    accelerator = context.accelerator
    numbered = list(enumerate(setup.stream.take(count), start=first_group))
    share = numbered[accelerator.process_index :: accelerator.num_processes]
    drawn = setup.collector.sample(share, step=step)
    clock.lap("sample")
    scored = setup.collector.score(drawn) if drawn else []
    apply_overlong(context, scored)
    if accelerator.num_processes > 1:
        scored = sorted(gather_object(scored), key=lambda sample: sample.group)
    clock.lap("score")
    return scored


def apply_overlong(context: RunContext, samples: list[Sample]) -> None:
    """Soft overlong punishment (DAPO, eq. 13), and masking of truncated completions."""
    config = context.config
    for sample in samples:
        if config.grpo.mask_truncated and sample.truncated:
            sample.reward = None
        if config.grpo.overlong_buffer and sample.reward is not None:
            sample.reward += config.grpo.overlong_weight * _overlong(config, sample)


def _overlong(config: RunConfig, sample: Sample) -> float:
    """The punishment of a sample, in [-1, 0]."""
    length = torch.tensor([len(sample.rollout.completion_ids)])
    limit, buffer = config.rollout.max_new_tokens, config.grpo.overlong_buffer
    return float(overlong_penalty(length, max_new_tokens=limit, buffer=buffer))


def _rewards_and_groups(samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards and group numbers, one a sample; NaN is an abstention."""
    rewards = [math.nan if sample.reward is None else sample.reward for sample in samples]
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor([sample.group for sample in samples])


def _terms(config: RunConfig, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """For GDPO: what each term of the reward counted, (B, K), NaN for abstentions, and weights, (K,)."""
    weights = {name: term.weight for name, term in config.rewards.items() if term.weight != 0}
    rows: list[list[float | None]] = []
    for sample in samples:
        row = [sample.score.counted[name] for name in weights]
        if config.grpo.overlong_buffer:
            row.append(_overlong(config, sample))
        rows.append([None] * len(row) if sample.reward is None else row)
    values = [[math.nan if value is None else value for value in row] for row in rows]
    factors = list(weights.values()) + [config.grpo.overlong_weight] * bool(config.grpo.overlong_buffer)
    return torch.tensor(values, dtype=torch.float64), torch.tensor(factors, dtype=torch.float64)


def _comparable(config: RunConfig, samples: list[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the completions of a group are compared by, and group numbers."""
    rewards_B, group_B = _rewards_and_groups(samples)
    if config.grpo.combine == "gdpo":
        values_BK, weights_K = _terms(config, samples)
        rewards_B = decoupled_rewards(values_BK, group_B, weights_K=weights_K)
    return rewards_B, group_B


# ---------------------------------------------------------------------- advantage


def advantage(context: RunContext, setup: GrpoSetup, samples: list[Sample]) -> None:
    """Fill in each sample's advantage, relative to its group; an abstention is left out of both."""
    config = context.config.grpo
    setup.updater.penalize_kl(samples)
    rewards_B, group_B = _rewards_and_groups(samples)
    if config.combine == "gdpo":
        values_BK, weights_K = _terms(context.config, samples)
        advantages = gdpo_advantages(values_BK, group_B, weights_K=weights_K)
    else:
        advantages = group_advantages(
            rewards_B, group_B, baseline=config.baseline, scale=config.advantage_scale
        )
    for sample, value in zip(samples, advantages.tolist(), strict=True):
        sample.advantage = value


# ---------------------------------------------------------------------- record


def record(
    context: RunContext,
    setup: GrpoSetup,
    samples: list[Sample],
    drawn: list[Sample],
    result: UpdateResult,
    clock: Clock,
) -> None:
    """Write and show the step; save and evaluate when it is time; stop a run that gets no signal."""
    config = context.config
    line = step_record(config, setup.step, samples, drawn, result, main=context.scorer.main)
    setup.without_signal = 0 if line["informative"] else setup.without_signal + 1
    clock.lap("record")
    line["time"] = clock.finish(tokens=line["tokens"], steps_left=config.grpo.steps - setup.step)
    context.run.append_samples(sample_records(setup.step, samples))
    context.run.append_metrics(line)
    context.view.step(line)
    tell_failures(context, setup, drawn)
    if config.log.sample_every and setup.step % config.log.sample_every == 0:
        show_sample(context, samples)
    if config.eval.every and setup.step % config.eval.every == 0 and setup.step < config.grpo.steps:
        evaluate(context, setup, f"step-{setup.step:06d}")
    every = config.log.checkpoint_every
    if setup.step == config.grpo.steps or (every and setup.step % every == 0):
        save_checkpoint(context, setup)
    limit = config.grpo.stop_after_uninformative
    if limit and setup.without_signal >= limit:
        raise UserError(no_signal_text(limit, samples))


def tell_failures(context: RunContext, setup: GrpoSetup, drawn: list[Sample]) -> None:
    """Say once in a stage of each reward that has failed, and how; the counts go on in the metrics."""
    for name, failed in failures([sample.score for sample in drawn]).items():
        if name not in setup.told:
            setup.told.add(name)
            context.view.note(
                f"reward {name} failed on {len(failed)} of {len(drawn)} completions: {failed[0].reason}"
            )


def show_sample(context: RunContext, samples: list[Sample]) -> None:
    """Show the first sample of the first group that has signal, or of the first group."""
    shown = next((s for s in samples if s.advantage > 0), samples[0])
    scores = {name: (part.value, part.reason) for name, part in shown.score.parts.items()}
    text = shown.prompt.prefill + shown.text
    context.view.sample(shown.prompt.example.question, text, scores, shown.advantage)


def no_signal_text(limit: int, samples: list[Sample]) -> str:
    """Name the likely cause of a run without signal, and the remedy."""
    truncated = sum(s.truncated for s in samples) / len(samples)
    best = max((s.reward for s in samples if s.reward is not None), default=None)
    if truncated > 0.5:
        cause = f"{truncated:.0%} of the completions are cut off: raise rollout.max_new_tokens"
    elif best is None:
        cause = "every reward abstains: check the gold answers and task.answer_type"
    elif best <= 0:
        cause = (
            "no completion earns anything: take easier questions, larger groups, or a cold start (stage sft)"
        )
    else:
        cause = "all completions of a question earn the same: take harder questions or larger groups"
    return (
        f"grpo.stop_after_uninformative: {limit} steps in a row had no group with different rewards, so "
        f"nothing can be learned; {cause}"
    )


def finish(context: RunContext, setup: GrpoSetup) -> None:
    """Save the model, then measure it on the held-out questions."""
    context.start = context.run.save_directory("model", setup.policy.save)
    context.after = evaluate(context, setup, "after")
