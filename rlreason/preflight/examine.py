"""The part of the preflight that needs the model: loads it as the run would, and tries it out."""

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from rlreason.config import RunConfig
from rlreason.memory import Estimate, Machine, Prompts, estimate_run, machine, shape_of, warning_text
from rlreason.policy.chat import RenderedPrompt, Renderer, render_all
from rlreason.policy.examples import shares, tokens_computed
from rlreason.policy.model import Policy
from rlreason.policy.packing import Completion
from rlreason.policy.tokens import Token, beginnings, online_mask, tokens
from rlreason.preflight.forecast import Lengths, Stage, forecast
from rlreason.preflight.trial import Trial, try_out
from rlreason.report.terminal import Plan, View
from rlreason.runs import RunDirectory
from rlreason.scoring import Scorer, without_own_model
from rlreason.stages.context import RunContext
from rlreason.stages.grpo import GroupRelative
from rlreason.stages.loop_setup import assemble
from rlreason.stages.plan import workers_of
from rlreason.stages.policies import check_new_model, load_stage_policy
from rlreason.stages.ppo import CriticBased
from rlreason.stages.preflight import check_sources
from rlreason.stages.run import new_accelerator
from rlreason.stages.sft import collect_traces, trace_rows, trace_texts
from rlreason.stages.trackers import check_trackers
from rlreason.tasks import TaskData, load_tasks

ONLINE = ("grpo", "ppo")
_LEFT_OUT = (
    "rewards.learned: its model is made in the run, so that the completions tried here are scored, and their "
    "scoring is timed, without it"
)
_MANY = 0.3  # share of completions cut off from which right answers are likely to be lost


@dataclass(frozen=True)
class Finding:
    """An `error` means that the run would not learn what it is to learn; a `warning` may be lived with."""

    level: Literal["error", "warning"]
    text: str


@dataclass
class Preflight:
    """All that was found. `shown` are prompts with a completion, token by token, by what they are for.

    `trial` and `forecast` are None and empty where the config has no stage that samples its own completions.
    """

    config: RunConfig
    plan: Plan | None
    notes: list[str]
    eos: list[tuple[int, str]]
    begins: int | None
    prompt_lengths: list[int]
    estimate: Estimate
    machine: Machine
    shown: dict[str, list[Token]] = field(default_factory=dict)
    trial: Trial | None = None
    forecast: list[Stage] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.findings.append(Finding("warning", text))

    def fail(self, text: str) -> None:
        self.findings.append(Finding("error", text))

    @property
    def sound(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)

    @property
    def is_start(self) -> bool:
        """Whether the model that samples in the last stage is the one that was tried."""
        return self.config.stages[0] in ONLINE


def examine(config: RunConfig, tell: Callable[[str], None] = lambda text: None) -> Preflight:
    """Load the model, and try it on a few of its questions. Nothing is written to the run's folder.

    Raises UserError for what the run itself would refuse.
    """
    check_trackers(config.log.trackers)
    check_new_model(config)
    with Scorer(without_own_model(config)) as scorer, tempfile.TemporaryDirectory() as folder:
        data = load_tasks(config.task, seed=config.seed, eval_questions=config.eval.questions)
        accelerator = new_accelerator(config)
        check_sources(config, data.held_out, reward_model_done=False)
        view = View(console=Console(file=io.StringIO()))
        follow = RunDirectory.follow(Path(folder) / "run")
        context = RunContext(config, follow, view, data, scorer, accelerator)
        tell("loading the model ...")
        found_traces = collect_traces(context)[0] if "sft" in config.stages else []
        if config.model.scratch is not None:
            context.start = _new_model(context, trace_texts(found_traces), Path(folder) / "start")
        if set(ONLINE) & set(config.stages):
            return _with_trial(context, data, found_traces, tell)
        return _without_trial(context, data, found_traces)


def _new_model(context: RunContext, texts: list[str], folder: Path) -> Path:
    """A model from nothing, saved as an earlier stage would leave it: later ones take its tokenizer."""
    folder.mkdir()
    load_stage_policy(context, texts=texts).save(folder)
    return folder


def _with_trial(
    context: RunContext, data: TaskData, traces: list[Any], tell: Callable[[str], None]
) -> Preflight:
    config = context.config
    rules = without_own_model(config)
    # GDPO reads each reward of a completion, and these are scored by the rules alone.
    method = CriticBased(rules) if config.online_stage == "ppo" else GroupRelative(rules)
    setup, plan, notes = assemble(context, method, None)
    if rules is not config:
        notes = [*notes, _LEFT_OUT]
    prompts = setup.stream.take(max(config.online.prompts_per_step, 1))
    found = _found(context, setup.policy, setup.collector.renderer, plan, notes, data)
    rows = _trace_rows(context, setup.collector.renderer, traces, found)
    trial = found.trial = try_out(context, setup, prompts, tell)
    ended = next((sample for sample in trial.samples if not sample.truncated), trial.samples[0])
    _show(
        found,
        f"{config.online_stage}: a sampled completion",
        setup.policy,
        setup.collector.renderer,
        ended.prompt,
        ended.rollout.completion_ids,
    )
    mean = sum(trial.lengths) / len(trial.lengths)
    drawn = cycle(trial.lengths)
    step = [
        Completion(group, prompt.ids, [0] * next(drawn))
        for group, prompt in enumerate(prompts)
        for _ in range(config.online.learned_size)
    ]
    lengths = Lengths(
        prompt=sum(found.prompt_lengths) / len(found.prompt_lengths),
        completion=mean,
        update=setup.updater.tokens(step),
        traces=_tokens_of_a_row(context, setup.policy, rows),
        trace_rows=len(rows),
    )
    found.forecast = forecast(config, trial.rates, lengths)
    _judge(found, trial)
    return found


def _without_trial(context: RunContext, data: TaskData, traces: list[Any]) -> Preflight:
    policy = load_stage_policy(context)
    config = context.config
    renderer = Renderer(policy.tokenizer, prompt_format=config.prompt.format, system=config.prompt.system)
    found = _found(context, policy, renderer, None, [], data)
    _trace_rows(context, renderer, traces, found)
    return found


def _found(
    context: RunContext,
    policy: Policy,
    renderer: Renderer,
    plan: Plan | None,
    notes: list[str],
    data: TaskData,
) -> Preflight:
    """What follows from model, tokenizer and prompts alone."""
    config = context.config
    rendered, left_out = render_all(renderer, data.train, max_tokens=config.prompt.max_tokens)
    lengths = sorted(len(prompt.ids) for prompt in rendered)
    size = machine(policy.device)
    workers = workers_of(context.scorer.isolated())
    asked, _ = render_all(renderer, data.held_out, max_tokens=config.prompt.max_tokens)
    prompts = Prompts.rendered(config, [one.ids for one in rendered], [one.ids for one in asked])
    estimate = estimate_run(config, shape_of(policy.model), prompts, policy.device, workers=workers)
    tokenizer: Any = policy.tokenizer
    begins = beginnings(tokenizer, rendered[0].ids) if rendered else None
    found = Preflight(
        config,
        plan,
        notes,
        [(token, str(tokenizer.decode([token]))) for token in policy.eos_ids],
        begins,
        lengths,
        estimate,
        size,
    )
    if left_out:
        found.warn(
            f"prompt.max_tokens={config.prompt.max_tokens}: {left_out} of {left_out + len(rendered)} "
            "training prompts are longer and are left out; raise it"
        )
    if begins == 0 and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]:
        found.warn(
            f"model.path: its tokenizer begins a text with {tokenizer.bos_token!r}, and its chat "
            "template does not write it, so that prompts begin as the model may never have seen; "
            "correct chat_template in its tokenizer_config.json"
        )
    if warning := warning_text(estimate, size):
        found.warn(warning)
    return found


def _trace_rows(
    context: RunContext, renderer: Renderer, traces: list[Any], found: Preflight
) -> list[dict[str, Any]]:
    """The rows of stage `sft`, whose first is shown."""
    if not traces:
        return []
    limit = context.config.prompt.max_tokens + context.config.rollout.max_new_tokens
    rows, _ = trace_rows(renderer, traces, limit=limit)
    if rows:
        mask = [bool(one) for one in rows[0]["completion_mask"]]
        ids, begins = rows[0]["input_ids"], mask.index(True)
        prompt = RenderedPrompt(traces[0].example, ids[:begins], renderer.render(traces[0].example).prefill)
        eos = [token for token, _ in found.eos]
        found.shown["sft: a completion to imitate"] = tokens(renderer, prompt, ids[begins:], mask, eos)
        _check_end(found, "sft: a completion to imitate", ended=True)
    return rows


def _tokens_of_a_row(context: RunContext, policy: Policy, rows: list[dict[str, Any]]) -> float:
    """Tokens that stage `sft` computes for each of its rows; what a batch begins with may count once."""
    if not rows:
        return 0.0
    config = context.config
    # Of the policy that was probed dropout is off; in the stage it is not.
    dropped = config.model.lora is not None and config.model.lora.dropout > 0
    share = shares(policy.model) and not dropped and context.accelerator.num_processes == 1
    return tokens_computed(rows, config.sft.batch_size, share=share) / len(rows)


def _show(
    found: Preflight, title: str, policy: Policy, renderer: Renderer, prompt: RenderedPrompt, ids: list[int]
) -> None:
    mask = online_mask(prompt.ids, ids)
    found.shown[title] = tokens(renderer, prompt, ids, mask, policy.eos_ids)
    _check_end(found, title, ended=ids[-1] in policy.eos_ids)


def _check_end(found: Preflight, title: str, *, ended: bool) -> None:
    """The token that ends a completion is one that ends a turn, and is learned."""
    last = found.shown[title][-1]
    if ended and not (last.kind == "end" and last.loss):
        why = "carries no loss" if last.kind == "end" else "ends no turn"
        found.fail(
            f"model.path: {title} ends with {last.text!r} (id {last.id}), which {why}, so that the model "
            "would not learn to stop; set eos_token_id in generation_config.json and eos_token in "
            "tokenizer_config.json to the token that ends a turn of its chat template"
        )


def _judge(found: Preflight, trial: Trial) -> None:
    """What a few completions say of the run."""
    config = found.config
    if config.model.scratch is not None:
        return  # a model that knows nothing says nothing of the one that will sample
    limit, count, cut = config.rollout.max_new_tokens, len(trial.samples), trial.cut_off
    later = "" if found.is_start else f". The stages before {config.online_stage} may change that"
    at = "" if trial.limit == limit else f" at {trial.limit} tokens already, where sampling was ended here"
    said = (
        f"rollout.max_new_tokens={limit}: {cut:.0%} of {count} completions were cut off{at}; raise it, or "
        f"ask for shorter answers in prompt.system{later}"
    )
    if cut == 1 and found.is_start and not at:
        found.fail(said)
    elif cut >= _MANY:
        found.warn(said)
    without = "" if without_own_model(config) is config else " without rewards.learned"
    totals = {sample.score.total for sample in trial.samples}
    if len(totals) == 1 and "random" not in config.rewards:
        found.warn(
            f"rewards: all {count} completions earned {totals.pop()}{without}, and where all earn the same "
            "nothing is learned; take easier questions, or a cold start "
            f"(stage=[sft,{config.online_stage}]){later}"
        )
