"""The plan that is shown before a stage starts: what will happen, and the loss written out."""

from collections.abc import Mapping, Sequence

from rewards.pool import cores
from rlreason.config import RunConfig
from rlreason.memory import Prompts, estimate_online, machine, shape_of, summary_text
from rlreason.policy.chat import RenderedPrompt
from rlreason.policy.model import Policy
from rlreason.policy.tokens import in_short
from rlreason.report.terminal import Plan


def online_plan(
    config: RunConfig,
    policy: Policy,
    engine: str,
    train: Sequence[RenderedPrompt],
    held_out: Sequence[RenderedPrompt],
    isolated: Mapping[str, float],
) -> Plan:
    """The resolved arithmetic of the stage that learns from its own completions.

    `isolated` are the rewards that run in worker processes, with their time budgets in seconds.
    """
    online, rollout = config.online, config.rollout
    completions = online.prompts_per_step * online.group_size
    greedy = online.prompts_per_step if _greedy(config) else 0
    beside = f" and {greedy} greedy ones" if greedy else ""
    trainable = sum(p.numel() for p in policy.trainable().values())
    total = sum(p.numel() for p in policy.model.parameters())
    lengths = sorted(len(prompt.ids) for prompt in train)
    passes = online.steps * online.prompts_per_step / len(train)
    rows = [
        ("task", f"{config.task.name} ({config.task.source})"),
        ("model", f"{trainable / 1e6:,.1f} of {total / 1e6:,.1f} million parameters train, "
                  f"products in {str(policy.dtype).removeprefix('torch.')}"),
        ("sampler", engine),
        ("questions", f"{len(train)} to train on ({passes:.2f} passes), {len(held_out)} held out"),
        ("prompts", f"{lengths[len(lengths) // 2]} tokens at the median, {lengths[-1]} at most"),
        ("tokens", in_short(policy.tokenizer, train[0], policy.eos_ids)),
        ("a step", f"{online.prompts_per_step} prompts x {online.group_size} completions = {completions}"
                   f"{beside}, at most {(completions + greedy) * rollout.max_new_tokens:,} new tokens"),
        ("in all", f"{online.steps} steps, {online.steps * completions:,} completions, "
                   f"{online.steps * online.epochs * online.minibatches} optimizer steps"),
        ("reward", reward_formula(config)),
        ("advantage", advantage_formula(config)),
    ]  # fmt: skip
    if online.learned_size < online.group_size:
        chosen = f"{online.learned_size} of {online.group_size} completions a question, of most varied reward"
        rows.append(("learned from", chosen))
    if config.online_stage == "ppo":
        rows.append(("critic", critic_formula(config)))
    if isolated:
        budgets = ", ".join(f"{name} (at most {seconds:g} s)" for name, seconds in isolated.items())
        rows.append(("workers", f"in processes of their own: {budgets}"))
    prompts = Prompts.rendered(config, [one.ids for one in train], [one.ids for one in held_out])
    estimate = estimate_online(
        config, shape_of(policy.model), prompts, policy.device, workers=workers_of(isolated)
    )
    rows.append(("memory", summary_text(estimate, machine(policy.device))))
    if rollout.top_p < 1 or rollout.top_k or rollout.min_p:
        rows.append(
            ("warning", "top_p, top_k or min_p cut the sampler's distribution; the loss assumes all of it")
        )
    return Plan(name=f"{config.name} · {config.online_stage.upper()}", rows=rows, loss=loss_formula(config))


def workers_of(isolated: Mapping[str, float]) -> int:
    """Worker processes that score, where there are rewards for them."""
    return cores() if isolated else 0


def _greedy(config: RunConfig) -> bool:
    return config.online_stage == "grpo" and config.grpo.baseline == "greedy"


def reward_formula(config: RunConfig) -> str:
    """The rubric in one line, such as `1 accuracy [if think_format] + 0.1 think_format`."""
    terms = []
    for name, term in config.rewards.items():
        gate = f" [if {term.gate}]" if term.gate else ""
        value = f"clip({name}, {term.clip[0]:g}, {term.clip[1]:g})" if term.clip else name
        terms.append(f"{term.weight:g} {value}{gate}")
    online, kl = config.online, config.online.kl
    if online.overlong_buffer:
        terms.append(f"{online.overlong_weight:g} overlong(last {online.overlong_buffer} tokens)")
    text = " + ".join(terms)
    if config.online_stage == "ppo" and config.ppo.truncation_penalty:
        text += f" - {config.ppo.truncation_penalty:g} [if cut off]"
    if kl.coef and kl.where != "loss":
        each = ", a token" if config.online_stage == "ppo" or kl.where == "tokens" else ""
        text += f" - {kl.coef:g} KL_{kl.estimator}(policy || {kl.reference}){each}"
    if config.online_stage == "ppo" and config.ppo.kl.target is not None:
        text += f", its weight adapted to hold {config.ppo.kl.target:g} nats a completion"
    return text


def advantage_formula(config: RunConfig) -> str:
    """How a reward becomes an advantage."""
    if config.online_stage == "ppo":
        ppo = config.ppo
        decay = f"({ppo.gamma:g} x {ppo.gae_lambda:g})^tokens ahead"
        scaled = ", whitened over the tokens of the step" if ppo.whiten_advantages else ""
        return f"sum over the tokens ahead of {decay} x (r + {ppo.gamma:g} V_next - V){scaled}"
    grpo = config.grpo
    if grpo.combine == "gdpo":
        return (
            "(sum over the terms of the reward of weight x (value - mean of the group) / (std of the group + "
            "1e-4)) / (std of these sums in the batch + 1e-4)"
        )
    group = "the group" if grpo.down_sample is None else "the chosen of the group"
    baseline = {
        "mean": f"mean of {group}",
        "leave_one_out": f"mean of the others in {group}",
        "batch": "mean of the batch",
        "greedy": "reward of the greedy completion",
    }[grpo.baseline]
    if grpo.kl.coef and grpo.kl.where == "tokens":
        baseline += ", the KL of a token counted from it on"
    batch = "the batch" if grpo.down_sample is None else "all chosen"
    scale = {"none": "", "group": f", / (std of {group} + 1e-4)", "batch": f", / (std of {batch} + 1e-4)"}
    return f"reward - {baseline}{scale[grpo.advantage_scale]}"


def critic_formula(config: RunConfig) -> str:
    """What the values are made by and how they are learned."""
    critic = config.ppo.critic
    kind = "a model of its own" if critic.kind == "separate" else "an output of the policy's hidden states"
    held = f", held within {critic.clip:g} of the values before the step" if critic.clip else ""
    warmup = f"; alone for {critic.warmup_steps} steps" if critic.warmup_steps else ""
    return f"{kind}, rate {critic.optim.lr:g}; {critic.coef:g} x mean of (V - return)^2 / 2{held}{warmup}"


def loss_formula(config: RunConfig) -> str:
    """The loss with every constant in it."""
    online, kl = config.online, config.online.kl
    divisor = {
        "grpo": "mean over completions of the mean over their tokens",
        "dr_grpo": f"sum over tokens / (completions x {config.rollout.max_new_tokens})",
        "bnpo": "sum over tokens / tokens of the optimizer step",
        "dapo": "sum over tokens / tokens of the step",
        "cispo": "sum over tokens / tokens of the step",
    }[online.loss]
    ratio = "r" if online.ratio == "token" else "r_sequence"
    if online.loss == "cispo":
        term = f"-stop_gradient(min({ratio}, {1 + online.clip_high:g})) A log p"
    else:
        term = f"-min({ratio} A, clip({ratio}, {1 - online.clip_low:g}, {1 + online.clip_high:g}) A)"
        if online.dual_clip is not None:
            term += f", at most {online.dual_clip:g} |A| where A < 0"
    if online.sampler_correction is not None:
        term = f"min(p_trainer / p_sampler, {online.sampler_correction:g}) x [{term}]"
    if kl.coef and kl.where == "loss":
        term += f" + {kl.coef:g} KL_{kl.estimator}(policy || {kl.reference})"
    masked = "; truncated completions left out" if online.mask_truncated else ""
    return f"{online.loss}: {divisor} of {term}{masked}"
