"""Mistakes that only show when several fields are read together.

Each is reported with the fields it was found from, so that the loader can leave out one that follows from a
field that is already known to be wrong.
"""

import difflib
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlreason.config.mistake import Mistake
from rlreason.config.objective import objective_mistakes
from rlreason.config.training import DERIVATIONS, ROLLOUTS, STAGES, STYLES

LEARNED = "learned"

if TYPE_CHECKING:
    from rlreason.config.schema import RunConfig


def cross_field_mistakes(config: "RunConfig") -> Iterator[Mistake]:
    """Yield every disagreement between the fields of a config whose single fields are all in bounds."""
    yield from _start_of_model(config)
    yield from _shape_of_scratch(config)
    yield from _task(config)
    yield from _rewards(config)
    if "pretrain" in config.stages:
        yield from _documents(config)
    if "sft" in config.stages:
        yield from _traces(config)
    yield from _learned(config)
    yield from objective_mistakes(config)
    yield from _sizes(config)
    yield from _eval(config)


def _start_of_model(config: "RunConfig") -> Iterator[Mistake]:
    model = config.model
    if model.scratch is not None:
        if model.path != "embedded":
            yield Mistake(
                f"model.path: {model.path!r} cannot be used with model.scratch, which starts from nothing; "
                "remove one of the two",
                ("model.path", "model.scratch"),
            )
        if model.lora is not None:
            yield Mistake(
                "model.lora: an adapter on a model that knows nothing (model.scratch) learns nothing; "
                "remove model.lora",
                ("model.lora", "model.scratch"),
            )
    if model.revision is not None and (model.scratch is not None or model.path == "embedded"):
        yield Mistake(
            f"model.revision: {model.revision!r} belongs to a hub model; give its name in model.path or "
            "remove model.revision",
            ("model.revision", "model.path", "model.scratch"),
        )
    if model.attention == "flash_attention_2" and model.precision == "float32":
        yield Mistake(
            "model.attention: flash_attention_2 computes in half precision only; "
            "set model.precision to bfloat16 or auto, or model.attention to sdpa",
            ("model.attention", "model.precision"),
        )
    for stage, section in (("grpo", config.grpo), ("ppo", config.ppo)):
        if section.kl.reference == "adapter_off" and model.lora is None:
            yield Mistake(
                f"{stage}.kl.reference: adapter_off needs an adapter to switch off; set model.lora "
                "(model.lora={} takes its defaults) or use start",
                (f"{stage}.kl.reference", "model.lora"),
            )
        if section.kl.reference == "none" and section.kl.coef > 0:
            yield Mistake(
                f"{stage}.kl.reference: none leaves nothing to hold the policy to, but {stage}.kl.coef is "
                f"{section.kl.coef:g}; set that to 0 or use start",
                (f"{stage}.kl.reference", f"{stage}.kl.coef"),
            )


def _shape_of_scratch(config: "RunConfig") -> Iterator[Mistake]:
    shape = config.model.scratch
    if shape is None:
        return
    if shape.vocabulary != type(shape).model_fields["vocabulary"].default and shape.tokens != "bpe":
        yield Mistake(
            f"model.scratch.vocabulary: is for model.scratch.tokens = bpe, but that is {shape.tokens}; "
            "remove it or change that",
            ("model.scratch.vocabulary", "model.scratch.tokens"),
        )
    if shape.tokenizer is not None and shape.tokens != type(shape).model_fields["tokens"].default:
        yield Mistake(
            f"model.scratch.tokens: {shape.tokens} is for a tokenizer that is made here, but "
            f"model.scratch.tokenizer is {shape.tokenizer!r}; remove one of the two",
            ("model.scratch.tokens", "model.scratch.tokenizer"),
        )
    sizes = ("model.scratch.hidden_size", "model.scratch.heads", "model.scratch.overrides")
    if shape.hidden_size % (2 * shape.heads) and "head_dim" not in shape.overrides:
        yield Mistake(
            f"model.scratch.hidden_size: {shape.hidden_size} cannot be cut into {shape.heads} heads of an "
            f"even size; give a multiple of {2 * shape.heads}",
            sizes,
        )
    if shape.heads % shape.kv_heads:
        yield Mistake(
            f"model.scratch.kv_heads: {shape.kv_heads} does not divide model.scratch.heads = {shape.heads}; "
            f"give one of {_divisors(shape.heads)}",
            ("model.scratch.kv_heads", "model.scratch.heads"),
        )
    longest = config.prompt.max_tokens + config.rollout.max_new_tokens
    if shape.max_positions < longest:
        yield Mistake(
            f"model.scratch.max_positions: {shape.max_positions} is less than prompt.max_tokens + "
            f"rollout.max_new_tokens = {longest}; raise it or lower those",
            ("model.scratch.max_positions", "prompt.max_tokens", "rollout.max_new_tokens"),
        )


def _documents(config: "RunConfig") -> Iterator[Mistake]:
    pretrain, source = config.pretrain, config.task.source
    if DERIVATIONS in pretrain.text and len(pretrain.text) > 1:
        yield Mistake(
            "pretrain.text: derivations cannot be mixed with files; name one or the others",
            ("pretrain.text", "stage"),
        )
    elif DERIVATIONS in pretrain.text and source != "reasoning_gym":
        yield Mistake(
            "pretrain.text: derivations are written for generated questions only, but task.source is "
            f"{source}; give text files, or leave pretrain out of stage",
            ("pretrain.text", "task.source", "stage"),
        )
    for path in pretrain.text:
        if path in (config.task.name, config.task.eval_name):
            yield Mistake(
                f"pretrain.text: {path!r} holds the task's questions, so that held-out ones would be trained "
                "on; give other text, or use derivations or stage sft",
                ("pretrain.text", "task.name", "task.eval_name", "stage"),
            )
    if config.model.attention == "flash_attention_2" and pretrain.batch_size > 1:
        yield Mistake(
            f"pretrain.batch_size: {pretrain.batch_size} packed sequences side by side are not kept apart by "
            "model.attention = flash_attention_2; set it to 1 and raise sequence_tokens, or use sdpa",
            ("pretrain.batch_size", "model.attention", "stage"),
        )
    shape = config.model.scratch
    if shape is not None and shape.max_positions < pretrain.sequence_tokens:
        yield Mistake(
            f"pretrain.sequence_tokens: {pretrain.sequence_tokens} is more than model.scratch.max_positions "
            f"= {shape.max_positions}; lower it or raise that",
            ("pretrain.sequence_tokens", "model.scratch.max_positions", "stage"),
        )


def _task(config: "RunConfig") -> Iterator[Mistake]:
    task = config.task
    generated = task.source == "reasoning_gym"
    own_columns = (task.columns.prompt, task.columns.answer) != ("prompt", "answer")
    # key, whether the user set it, whether this source reads it, the sources that do
    reads = [
        ("task.params", bool(task.params), generated, "reasoning_gym"),
        ("task.columns", own_columns, not generated, "file or dataset"),
        ("task.eval_name", task.eval_name is not None, not generated, "file or dataset"),
        ("task.subset", task.subset is not None, task.source == "dataset", "dataset"),
        ("task.split", task.split != "train", task.source == "dataset", "dataset"),
        ("task.eval_split", task.eval_split is not None, task.source == "dataset", "dataset"),
    ]
    for key, is_set, is_read, sources in reads:
        if is_set and not is_read:
            yield Mistake(
                f"{key}: is for task.source = {sources}, but task.source is {task.source}; remove {key} or "
                "change task.source",
                (key, "task.source"),
            )


def _rewards(config: "RunConfig") -> Iterator[Mistake]:
    rewards = config.rewards
    for name, term in rewards.items():
        others = [other for other in rewards if other != name]
        if term.gate is not None and term.gate not in others:
            remedy = f"give one of {', '.join(others)}" if others else "remove it, or add that reward"
            yield Mistake(
                f"rewards.{name}.gate: {term.gate!r} is not another reward of this config; {remedy}",
                ("rewards",),
            )
    if all(term.weight == 0 for term in rewards.values()):
        yield Mistake(
            "rewards: every weight is 0, so that nothing is rewarded; give at least one another weight",
            ("rewards",),
        )
    if "reasoning_gym" in rewards and config.task.source != "reasoning_gym":
        yield Mistake(
            "rewards.reasoning_gym: is the verifier of a generated question, but task.source is "
            f"{config.task.source}; use accuracy",
            ("rewards", "task.source"),
        )


def _traces(config: "RunConfig") -> Iterator[Mistake]:
    sft, source = config.sft, config.task.source
    if sft.traces == DERIVATIONS and source != "reasoning_gym":
        yield Mistake(
            f"sft.traces: derivations are written for generated questions only, but task.source is {source}; "
            "give a file with prompt, think and answer, or leave sft out of stage",
            ("sft.traces", "task.source", "stage"),
        )
    if sft.traces != DERIVATIONS and sft.styles:
        yield Mistake(
            f"sft.styles: is for sft.traces = derivations, but that is {sft.traces!r}; remove sft.styles",
            ("sft.styles", "sft.traces", "stage"),
        )
    unknown = [style for style in sft.styles if style not in STYLES]
    for style in unknown:
        nearest = difflib.get_close_matches(style, STYLES, n=1)
        remedy = f"did you mean {nearest[0]}?" if nearest else f"give {', '.join(STYLES)}"
        yield Mistake(f"sft.styles.{style}: there is no such style; {remedy}", ("sft.styles", "stage"))
    total = math.fsum(sft.styles.values())
    if sft.styles and not unknown and abs(total - 1) > 1e-6:
        yield Mistake(
            f"sft.styles: the shares sum to {total:g}; make them sum to 1, as in {{guess: 0.6, steps: 0.4}}",
            ("sft.styles", "stage"),
        )


def _learned(config: "RunConfig") -> Iterator[Mistake]:
    """The reward model that is made here, and the one that is used."""
    learned, makes = config.rewards.get(LEARNED), "reward_model" in config.stages
    if learned is not None and "model" not in learned.args and not makes:
        yield Mistake(
            "rewards.learned.args.model: is not given, and this run makes no reward model; give the path of "
            "one, or put reward_model before the last stage",
            ("rewards", "stage"),
        )
    settings = config.reward_model
    if makes and ROLLOUTS in settings.pairs:
        if len(settings.pairs) > 1:
            yield Mistake(
                "reward_model.pairs: rollouts cannot be mixed with files; name one or the others",
                ("reward_model.pairs", "stage"),
            )
        others = (term.weight for name, term in config.rewards.items() if name != LEARNED)
        if config.eval.reward == LEARNED and not any(others):
            yield Mistake(
                "reward_model.pairs: rollouts are ranked by the other rewards, and none but the learned one "
                "has a weight; add one, or give files of pairs",
                ("reward_model.pairs", "rewards", "eval.reward", "stage"),
            )
    for path in settings.pairs if makes else ():
        if path in (config.task.name, config.task.eval_name):
            yield Mistake(
                f"reward_model.pairs: {path!r} holds the task's questions, and is no file of pairs; give one "
                "with the columns prompt, chosen and rejected",
                ("reward_model.pairs", "task.name", "task.eval_name", "stage"),
            )


def _sizes(config: "RunConfig") -> Iterator[Mistake]:
    for stage, section in (("grpo", config.grpo), ("ppo", config.ppo)):
        prompts = section.prompts_per_step
        if prompts % section.minibatches:
            yield Mistake(
                f"{stage}.minibatches: {section.minibatches} does not divide the {prompts} groups of a step "
                f"(prompts_per_step), and a group stays whole; give one of {_divisors(prompts)}",
                (f"{stage}.minibatches", f"{stage}.prompts_per_step"),
            )
    if "ppo" in config.stages:
        yield from _ppo(config)
    if {"grpo", "ppo"} <= set(config.stages):
        yield Mistake(
            "stage: grpo and ppo are two ways to do the same; name one of them, and start a second run from "
            "the first one's model (model.path) to do both",
            ("stage",),
        )
    in_order = tuple(stage for stage in STAGES if stage in config.stages)
    if config.stages != in_order:
        yield Mistake(
            f"stage: [{', '.join(config.stages)}] would undo what it learned; write [{', '.join(in_order)}]",
            ("stage",),
        )


def _ppo(config: "RunConfig") -> Iterator[Mistake]:
    critic, ppo = config.ppo.critic, config.ppo
    if critic.warmup_steps >= ppo.steps:
        yield Mistake(
            f"ppo.critic.warmup_steps: {critic.warmup_steps} leaves none of ppo.steps = {ppo.steps} to the "
            "policy; lower it or raise ppo.steps",
            ("ppo.critic.warmup_steps", "ppo.steps"),
        )
    if critic.kind == "shared" and critic.start != "auto":
        yield Mistake(
            f"ppo.critic.start: {critic.start!r} is for ppo.critic.kind = separate; a shared one starts from "
            "the policy; remove it or change the kind",
            ("ppo.critic.start", "ppo.critic.kind"),
        )
    completions = ppo.prompts_per_step * ppo.group_size
    if completions == 1:
        yield Mistake(
            "ppo.prompts_per_step: 1, with ppo.group_size = 1, makes a step of one completion, which can "
            "be neither whitened nor told from others; raise one of the two",
            ("ppo.prompts_per_step", "ppo.group_size", "stage"),
        )
    if ppo.kl.target is not None and ppo.kl.coef == 0:
        yield Mistake(
            f"ppo.kl.target: {ppo.kl.target:g} is held by multiplying ppo.kl.coef, which is 0 and would stay "
            "so; give ppo.kl.coef a start, such as 0.05, or set the target to null",
            ("ppo.kl.target", "ppo.kl.coef", "stage"),
        )
    if ppo.kl.target is not None and ppo.kl.horizon < completions:
        yield Mistake(
            f"ppo.kl.horizon: {ppo.kl.horizon} is less than the {completions} completions of a step "
            "(prompts_per_step x group_size), so that one step could turn the penalty about; raise it",
            ("ppo.kl.horizon", "ppo.prompts_per_step", "ppo.group_size", "stage"),
        )


def _eval(config: "RunConfig") -> Iterator[Mistake]:
    evaluation = config.eval
    verifier = next((name for name in ("countdown", "reasoning_gym") if name in config.rewards), None)
    if verifier is not None and evaluation.reward == "accuracy" and "accuracy" not in config.rewards:
        yield Mistake(
            f"eval.reward: accuracy compares with the gold answer, which is not what {verifier} pays for; "
            f"set eval.reward to {verifier}",
            ("eval.reward", "rewards"),
        )
    too_large = [k for k in evaluation.pass_at if k > evaluation.samples]
    if too_large:
        yield Mistake(
            f"eval.pass_at: pass@{max(too_large)} needs at least {max(too_large)} samples of a question, but "
            f"eval.samples is {evaluation.samples}; raise eval.samples",
            ("eval.pass_at", "eval.samples"),
        )
    if len(set(evaluation.pass_at)) < len(evaluation.pass_at):
        yield Mistake(
            f"eval.pass_at: {list(evaluation.pass_at)} names a number twice; name each once",
            ("eval.pass_at",),
        )
    if evaluation.temperature == 0 and evaluation.samples > 1:
        yield Mistake(
            f"eval.samples: {evaluation.samples} greedy samples (eval.temperature = 0) would all be alike; "
            "set eval.samples to 1 or raise eval.temperature",
            ("eval.samples", "eval.temperature"),
        )


def _divisors(number: int) -> str:
    """The smallest divisors in words, as a hint."""
    found = [str(candidate) for candidate in range(1, min(number, 1000) + 1) if number % candidate == 0]
    return ", ".join(found if len(found) <= 8 else [*found[:8], "..."])
