"""The memory of each stage: what is always there, and the largest of what comes and goes.

Master weights and optimizer are float32 (4 bytes a number); what is computed in bfloat16 takes 2. Each part
says which setting lowers it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from rlreason.config import RunConfig
from rlreason.config.checks import LEARNED
from rlreason.errors import UserError
from rlreason.memory.passes import Prompts, activation_bytes, head_bytes, largest_passes, pass_bytes
from rlreason.memory.shape import ModelShape, scalar_parameters
from rlreason.policy.blocks import MOST_PADDED
from rlreason.policy.packing import LEAST_BEGINNING
from rlreason.policy.precision import resolve_precision
from rlreason.rollout.kernels import room
from rlreason.rollout.native import PREFILL_KEYS, Shared, what_to_share
from rlreason.rollout.slots import Pace, pace_of, sequences_at_once

# Python with torch and transformers, and with TRL's trainers besides, on Linux: measured, 2026-11-27.
_BASE = 600 * 2**20
_TRAINERS = 100 * 2**20
_WORKER = 150 * 2**20
# The allocator keeps some of what was freed, in pieces that do not fit what comes next: measured as well.
_SLACK = 0.08


@dataclass(frozen=True)
class Part:
    """`size` bytes; `setting` is what lowers it, empty where nothing does."""

    name: str
    size: int
    setting: str = ""


@dataclass(frozen=True)
class Estimate:
    """The parts of the moment in which a stage takes most memory; `moment` says which that is."""

    stage: str
    moment: str
    parts: tuple[Part, ...]

    @property
    def total(self) -> int:
        return sum(part.size for part in self.parts)


def estimate_run(
    config: RunConfig, shape: ModelShape, prompts: Prompts, device: torch.device, *, workers: int = 0
) -> Estimate:
    """The stage of a run that takes most."""
    found = [
        estimate_online(config, shape, prompts, device, workers=workers)
        if stage in ("grpo", "ppo")
        else _supervised(config, stage, shape, prompts, device)
        for stage in config.stages
    ]
    return max(found, key=lambda estimate: estimate.total)


# ---------------------------------------------------------------------- learning from its own completions


def estimate_online(
    config: RunConfig, shape: ModelShape, prompts: Prompts, device: torch.device, *, workers: int = 0
) -> Estimate:
    """The stage `grpo` or `ppo`: sampling and updating are never at the same time."""
    stage, online = config.online_stage, config.online
    dtype = resolve_precision(config.model.precision, device)
    sampled = resolve_precision(config.rollout.precision, device)
    earlier = bool(set(config.stages) - {"grpo", "ppo"})
    held = [
        *_base(device, trainers=earlier, workers=workers),
        Part("weights", 4 * shape.parameters, "model.path (a smaller model)"),
        Part("AdamW moments", 8 * shape.trainable, "model.lora={}"),
    ]
    reference = online.kl.reference
    of_its_own = reference != "start" or config.model.lora is None
    if reference not in ("none", "adapter_off") and of_its_own:
        less = f"{stage}.kl.reference=none"
        if online.kl.coef and reference == "start":
            less = "model.lora={}, which needs none"
        elif online.kl.coef:
            lora = "" if config.model.lora is not None else " with model.lora={}"
            less = f"{stage}.kl.reference=start{lora}, which needs none"
        held.append(Part("reference", 4 * shape.parameters, less))
    held += _reward_model(config, shape, device, stage)
    critic = config.ppo.critic.kind == "separate" if stage == "ppo" else False
    if critic:
        held.append(Part("critic", 4 * shape.parameters + 8 * shape.trainable, f"{stage}.critic.kind=shared"))
    passes = [
        (pass_bytes(config, shape, one, prompts, dtype), one.tokens)
        for one in largest_passes(config, prompts, device)
    ]
    activations, tokens = max(passes)
    gradients = 4 * shape.trainable * (2 if critic else 1)
    update = [
        Part("gradients", gradients, "model.lora={}"),
        Part(
            f"activations of {tokens:,} tokens",
            activations * (2 if critic else 1) + head_bytes(shape, tokens, dtype, device),
            f"{stage}.micro_batch_tokens, or model.gradient_checkpointing=true",
        ),
    ]
    copy = _sampler_copy(config, shape, sampled, device)
    copies = [Part("sampler's copy", copy, "rollout.precision=bfloat16")] if copy else []
    sampling = [*copies, _sampling(config, shape, prompts, sampled, device)]
    now = [("updating", update), ("sampling", sampling)]
    if copies:
        # A fresh copy is made to hold the sampler against, and with an adapter another one in float32.
        again = copy
        if config.model.lora is not None:
            again = max(copy, _sampler_copy(config, shape, torch.float32, device))
        now.append(("checking the sampler", [*copies, Part("second copy to check it by", again)]))
    if config.model.lora is not None:
        now.append(("saving", [*copies, Part("merged weights", 4 * shape.parameters)]))
    return _largest(stage, held, now)


def _native(config: RunConfig, shape: ModelShape) -> bool:
    """Whether the native engine samples, as far as the kind of model decides it."""
    return shape.native and config.rollout.engine != "transformers"


def _sampler_copy(config: RunConfig, shape: ModelShape, dtype: torch.dtype, device: torch.device) -> int:
    """The native engine's weights. On a processor they are laid out anew, so that none are shared.

    Elsewhere float32 shares what it does not fuse, about half, unless an adapter is folded in. transformers
    samples from the weights.
    """
    if not _native(config, shape):
        return 0
    if device.type != "cpu":
        if dtype != torch.float32:
            return dtype.itemsize * shape.parameters
        return dtype.itemsize * (shape.body if config.model.lora is not None else shape.body // 2)
    own_embedding = 0 if dtype == torch.float32 else shape.embedding
    return dtype.itemsize * (shape.body + shape.embedding + own_embedding)


def _sampling(
    config: RunConfig, shape: ModelShape, prompts: Prompts, dtype: torch.dtype, device: torch.device
) -> Part:
    """Keys and values of all slots at their longest, and the most of what comes and goes beside them.

    That are the logits with what is drawn from them; or the prompts that are computed together, whose keys
    and values are there twice before they are in the cache, with what one layer makes of them.
    """
    online, evaluation = config.online, config.eval
    asked = [(online.prompts_per_step, online.group_size), (evaluation.questions, evaluation.samples)]
    at_once, pace = sequences_at_once(config.rollout.max_sequences, device), pace_of(device)
    slots = min(at_once, max(count * size for count, size in asked))
    positions = max(_positions(config, shape, prompts, count, size, at_once, pace) for count, size in asked)
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * dtype.itemsize * positions
    logits = slots * shape.vocabulary * (dtype.itemsize + 3 * 4)
    waiting = slots * prompts.longest
    together = max(prompts.longest, min(pace.prefill, waiting))
    entering = together * (4 * shape.layers * shape.kv_heads * shape.head_dim + 3 * shape.intermediate)
    if prompts.common >= LEAST_BEGINNING:  # in front of each, and repeated for all heads
        keys = max(prompts.longest, min(PREFILL_KEYS * pace.prefill, waiting))
        entering += 2 * keys * shape.heads * shape.head_dim
    beside = max(logits, entering * dtype.itemsize)
    return Part(f"cache of {slots} sequences", cache + beside, "rollout.max_sequences")


def _positions(
    config: RunConfig, shape: ModelShape, prompts: Prompts, count: int, size: int, at_once: int, pace: Pace
) -> int:
    """Positions of the cache for so many prompts of so many completions each.

    Where those share their prompt, at most one a slot is held: in the worst case each with one completion
    that is left. What all prompts begin with is counted for each: it is known when they are asked.
    """
    slots, new = min(at_once, count * size), config.rollout.max_new_tokens
    if _native(config, shape):
        shared = what_to_share([(prompts.longest, size)] * count, 0, slots, pace.least_spared)
        if shared is Shared.PROMPT:
            return slots * room(new, pace.block) + min(count, slots) * room(prompts.longest, pace.block)
    return slots * room(prompts.longest + new, pace.block)


# ---------------------------------------------------------------------- learning from examples


def _supervised(
    config: RunConfig, stage: str, shape: ModelShape, prompts: Prompts, device: torch.device
) -> Estimate:
    """The stages on transformers' trainers; a row counts as long as the longest.

    What the examples of `sft` begin with is computed once where it can be, and counted for each: they may
    turn out to have nothing in common.
    """
    dtype = resolve_precision(config.model.precision, device)
    sections = {"pretrain": config.pretrain, "sft": config.sft, "reward_model": config.reward_model}
    settings: Any = sections[stage]
    row, sides = prompts.row, 1
    if stage == "pretrain":
        row = config.pretrain.sequence_tokens
    elif stage == "reward_model":
        row, sides = min(row, config.reward_model.max_tokens), 2
    rows = settings.batch_size * sides
    tokens = rows * row
    held = [
        *_base(device, trainers=True, workers=0),
        Part("weights", 4 * shape.parameters, "model.path (a smaller model)"),
        Part("AdamW moments", 8 * shape.trainable, "model.lora={}"),
    ]
    if stage == "reward_model":
        held.append(Part("the model so far", 4 * shape.parameters))
    held += _reward_model(config, shape, device, stage)
    more = 0
    if stage == "pretrain":  # of all tokens at once, with their softmax and gradient
        more = 3 * 4 * tokens * shape.vocabulary
        # Documents in blocks are padded, and their results come back in the order of the rows; else each
        # layer keeps its own copy of a mask.
        in_blocks = (4 * (MOST_PADDED - 1) + 1) * shape.heads * shape.head_dim
        layers = 1 if config.model.gradient_checkpointing else shape.layers
        if config.model.attention != "flash_attention_2":
            more += int(max(in_blocks, row) * tokens * layers * dtype.itemsize)
    elif stage == "sft":
        more = head_bytes(shape, tokens, dtype, device)
    activations = activation_bytes(shape, tokens, dtype, checkpointing=config.model.gradient_checkpointing)
    now: list[tuple[str, list[Part]]] = [
        (
            "updating",
            [
                Part("gradients", 4 * shape.trainable, "model.lora={}"),
                Part(
                    f"activations of {tokens:,} tokens",
                    activations + more,
                    f"{stage}.batch_size, or model.gradient_checkpointing=true",
                ),
            ],
        )
    ]
    return _largest(stage, held, now)


def _reward_model(config: RunConfig, shape: ModelShape, device: torch.device, stage: str) -> list[Part]:
    """The model of the reward `learned`, kept in this process, in float32 unless its args say otherwise.

    One that is named is loaded when the golds are scored, before the first stage; that of the run is as large
    as the policy, and there once the policy samples.
    """
    learned = config.rewards.get(LEARNED)
    if learned is None:
        return []
    path, place = learned.args.get("model"), str(learned.args.get("device", "auto"))
    elsewhere = place != "auto" and place.split(":")[0] != device.type
    if elsewhere or (path is None and stage not in ("grpo", "ppo")):
        return []
    dtype = getattr(torch, str(learned.args.get("dtype", "float32")), None)
    width = dtype.itemsize if isinstance(dtype, torch.dtype) else 4  # the reward itself refuses others
    parameters = shape.parameters
    if path is not None:
        with suppress(UserError, ValueError):  # told of where it is loaded
            parameters = scalar_parameters(config.model, str(path), "rewards.learned.args.model")
    return [Part("reward model", width * parameters, "rewards.learned.args.dtype=bfloat16")]


def _base(device: torch.device, *, trainers: bool, workers: int) -> list[Part]:
    """The program itself. It is not in the memory of a GPU."""
    if device.type == "cuda":
        return []
    own = _BASE + (_TRAINERS if trainers else 0)
    return [
        Part("Python and libraries", own),
        *([Part("reward workers", workers * _WORKER)] if workers else []),
    ]


def _largest(stage: str, held: Sequence[Part], now: Sequence[tuple[str, list[Part]]]) -> Estimate:
    moment, parts = max(now, key=lambda one: sum(part.size for part in one[1]))
    moving = sum(part.size for part in parts)
    return Estimate(stage, moment, (*held, *parts, Part("allocator", int(_SLACK * moving))))
