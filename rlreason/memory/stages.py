"""The memory of each stage: what is always there, and the largest of what comes and goes.

Master weights and optimizer are float32 (4 bytes a number); what is computed in bfloat16 takes 2. Each part
says which setting lowers it.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from rlreason.algorithms import logit_bytes
from rlreason.config import RunConfig
from rlreason.config.checks import LEARNED
from rlreason.errors import UserError
from rlreason.memory.shape import ModelShape, scalar_parameters
from rlreason.policy.blocks import MOST_PADDED, affordable, pays
from rlreason.policy.packing import LEAST_BEGINNING, PassSize, alike, common_beginning
from rlreason.policy.precision import resolve_precision
from rlreason.rollout.kernels import room
from rlreason.rollout.native import PREFILL_KEYS
from rlreason.rollout.slots import pace_of, sequences_at_once

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


@dataclass(frozen=True)
class Prompts:
    """Tokens of the longest prompt, and of the longest row of examples that a trainer's batch holds.

    `common` is how many those begin with alike of which there are most, 0 where that is not known.
    """

    longest: int
    row: int
    common: int = 0

    @classmethod
    def rendered(
        cls, config: RunConfig, train: Sequence[Sequence[int]], held_out: Sequence[Sequence[int]]
    ) -> "Prompts":
        """The prompts that are learned from and those that are only asked, as tokens."""
        longest = max(map(len, [*train, *held_out]), default=config.prompt.max_tokens)
        most = max(alike(train), key=len, default=[])
        common = common_beginning([train[number] for number in most]) if len(most) > 1 else 0
        return cls(longest, longest + config.rollout.max_new_tokens, common)

    @classmethod
    def of_config(cls, config: RunConfig) -> "Prompts":
        """Upper bounds, before anything is rendered."""
        longest = config.prompt.max_tokens
        return cls(longest, longest + config.rollout.max_new_tokens)


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
        (_activations(config, shape, one, prompts, dtype), one.tokens)
        for one in largest_passes(config, prompts, device)
    ]
    activations, tokens = max(passes)
    gradients = 4 * shape.trainable * (2 if critic else 1)
    update = [
        Part("gradients", gradients, "model.lora={}"),
        Part(
            f"activations of {tokens:,} tokens",
            activations * (2 if critic else 1) + _head_bytes(shape, tokens, dtype, device),
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


class Pass(NamedTuple):
    """A forward and backward pass: whether completions share rows, rows, their width, tokens in all.

    `groups` is the number of those that are joined behind what their prompts begin with, and `completions`
    that of their completions; 0 where each row is of one group.
    """

    shared: bool
    rows: int
    width: int
    tokens: int
    groups: int = 0
    completions: int = 0


def largest_passes(config: RunConfig, prompts: Prompts, device: torch.device) -> list[Pass]:
    """The largest pass with one completion a row, and that in which a group shares one, if there are.

    As `policy.packing` cuts them. Where two completions of full length do not fit into a row, shorter ones
    may, and both kinds occur. Behind them those in which groups are joined.
    """
    online, limit = config.online, config.rollout.max_new_tokens
    size = PassSize.suited(online.micro_batch_tokens, device)

    def largest(shared: bool, width: int, in_a_row: int) -> Pass:
        in_step = -(-online.learned_size // in_a_row) * online.prompts_per_step // online.minibatches
        # Rows of other lengths come closer to what a pass takes than those of one.
        rows = max(1, min(in_step, -(-size.tokens // width)))
        return Pass(shared, rows, width, max(width, min(size.tokens, in_step * width)))

    shares = online.share_prompt and online.learned_size > 1
    found = []
    if not shares or prompts.longest + 2 * limit > size.row:
        found.append(largest(False, prompts.longest + limit, 1))
    if shares and prompts.longest + 2 <= size.row:
        width = min(size.row, prompts.longest + limit * online.learned_size)
        found.append(largest(True, width, max(1, (width - prompts.longest) // limit)))
    return found + _joined_passes(config, prompts, size)


def _joined_passes(config: RunConfig, prompts: Prompts, size: PassSize) -> list[Pass]:
    """Rows of several groups behind what their prompts begin with, for completions of several lengths.

    Of shorter ones more groups are joined, each of which has its prompt laid out once more.
    """
    online = config.online
    if not online.share_prompt or config.model.attention != "sdpa" or prompts.common < LEAST_BEGINNING:
        return []
    found, length = [], config.rollout.max_new_tokens
    while length >= 1:
        in_a_row = min(online.learned_size, max(1, (size.row - prompts.longest) // length))
        own = prompts.longest - prompts.common + length * in_a_row
        in_step = -(-online.learned_size // in_a_row) * online.prompts_per_step // online.minibatches
        most = min((size.tokens - prompts.common) // own, in_step)

        def fits(groups: int, tokens: int, in_a_row: int = in_a_row, length: int = length) -> bool:
            return affordable(groups * in_a_row, prompts.longest, length, min(size.tokens, tokens))

        # As `packing` joins them: blocks copy as much as those of rows of one group each may.
        groups = next((n for n in range(most, 1, -1) if fits(n, n * (prompts.common + own))), 0)
        if groups:
            width = prompts.common + groups * own
            many = range(min(size.tokens // width, in_step // groups), 1, -1)
            rows = next((n for n in many if fits(n * groups, size.tokens)), 1)
            of_all = rows * groups
            found.append(Pass(True, rows, width, rows * width, of_all, of_all * in_a_row))
        length //= 2
    return found


def activation_bytes(shape: ModelShape, tokens: int, dtype: torch.dtype, *, checkpointing: bool) -> int:
    """What the forward pass of a decoder keeps for the backward pass, its head aside.

    H hidden, Q queries of all heads, I feed-forward width. Of a token and layer, in float32: input,
    normalised input and product of each of two norms (6 H); queries, keys, values and output of attention,
    keys and values repeated for all heads (4 Q); gate, activation, up and their product (4 I). Under autocast
    the norms stay float32 (4 H), and every product keeps its own input in half precision (5 H + 4 Q + 4 I).
    """
    hidden, queries = shape.hidden, shape.heads * shape.head_dim
    if dtype == torch.float32:
        layer = 4 * (6 * hidden + 4 * queries + 4 * shape.intermediate)
    else:
        layer = 4 * 4 * hidden + 2 * (5 * hidden + 4 * queries + 4 * shape.intermediate)
    kept = tokens * (4 * hidden * shape.layers + layer if checkpointing else layer * shape.layers)
    # Autocast keeps the weights it has converted until the backward pass is over.
    return kept + (0 if dtype == torch.float32 else 2 * shape.body)


def _activations(
    config: RunConfig, shape: ModelShape, one: Pass, prompts: Prompts, dtype: torch.dtype
) -> int:
    kept = activation_bytes(shape, one.tokens, dtype, checkpointing=config.model.gradient_checkpointing)
    return kept + (shared_bytes(config, shape, one, prompts, dtype) if one.shared else 0)


def shared_bytes(
    config: RunConfig, shape: ModelShape, one: Pass, prompts: Prompts, dtype: torch.dtype
) -> int:
    """What attention keeps besides, where rows share a prompt.

    In blocks: queries, keys, values and results of prompts and completions as they are laid out there, their
    results in the rows' order, and one mask for all layers. Under a mask over rows each layer keeps its own
    copy of it. C completions of T tokens, G prompts of P.
    """
    limit, repeated = config.rollout.max_new_tokens, shape.heads // shape.kv_heads
    if one.groups:
        prompt_count, count = one.groups, one.completions
        of_prompts = one.rows * prompts.common + one.groups * (prompts.longest - prompts.common)
        limit = (one.tokens - of_prompts) // count
    else:
        several = max(2, (one.width - prompts.longest) // limit)
        limit = min(limit, -(-(one.width - prompts.longest) // several))
        prompt_count, count = one.rows, several * one.rows
        in_blocks = pays([prompts.longest] * one.rows, [limit] * count, rows=one.rows, width=one.width)
        if config.model.attention != "sdpa" or not in_blocks:
            return shape.layers * one.rows * one.width * one.width * dtype.itemsize
    length, queries = prompts.longest + limit, shape.heads * shape.head_dim
    keys = 2 * shape.kv_heads * shape.head_dim * count * length
    laid_out = queries * (4 * prompt_count * prompts.longest + 2 * count * limit)
    # Queries, repeated keys and values, and results of the rows' own tokens are counted already.
    more = queries * one.tokens + max(0, laid_out + keys - 4 * queries * one.tokens)
    layers = 1 if config.model.gradient_checkpointing else shape.layers
    return dtype.itemsize * (layers * more + count * repeated * limit * length)


def _head_bytes(shape: ModelShape, tokens: int, dtype: torch.dtype, device: torch.device) -> int:
    """Logits of a chunk, and the gradient of the head before it is added to that of the weights."""
    logits = logit_bytes(tokens, shape.vocabulary, dtype, device)
    return logits + (4 * shape.embedding if shape.trainable > shape.parameters // 2 else 0)


def _sampler_copy(config: RunConfig, shape: ModelShape, dtype: torch.dtype, device: torch.device) -> int:
    """The native engine's weights. On a processor they are laid out anew, so that none are shared.

    Elsewhere float32 shares what it does not fuse, about half, unless an adapter is folded in. transformers
    samples from the weights.
    """
    if config.rollout.engine == "transformers":
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
    wanted = max(online.prompts_per_step * online.group_size, evaluation.questions * evaluation.samples)
    slots = min(sequences_at_once(config.rollout.max_sequences, device), wanted)
    longest = prompts.longest + config.rollout.max_new_tokens
    pace = pace_of(device)
    positions = room(longest, pace.block)
    cache = 2 * shape.layers * shape.kv_heads * shape.head_dim * dtype.itemsize * slots * positions
    logits = slots * shape.vocabulary * (dtype.itemsize + 3 * 4)
    together = min(pace.prefill, slots * prompts.longest)
    entering = together * (4 * shape.layers * shape.kv_heads * shape.head_dim + 3 * shape.intermediate)
    if prompts.common >= LEAST_BEGINNING:  # in front of each, and repeated for all heads
        entering += 2 * PREFILL_KEYS * pace.prefill * shape.heads * shape.head_dim
    beside = max(logits, entering * dtype.itemsize)
    return Part(f"cache of {slots} sequences", cache + beside, "rollout.max_sequences")


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
        more += int(max(in_blocks, row) * tokens * layers * dtype.itemsize)
    elif stage == "sft":
        more = _head_bytes(shape, tokens, dtype, device)
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
