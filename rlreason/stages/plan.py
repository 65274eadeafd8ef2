"""The plan that is shown before a stage starts: what will happen, and the loss written out."""

from collections.abc import Mapping, Sequence

from rlreason.config import RunConfig
from rlreason.policy.chat import RenderedPrompt
from rlreason.policy.model import Policy
from rlreason.report.terminal import Plan


def grpo_plan(
    config: RunConfig,
    policy: Policy,
    engine: str,
    train: Sequence[RenderedPrompt],
    held_out: Sequence[RenderedPrompt],
    isolated: Mapping[str, float],
) -> Plan:
    """The resolved arithmetic of the GRPO stage.

    `isolated` are the rewards that run in worker processes, with their time budgets in seconds.
    """
    grpo, rollout = config.grpo, config.rollout
    completions = grpo.prompts_per_step * grpo.group_size
    trainable = sum(p.numel() for p in policy.trainable().values())
    total = sum(p.numel() for p in policy.model.parameters())
    lengths = sorted(len(prompt.ids) for prompt in train)
    passes = grpo.steps * grpo.prompts_per_step / len(train)
    rows = [
        ("task", f"{config.task.name} ({config.task.source})"),
        ("model", f"{trainable / 1e6:,.1f} of {total / 1e6:,.1f} million parameters train, "
                  f"products in {str(policy.dtype).removeprefix('torch.')}"),
        ("sampler", engine),
        ("questions", f"{len(train)} to train on ({passes:.2f} passes), {len(held_out)} held out"),
        ("prompts", f"{lengths[len(lengths) // 2]} tokens at the median, {lengths[-1]} at most"),
        ("a step", f"{grpo.prompts_per_step} prompts x {grpo.group_size} completions = {completions}, "
                   f"at most {completions * rollout.max_new_tokens:,} new tokens"),
        ("in all", f"{grpo.steps} steps, {grpo.steps * completions:,} completions, "
                   f"{grpo.steps * grpo.epochs * grpo.minibatches} optimizer steps"),
        ("reward", reward_formula(config)),
        ("advantage", advantage_formula(config)),
    ]  # fmt: skip
    if isolated:
        budgets = ", ".join(f"{name} (at most {seconds:g} s)" for name, seconds in isolated.items())
        rows.append(("workers", f"in processes of their own: {budgets}"))
    if rollout.top_p < 1 or rollout.top_k or rollout.min_p:
        rows.append(
            ("warning", "top_p, top_k or min_p cut the sampler's distribution; the loss assumes all of it")
        )
    return Plan(name=f"{config.name} · GRPO", rows=rows, loss=loss_formula(config))


def reward_formula(config: RunConfig) -> str:
    """The rubric in one line, such as `1 accuracy [if think_format] + 0.1 think_format`."""
    terms = []
    for name, term in config.rewards.items():
        gate = f" [if {term.gate}]" if term.gate else ""
        value = f"clip({name}, {term.clip[0]:g}, {term.clip[1]:g})" if term.clip else name
        terms.append(f"{term.weight:g} {value}{gate}")
    grpo = config.grpo
    if grpo.overlong_buffer:
        terms.append(f"{grpo.overlong_weight:g} overlong(last {grpo.overlong_buffer} tokens)")
    text = " + ".join(terms)
    if grpo.kl.coef and grpo.kl.where == "reward":
        text += f" - {grpo.kl.coef:g} KL_{grpo.kl.estimator}(policy || {grpo.kl.reference})"
    return text


def advantage_formula(config: RunConfig) -> str:
    """How a reward becomes an advantage."""
    grpo = config.grpo
    if grpo.combine == "gdpo":
        return (
            "(sum over the terms of the reward of weight x (value - mean of the group) / (std of the group + "
            "1e-4)) / (std of these sums in the batch + 1e-4)"
        )
    baseline = "mean of the others in the group" if grpo.baseline == "leave_one_out" else "mean of the group"
    scale = {"none": "", "group": ", / (std of the group + 1e-4)", "batch": ", / (std of the batch + 1e-4)"}
    return f"reward - {baseline}{scale[grpo.advantage_scale]}"


def loss_formula(config: RunConfig) -> str:
    """The loss with every constant in it."""
    grpo = config.grpo
    divisor = {
        "grpo": "mean over completions of the mean over their tokens",
        "dr_grpo": f"sum over tokens / (completions x {config.rollout.max_new_tokens})",
        "bnpo": "sum over tokens / tokens of the optimizer step",
        "dapo": "sum over tokens / tokens of the step",
        "cispo": "sum over tokens / tokens of the step",
    }[grpo.loss]
    ratio = "r" if grpo.ratio == "token" else "r_sequence"
    if grpo.loss == "cispo":
        term = f"-stop_gradient(min({ratio}, {1 + grpo.clip_high:g})) A log p"
    else:
        term = f"-min({ratio} A, clip({ratio}, {1 - grpo.clip_low:g}, {1 + grpo.clip_high:g}) A)"
        if grpo.dual_clip is not None:
            term += f", at most {grpo.dual_clip:g} |A| where A < 0"
    if grpo.sampler_correction is not None:
        term = f"min(p_trainer / p_sampler, {grpo.sampler_correction:g}) x [{term}]"
    if grpo.kl.coef and grpo.kl.where == "loss":
        term += f" + {grpo.kl.coef:g} KL_{grpo.kl.estimator}(policy || {grpo.kl.reference})"
    masked = "; truncated completions left out" if grpo.mask_truncated else ""
    return f"{grpo.loss}: {divisor} of {term}{masked}"
