"""Stage `reward_model`: learn from pairs which completion is better, with TRL's RewardTrainer.

The model that the run trains stays as it is; beside it, a copy with a scalar head learns to score. `learned`
uses it as a reward, and stage `ppo` starts its critic from it.
"""

import json
import random
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from torch import nn

from rewards.learned import Judge
from rlreason.config import RunConfig
from rlreason.config.training import ROLLOUTS
from rlreason.errors import UserError
from rlreason.evaluation.preferences import Judged, best_of, preference_report
from rlreason.policy.adapter import merged_state, with_adapter
from rlreason.policy.model import Policy, switch_dropout_off
from rlreason.policy.scalar import load_scalar_model
from rlreason.report.progress import Progress
from rlreason.runs.resume import check_rows, digest_of
from rlreason.seeds import derive_seed
from rlreason.stages.context import RunContext
from rlreason.stages.exact import ExactTrainer, begin
from rlreason.stages.pairs import Ranked, rollout_pairs
from rlreason.stages.policies import load_stage_policy
from rlreason.stages.trainer import trainer_arguments
from rlreason.tasks import Pair, holds, load_pairs, question_key
from rlreason.types import Example

NAME = "reward_model"
_PAIRS = "checkpoints/pairs"
_BATCH = 16
_SCALED_BY = 512  # pairs by which the scores are centred and scaled


@dataclass(frozen=True)
class PairData:
    """Pairs to train on and held-out ones; `ranked` are the held-out completions that were sampled here."""

    train: list[Pair]
    held_out: list[Pair]
    ranked: list[Ranked] = field(default_factory=list)


def train_reward_model(context: RunContext) -> None:
    """Run the stage; `context.reward_model` is its model's directory. A finished one is not run again."""
    done = context.run.saved_directory(f"checkpoints/{NAME}")
    if done is not None:
        context.run.drop_checkpoints(NAME)  # the process may have ended before it came to that
        context.view.note(f"reward model: already done, it is {done}")
        context.reward_model = done
        return
    policy = load_stage_policy(context)
    carried = begin(context, NAME, "reward model")
    data = _pairs(context, policy)
    model = _scalar_model(context, policy)
    judge = Judge(model, policy.tokenizer, context.config.reward_model.max_tokens)
    before = len(data.train)
    data = usable(judge, data)
    context.view.note(
        f"reward model: {len(data.train)} pairs to train on ({before - len(data.train)} left out), "
        f"{len(data.held_out)} held out"
    )
    rows = pair_rows(judge, data.train)
    pairs = context.config.reward_model.pairs
    check_rows(carried, digest_of(rows), field="reward_model.pairs", value=pairs)
    _fit(context, policy, model, rows)
    report = _measure(context, judge, data)
    context.reward_model = context.run.save_directory(
        f"checkpoints/{NAME}", lambda folder: _save(folder, policy, judge, data, report)
    )
    context.run.drop_checkpoints(NAME)
    context.accelerator.wait_for_everyone()


# ---------------------------------------------------------------------- pairs


def pairs_of_files(config: RunConfig, questions: Sequence[Example]) -> PairData | None:
    """Pairs of files, None for rollouts; all pairs of a prompt are trained on, or all are held out.

    Held out is the share `held_out` of the prompts, and beside it every prompt that holds one of `questions`,
    the task's held-out ones: the reward must not have learned their answers.
    """
    if ROLLOUTS in config.reward_model.pairs:
        return None
    pairs = load_pairs(config.reward_model.pairs)
    asked = sorted({key for key in map(question_key, questions) if key})
    keys = sorted({pair.key for pair in pairs})
    held_out = {key for key in keys if holds(key, asked)}
    rest = [key for key in keys if key not in held_out]
    random.Random(derive_seed("pairs", config.seed)).shuffle(rest)
    held_out |= set(rest[: round(config.reward_model.held_out * len(rest))])
    if not 0 < len(held_out) < len(keys):
        raise UserError(
            f"reward_model.held_out: {config.reward_model.held_out:g} of {len(rest)} prompts (beside "
            f"{len(keys) - len(rest)} that ask a held-out question) leaves none to measure on or none to "
            "train on; give more pairs or another share"
        )
    return PairData(
        [pair for pair in pairs if pair.key not in held_out], [pair for pair in pairs if pair.key in held_out]
    )


def _pairs(context: RunContext, policy: Policy) -> PairData:
    """The pairs of the config, kept in the run at once: a stage that was stopped does not sample again."""
    data = pairs_of_files(context.config, context.data.held_out)
    saved = context.run.saved_directory(_PAIRS)
    if data is None and saved is not None:
        context.view.note(f"reward model: the pairs are those sampled before, in {saved}")
        return _read_pairs(saved)
    data = data or _from_rollouts(context, policy)
    context.run.save_directory(_PAIRS, lambda folder: _write_pairs(folder, data))
    return data


def _write_pairs(folder: Path, data: PairData) -> None:
    """`pairs.jsonl`, which is also a file that `reward_model.pairs` takes, and the held-out completions."""
    pairs = [{"part": "train", **asdict(pair)} for pair in data.train]
    pairs += [{"part": "held_out", **asdict(pair)} for pair in data.held_out]
    for name, rows in (("pairs", pairs), ("completions", [asdict(one) for one in data.ranked])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


def _read_pairs(folder: Path) -> PairData:
    parts: dict[str, list[Pair]] = {"train": [], "held_out": []}
    for row in _rows(folder / "pairs.jsonl"):
        parts[row.pop("part")].append(Pair(**{**row, "prompt": tuple(row["prompt"])}))
    ranked = [
        Ranked(**{**row, "prompt": tuple(row["prompt"])}) for row in _rows(folder / "completions.jsonl")
    ]
    return PairData(parts["train"], parts["held_out"], ranked)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _from_rollouts(context: RunContext, policy: Policy) -> PairData:
    """Pairs of sampled completions of training questions; of held-out ones to measure on."""
    settings = context.config.reward_model
    context.view.note("reward model: sampling completions to rank ...")
    questions = context.data.train
    order = list(range(len(questions)))
    random.Random(derive_seed("pair questions", context.config.seed)).shuffle(order)
    chosen = [questions[place] for place in order[: settings.questions]]
    train, _ = rollout_pairs(context, policy, chosen, "train")
    held_out, ranked = rollout_pairs(context, policy, context.data.held_out, "held out")
    for pairs, what in ((train, "training"), (held_out, "held-out")):
        if not pairs:
            raise UserError(
                f"reward_model.pairs: no two completions of a {what} question earn different rewards, and "
                "there is nothing to rank; raise reward_model.samples or reward_model.questions, take easier "
                "questions, or give files of pairs"
            )
    return PairData(train, held_out, ranked)


def usable(judge: Judge, data: PairData) -> PairData:
    """The pairs that the model can read, and tell apart by their tokens.

    Raises UserError if none are left, or if a file has a pair whose sides are the same tokens. A sampled one
    of that kind is left out: the template may strip what the rules looked at.
    """
    kept: dict[str, Any] = {}
    for part, what in (("train", "training"), ("held_out", "held-out")):
        pairs: list[Pair] = getattr(data, part)
        sides = [_sides(judge, pair) for pair in pairs]
        same = [pair for pair, (chosen, rejected) in zip(pairs, sides, strict=True) if chosen == rejected]
        if same and not data.ranked:
            raise UserError(
                "reward_model.pairs: chosen and rejected are the same tokens for this tokenizer: "
                f"{same[0].chosen!r:.60} and {same[0].rejected!r:.60}; remove the pair"
            )
        told = [(pair, ids) for pair, ids in zip(pairs, sides, strict=True) if ids[0] != ids[1]]
        kept[part] = [pair for pair, ids in told if max(map(len, ids)) <= judge.longest]
        if told and not kept[part]:
            raise UserError(
                f"reward_model.max_tokens={judge.longest}: all {len(told)} {what} pairs are longer; raise it"
            )
        if not told:
            raise UserError(
                f"reward_model.pairs: in all {len(pairs)} {what} pairs both sides are the same tokens in the "
                "chat template of this model; give files of pairs, or another model"
            )
    return replace(data, **kept)


def pair_rows(judge: Judge, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Tokenize pairs as `learned` will read them."""
    margins = any(pair.margin is not None for pair in pairs)
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        chosen, rejected = _sides(judge, pair)
        row: dict[str, Any] = {"chosen_ids": chosen, "rejected_ids": rejected}
        rows.append({**row, "margin": pair.margin or 0.0} if margins else row)
    return rows


def _sides(judge: Judge, pair: Pair) -> tuple[list[int], list[int]]:
    prompt = list(pair.prompt)
    return judge.token_ids(prompt, pair.chosen), judge.token_ids(prompt, pair.rejected)


# ---------------------------------------------------------------------- model


def _scalar_model(context: RunContext, policy: Policy) -> Any:
    """A copy of the model so far with a new scalar head; with `model.lora` an adapter and the head train."""
    config, start = context.config, context.start
    if start is None and config.model.scratch is not None:
        raise UserError(
            "stage: reward_model has nothing to start from, as model.scratch is a model that knows nothing; "
            "put pretrain or sft before it"
        )
    model, _ = load_scalar_model(config.model, start or config.model.path, "model.path")
    head, model.score = model.score, nn.Identity()  # no adapter for the head, which trains whole
    # N(0, 1 / (d + 1)), as in arXiv 1909.08593: from 0, no gradient would reach the trunk at first.
    torch.manual_seed(derive_seed("reward head", config.seed))
    nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)
    wrapped = model if config.model.lora is None else with_adapter(model, config.model.lora, task_type=None)
    model.score = head.requires_grad_(True)
    switch_dropout_off(wrapped)
    return wrapped.to(policy.device)


def _fit(context: RunContext, policy: Policy, model: Any, rows: list[dict[str, Any]]) -> None:
    from trl import RewardConfig, RewardTrainer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    class ExactReward(ExactTrainer, RewardTrainer):
        pass

    disable_progress_bars()
    settings = context.config.reward_model
    # The score is read behind the last token that is no padding: none of the texts may end in that.
    used = {token for row in rows for side in ("chosen_ids", "rejected_ids") for token in row[side]}
    size = model.get_input_embeddings().weight.shape[0]
    padding = next((token for token in (policy.pad_id, *range(size)) if token not in used), None)
    if padding is None:
        raise UserError(
            "model.path: every token of the vocabulary is in the pairs, so that none can be padding"
        )
    arguments = trainer_arguments(
        RewardConfig,
        context,
        policy,
        NAME,
        settings,
        max_length=None,
        center_rewards_coefficient=settings.center or None,
    )
    trainer = ExactReward(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=deepcopy(policy.tokenizer),  # it may be given a padding token
        data_collator=DataCollatorForPreference(pad_token_id=padding),
    )
    # Not before: the trainer has just set it to the tokenizer's.
    settled = model.config.get_text_config()
    settled.pad_token_id = padding
    trainer.run_stage(context, NAME, {"rows": digest_of(rows)})
    settled.pad_token_id = policy.pad_id
    model.eval()


# ---------------------------------------------------------------------- measure, save


@torch.no_grad()
def _measure(context: RunContext, judge: Judge, data: PairData) -> dict[str, Any]:
    """Score the held-out pairs, and best-of-n on sampled ones; show what came out."""
    view, pairs = context.view, data.held_out
    sides = [(pair.prompt, text) for pair in pairs for text in (pair.chosen, pair.rejected)]
    said = [(ranked.prompt, text) for ranked in data.ranked for text in ranked.texts]
    prompts, texts = zip(*sides, *said, strict=True)
    scores = iter(_scores(judge, prompts, texts, view.note))
    judged = _judged(judge, pairs, [(next(scores), next(scores)) for _ in pairs])
    report = preference_report(judged, longer_is_better=_longer(judge, data.train))
    if data.ranked:
        by_question = [[next(scores) for _ in ranked.texts] for ranked in data.ranked]
        report["best_of"] = best_of(by_question, [ranked.marks for ranked in data.ranked])
    low, high = (100 * bound for bound in report["ci95"])
    view.note(
        f"reward model: {report['accuracy']:.1%} [{low:.1f}, {high:.1f}] of {report['n']} held-out pairs are "
        f"right, {report['length_accuracy']:.1%} by length alone; calibration error "
        f"{report['calibration_error']:.3f}, correlation with length {_number(report['length_correlation'])}"
    )
    if report["over_length_ci95"][0] <= 0:
        view.note("warning: it is not shown to be better than counting tokens; expect length to be rewarded")
    if "best_of" in report:
        best = report["best_of"]
        low, high = (100 * bound for bound in best["ci95"])
        view.note(
            f"reward model: best of {best['n']} {best['best']:.1%} right, mean {best['mean']:.1%}, gain "
            f"{100 * best['gain']:+.1f} points [{low:.1f}, {high:.1f}]"
        )
    return report


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _scores(
    judge: Judge, prompts: Sequence[Any], texts: Sequence[str], note: Callable[[str], None] | None = None
) -> list[float]:
    """The model's outputs; what is too long for it has none, and comes last. What is said twice is read once.

    Raises UserError if one is no finite number.
    """
    keys = [tuple(judge.token_ids(list(prompt), text)) for prompt, text in zip(prompts, texts, strict=True)]
    first = {key: place for place, key in reversed(list(enumerate(keys)))}
    places = list(first.values())
    told = Progress(note, "completions scored", len(places)) if note else None
    read = judge.outputs([list(prompts[p]) for p in places], [texts[p] for p in places], _BATCH, told)
    by_key = dict(zip(first, read, strict=True))
    found = [by_key[key] for key in keys]
    if not all(score is None or isfinite(score) for score in found):
        raise UserError(
            "reward_model: after training its scores are no finite numbers; lower reward_model.optim.lr, or "
            "set model.precision to float32"
        )
    return [float("-inf") if score is None else score for score in found]


def _judged(judge: Judge, pairs: Sequence[Pair], scores: Sequence[tuple[float, float]]) -> list[Judged]:
    """Pairs with what was said of their sides, and how long these are."""
    groups = {key: number for number, key in enumerate(dict.fromkeys(pair.key for pair in pairs))}
    return [
        Judged(groups[pair.key], *both, *_lengths(judge, pair))
        for pair, both in zip(pairs, scores, strict=True)
    ]


def _lengths(judge: Judge, pair: Pair) -> tuple[int, int]:
    """The tokens of both completions, without those of the prompt."""
    around = len(judge.token_ids(list(pair.prompt), ""))
    chosen, rejected = _sides(judge, pair)
    return len(chosen) - around, len(rejected) - around


def _longer(judge: Judge, pairs: Sequence[Pair]) -> bool:
    """Whether the longer side was chosen more often."""
    signs = [(a > b) - (a < b) for a, b in (_lengths(judge, pair) for pair in pairs)]
    return sum(signs) >= 0


def _save(folder: Path, policy: Policy, judge: Judge, data: PairData, report: dict[str, Any]) -> None:
    """Write a model that `learned` loads, the scale of its scores, and its report."""
    model, some = judge.model, data.train[:_SCALED_BY]
    scores = _scores(
        judge, [p.prompt for p in some] * 2, [p.chosen for p in some] + [p.rejected for p in some]
    )
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.config.reward_mean, base.config.reward_std = fmean(scores), pstdev(scores) or 1.0
    if base is model:
        model.save_pretrained(folder)
    else:
        base.save_pretrained(folder, state_dict=merged_state(model))
    policy.tokenizer.save_pretrained(folder)
    (folder / "evaluation.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
