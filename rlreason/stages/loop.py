"""The loop of the stages that learn from the model's own completions: `grpo` and `ppo`.

It is `train_online`, and it reads: sample, score, advantage, update, record. How a reward becomes an
advantage is all that the stages differ in; each is a `Method`, in `rlreason.stages.grpo` and
`rlreason.stages.ppo`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import gather_object

from rlreason.algorithms import overlong_penalty
from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.evaluation.evaluator import Evaluation
from rlreason.rollout.probe import stale
from rlreason.scoring import failures
from rlreason.stages.clock import Clock
from rlreason.stages.collect import Sample, greedy_of
from rlreason.stages.context import RunContext
from rlreason.stages.guards import check_ends
from rlreason.stages.interrupt import Interrupts
from rlreason.stages.loop_setup import OnlineSetup, evaluate, is_best, prepare, save_checkpoint
from rlreason.stages.record import sample_records, step_record
from rlreason.stages.update import UpdateResult

# How far the ratio may be from 1 in the first pass, in float32 and in half precision: two passes that are
# packed differently round differently.
_RATIO_ALLOWED, _RATIO_ALLOWED_HALF = 1e-3, 0.2
# Steps between two checks of the sampler's weights.
_SYNC_EVERY = 25


class Method:
    """What a stage makes of rewards. `state` is kept in checkpoints and given back by `restore`."""

    rounds: int = 0
    """Further rounds of sampling in a step, to replace groups that are not `informative`."""

    greedy: bool = False
    """Whether each prompt is also completed greedily: `Sample.greedy`, which is scored, never trained on."""

    def informative(self, samples: Sequence[Sample]) -> list[bool]:
        """Whether each sample's group can teach something; asked only where there are `rounds`."""
        return [True] * len(samples)

    def select(self, samples: Sequence[Sample]) -> list[Sample]:
        """The samples to learn from; the others are marked as not `learned`."""
        return list(samples)

    def advantage(self, setup: OnlineSetup, samples: Sequence[Sample]) -> dict[str, float | None]:
        """Fill in each sample's advantage, and return what was measured. An abstention has no part in it."""
        raise NotImplementedError

    def signal(self, samples: Sequence[Sample]) -> float:
        """The share of the step's groups whose rewards teach something, in [0, 1]; 0 is a step in vain.

        Asked after `advantage`. KL has no part in it.
        """
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


def train_online(context: RunContext, method: Method) -> None:
    """Run the stage to its last step; afterwards `context.start` is the trained model's directory."""
    setup = prepare(context, method)
    clock = Clock()
    with Interrupts() as interrupts:
        while setup.step < context.config.online.steps and not requested(context, interrupts):
            clock.start()
            step = setup.step + 1
            samples, drawn = sample_and_score(context, setup, step, clock)
            learned = method.select(samples)
            measured = method.advantage(setup, learned)
            clock.lap("advantage")
            setup.engine.release()  # the update needs the room, and leaves other weights
            result = setup.updater.update(learned, step)
            setup.engine.refresh()
            check_update(context, setup, step, result)
            clock.lap("update")
            setup.step = step
            record(context, setup, samples, drawn, result, measured, clock)
        if requested(context, interrupts):
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
    context: RunContext, setup: OnlineSetup, step: int, clock: Clock
) -> tuple[list[Sample], list[Sample]]:
    """Draw and score the step's groups; every process returns those of all processes.

    Returns the samples of the step, and all that were drawn for them, greedy ones among them. With dynamic
    sampling (DAPO, arXiv 2503.14476, section 3.2) groups that are not `informative` are replaced from further
    questions, for at most `rounds` rounds; what is still without signal then fills the step up. Raises
    UserError if a reward has failed on too many of the completions.
    """
    config, method = context.config.online, setup.method
    kept: list[Sample] = []
    spare: list[Sample] = []
    drawn: list[Sample] = []
    for round_number in range(method.rounds + 1):
        missing = config.prompts_per_step - len({sample.group for sample in kept})
        if missing == 0:
            break
        first = round_number * config.prompts_per_step
        fresh = draw(context, setup, step, first, missing, clock)
        drawn += fresh
        if method.rounds == 0:
            kept = fresh
            break
        flags = method.informative(fresh)
        with_signal = {sample.group for sample, flag in zip(fresh, flags, strict=True) if flag}
        kept += [sample for sample in fresh if sample.group in with_signal]
        spare += [sample for sample in fresh if sample.group not in with_signal]
    missing = config.prompts_per_step - len({sample.group for sample in kept})
    fill = sorted({sample.group for sample in spare})[:missing]
    drawn += greedy_of(drawn)
    context.scorer.check([sample.score for sample in drawn])
    check_ends([sample.rollout for sample in drawn], setup.policy.eos_ids)
    return kept + [sample for sample in spare if sample.group in fill], drawn


def draw(
    context: RunContext, setup: OnlineSetup, step: int, first_group: int, count: int, clock: Clock
) -> list[Sample]:
    """Sample and score `count` further prompts, shared out over the processes."""
    accelerator = context.accelerator
    numbered = list(enumerate(setup.stream.take(count), start=first_group))
    share = numbered[accelerator.process_index :: accelerator.num_processes]
    drawn = setup.collector.sample(share, step=step)
    greedy = setup.collector.greedy(share) if setup.method.greedy else []
    clock.lap("sample")
    scored = setup.collector.score(drawn + greedy) if drawn else []
    apply_overlong(context, scored)
    scored, compared = scored[: len(drawn)], {s.group: s for s in scored[len(drawn) :]}
    for sample in scored:
        sample.greedy = compared.get(sample.group)
    if accelerator.num_processes > 1:
        scored = sorted(gather_object(scored), key=lambda sample: sample.group)
    clock.lap("score")
    return scored


def apply_overlong(context: RunContext, samples: list[Sample]) -> None:
    """Soft overlong punishment (DAPO, eq. 13), and masking of truncated completions."""
    config = context.config
    for sample in samples:
        if config.online.mask_truncated and sample.truncated:
            sample.reward = None
        if config.online.overlong_buffer and sample.reward is not None:
            sample.reward += config.online.overlong_weight * overlong(config, sample)


def overlong(config: RunConfig, sample: Sample) -> float:
    """The punishment of a sample, in [-1, 0]."""
    length = torch.tensor([len(sample.rollout.completion_ids)])
    limit, buffer = config.rollout.max_new_tokens, config.online.overlong_buffer
    return float(overlong_penalty(length, max_new_tokens=limit, buffer=buffer))


def rewards_and_groups(samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards and group numbers, one a sample; NaN is an abstention."""
    rewards = [math.nan if sample.reward is None else sample.reward for sample in samples]
    return torch.tensor(rewards, dtype=torch.float64), torch.tensor([sample.group for sample in samples])


# ---------------------------------------------------------------------- update


def check_update(context: RunContext, setup: OnlineSetup, step: int, result: UpdateResult) -> None:
    """The ratio was 1 before the first change to the weights, and the sampler has the weights after the last.

    The second is asked in the first step of a process and then every so many, as it copies all weights once.
    Raises UserError if the sampler has other weights than the policy.
    """
    first = result.first_ratio_deviation
    deviation = 0.0 if first is None else float(first)
    allowed = _RATIO_ALLOWED if setup.policy.dtype == torch.float32 else _RATIO_ALLOWED_HALF
    if deviation > allowed and "ratio" not in setup.told:
        setup.told.add("ratio")
        context.view.note(
            f"warning: step {step}: the ratio of the first pass is up to {deviation:.2g} away from 1, though "
            "no weight had changed: two passes over the same tokens disagree (dropout, or a kernel that "
            "depends on the batch); what is clipped and weighed by the ratio is then not what it says"
        )
    if "sampler" in setup.told and step % _SYNC_EVERY:
        return
    setup.told.add("sampler")
    wrong = stale(setup.engine, setup.policy)
    if wrong is not None:
        raise UserError(
            f"step {step}: after the update the sampler has not the weights of the policy: {wrong}. The "
            "completions to come would be another model's. Set rollout.engine=transformers, and start a new "
            "run; please report this"
        )


# ---------------------------------------------------------------------- record


def record(
    context: RunContext,
    setup: OnlineSetup,
    samples: list[Sample],
    drawn: list[Sample],
    result: UpdateResult,
    measured: dict[str, float | None],
    clock: Clock,
) -> None:
    """Write and show the step; save and evaluate when it is time; stop a run that gets no signal."""
    config, settings = context.config, context.config.online
    signal = setup.method.signal(samples)
    numbers = {"informative": signal, **result.record(), **measured}
    line = step_record(config, setup.step, samples, drawn, numbers, main=context.scorer.main)
    setup.without_signal = 0 if signal else setup.without_signal + 1
    told = setup.doctor.step(line)
    line["findings"] = [finding.rule.name for finding in setup.doctor.standing()]
    clock.lap("record")
    line["time"] = clock.finish(tokens=line["tokens"], steps_left=settings.steps - setup.step)
    context.run.append_samples(sample_records(config.online_stage, setup.step, samples))
    context.record(line)
    context.view.step(line)
    for text in told:
        context.view.note(text)
    tell_failures(context, setup, drawn)
    if config.log.sample_every and setup.step % config.log.sample_every == 0:
        show_sample(context, setup.step, samples)
    best = False
    if config.eval.every and setup.step % config.eval.every == 0 and setup.step < settings.steps:
        best = is_best(setup, evaluate(context, setup, f"step-{setup.step:06d}"))
    every = config.log.checkpoint_every
    due = bool(every) and setup.step // every > setup.saved // every
    # While updates are left out the weights may be what breaks them; those saved before may be good ones.
    sound = setup.updater.guard.in_a_row == 0
    if best or setup.step == settings.steps or (due and sound):
        save_checkpoint(context, setup)
    limit = settings.stop_after_uninformative
    if limit and setup.without_signal >= limit:
        raise UserError(
            f"{config.online_stage}.stop_after_uninformative: {limit} steps in a row had no group with "
            f"different rewards, so nothing can be learned: {setup.doctor.why_no_signal(limit)}"
        )


def tell_failures(context: RunContext, setup: OnlineSetup, drawn: list[Sample]) -> None:
    """Say once in a stage of each reward that has failed, and how; the counts go on in the metrics."""
    for name, failed in failures([sample.score for sample in drawn]).items():
        if f"{name} failed" not in setup.told:
            setup.told.add(f"{name} failed")
            context.view.note(
                f"reward {name} failed on {len(failed)} of {len(drawn)} completions: {failed[0].reason}"
            )


def show_sample(context: RunContext, step: int, samples: list[Sample]) -> None:
    """Show the first sample of the first group that has signal, or of the first group."""
    shown = next((s for s in samples if s.advantage > 0), samples[0])
    scores = {name: (part.value, part.reason) for name, part in shown.score.parts.items()}
    text = shown.prompt.prefill + shown.text
    question = shown.prompt.example.question
    context.view.sample(question, text, scores, shown.advantage if shown.learned else None)
    if context.config.log.track_samples:
        context.trackers.sample(context.config.online_stage, step, f"{question}\n\n{text}")


def finish(context: RunContext, setup: OnlineSetup) -> None:
    """Save the model, then measure it on the held-out questions."""
    context.start = context.run.save_directory("model", setup.policy.save)
    context.after = evaluate(context, setup, "after")
    if setup.best is not None:
        context.view.note(_best_line(context, setup.best, context.after))
    if standing := setup.doctor.standing():
        found = "; ".join(f"{one.rule.title} ({one.level}, since step {one.since})" for one in standing)
        context.view.note(
            f"the doctor at the end: {found}. More: python -m rlreason doctor {context.run.root}"
        )


def _best_line(context: RunContext, best: dict[str, Any], after: Evaluation) -> str:
    """Which checkpoint did best. Chosen by the questions it is measured on, it is flattered by its number."""
    path = context.run.checkpoint_path(best["step"])
    return (
        f"best held-out accuracy while training: {best['accuracy']:.1%} after step {best['step']} "
        f"({path}); after the last step: {after.summary['accuracy']:.1%}"
    )
