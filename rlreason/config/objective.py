"""What a config may not ask of the objective: losses, baselines and penalties that do not go together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlreason.config.mistake import Mistake

if TYPE_CHECKING:
    from rlreason.config.schema import RunConfig


def objective_mistakes(config: "RunConfig") -> Iterator[Mistake]:
    """Yield every disagreement between the fields of `grpo` and `ppo` that make up the loss."""
    grpo = config.grpo
    if grpo.loss == "cispo" and grpo.ratio == "sequence":
        yield Mistake(
            "grpo.ratio: sequence cannot be used with grpo.loss = cispo, which weighs each token by its own "
            "ratio; set grpo.ratio to token or choose another loss",
            ("grpo.ratio", "grpo.loss"),
        )
    if grpo.loss == "cispo" and grpo.dual_clip is not None:
        yield Mistake(
            f"grpo.dual_clip: {grpo.dual_clip:g} has no effect with grpo.loss = cispo, which multiplies no "
            "loss by an unbounded ratio; set grpo.dual_clip to null",
            ("grpo.dual_clip", "grpo.loss"),
        )
    yield from _gdpo(config) if grpo.combine == "gdpo" else _baseline(config)
    yield from _down_sample(config)
    for stage, section in (("grpo", config.grpo), ("ppo", config.ppo)):
        if section.overlong_buffer >= config.rollout.max_new_tokens:
            yield Mistake(
                f"{stage}.overlong_buffer: {section.overlong_buffer} is not below rollout.max_new_tokens = "
                f"{config.rollout.max_new_tokens}; lower it (0 = off)",
                (f"{stage}.overlong_buffer", "rollout.max_new_tokens"),
            )


def _baseline(config: "RunConfig") -> Iterator[Mistake]:
    """What a baseline needs, and what goes with it."""
    grpo = config.grpo
    in_group = grpo.baseline in ("mean", "leave_one_out")
    if in_group and grpo.group_size < 2:
        yield Mistake(
            f"grpo.group_size: {grpo.group_size} leaves nothing to compare with for grpo.baseline = "
            f"{grpo.baseline}; give 2 or more, or set grpo.baseline to batch or greedy",
            ("grpo.group_size", "grpo.baseline"),
        )
    allowed = {"batch": ("none", "batch"), "greedy": ("none",)}.get(grpo.baseline)
    if allowed and grpo.advantage_scale not in allowed:
        yield Mistake(
            f"grpo.advantage_scale: {grpo.advantage_scale} is the deviation about another mean than "
            f"grpo.baseline = {grpo.baseline} subtracts; set it to {' or '.join(allowed)}",
            ("grpo.advantage_scale", "grpo.baseline"),
        )
    if grpo.baseline == "batch" and grpo.dynamic_sampling:
        yield Mistake(
            f"grpo.dynamic_sampling: {grpo.dynamic_sampling} has nothing to replace with grpo.baseline = "
            "batch, with which a question teaches whenever the rewards of the step differ; set it to 0",
            ("grpo.dynamic_sampling", "grpo.baseline"),
        )
    if grpo.kl.coef and grpo.kl.where == "reward" and grpo.baseline == "greedy":
        yield Mistake(
            "grpo.kl.where: reward takes the penalty from what a completion earns and not from "
            "grpo.baseline = greedy, so that all advantages sink; set it to tokens or loss",
            ("grpo.kl.where", "grpo.kl.coef", "grpo.baseline"),
        )
    if grpo.kl.coef and grpo.kl.where == "tokens" and grpo.advantage_scale == "group":
        yield Mistake(
            "grpo.advantage_scale: group cannot be used with grpo.kl.where = tokens, which gives each token "
            "an advantage of its own; set it to none or batch",
            ("grpo.advantage_scale", "grpo.kl.where", "grpo.kl.coef"),
        )


def _down_sample(config: "RunConfig") -> Iterator[Mistake]:
    """Learning from a part of each group."""
    grpo = config.grpo
    if grpo.down_sample is None:
        return
    if grpo.down_sample >= grpo.group_size:
        yield Mistake(
            f"grpo.down_sample: {grpo.down_sample} leaves nothing out of grpo.group_size = "
            f"{grpo.group_size} completions; lower it, raise grpo.group_size, or set it to null",
            ("grpo.down_sample", "grpo.group_size"),
        )
    if grpo.baseline not in ("mean", "leave_one_out"):
        yield Mistake(
            f"grpo.down_sample: {grpo.down_sample} cannot be used with grpo.baseline = {grpo.baseline}, "
            "which those left out of a group would tilt; set it to null, or grpo.baseline to mean or "
            "leave_one_out",
            ("grpo.down_sample", "grpo.baseline"),
        )
    if grpo.combine == "gdpo":
        yield Mistake(
            f"grpo.down_sample: {grpo.down_sample} cannot be used with grpo.combine = gdpo, which would "
            "normalise each reward over the chosen completions alone; set one of the two to its default",
            ("grpo.down_sample", "grpo.combine"),
        )
    if grpo.kl.coef and grpo.kl.where == "reward":
        yield Mistake(
            f"grpo.down_sample: {grpo.down_sample} chooses by rewards, and grpo.kl.where = reward would take "
            "the penalty only from those chosen; set it to tokens or loss, or grpo.down_sample to null",
            ("grpo.down_sample", "grpo.kl.where", "grpo.kl.coef"),
        )


def _gdpo(config: "RunConfig") -> Iterator[Mistake]:
    """What belongs to the other way of combining rewards."""
    grpo = config.grpo
    if grpo.advantage_scale != "none":
        yield Mistake(
            f"grpo.advantage_scale: {grpo.advantage_scale} cannot be used with grpo.combine = gdpo, which "
            "divides by the deviations of group and batch in its own way; set it to none",
            ("grpo.advantage_scale", "grpo.combine"),
        )
    if grpo.baseline != "mean":
        yield Mistake(
            f"grpo.baseline: {grpo.baseline} cannot be used with grpo.combine = gdpo, which subtracts the "
            "mean of the group; set it to mean",
            ("grpo.baseline", "grpo.combine"),
        )
    if grpo.group_size < 2:
        yield Mistake(
            f"grpo.group_size: {grpo.group_size} leaves nothing to compare with for grpo.combine = gdpo, "
            "which compares in the group; give 2 or more",
            ("grpo.group_size", "grpo.combine"),
        )
    if grpo.kl.coef and grpo.kl.where != "loss":
        yield Mistake(
            f"grpo.kl.where: {grpo.kl.where} cannot be used with grpo.combine = gdpo, which would scale the "
            "penalty as it scales a reward; set grpo.kl.where to loss",
            ("grpo.kl.where", "grpo.kl.coef", "grpo.combine"),
        )
