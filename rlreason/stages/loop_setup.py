"""What the loop works with: prepared before its first step, or put back by a resumed run."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlreason.doctor import Doctor, examine, read_run
from rlreason.errors import UserError
from rlreason.evaluation.evaluator import Evaluation, Evaluator
from rlreason.policy.chat import RenderedPrompt, Renderer, check_context, render_all
from rlreason.policy.checkpoint import load_training_state, save_training_state
from rlreason.policy.forward import CompletionLogprobs, probe_forward
from rlreason.policy.model import Policy
from rlreason.report.terminal import Plan
from rlreason.rollout import Engine, build_engine, sampling_of
from rlreason.runs.manifest import other_versions
from rlreason.runs.resume import check_rows, digest_of
from rlreason.stages.collect import Collector, PromptStream
from rlreason.stages.context import RunContext
from rlreason.stages.guards import FiniteGuard
from rlreason.stages.plan import online_plan
from rlreason.stages.policies import load_reference, load_stage_critic, load_stage_policy
from rlreason.stages.update import Updater

if TYPE_CHECKING:
    from rlreason.stages.loop import Method


@dataclass
class OnlineSetup:
    """The moving parts of the stage. `step` is the last step that is done, `saved` the last one saved.

    `best` says which step did best on the held-out questions, if any has been measured. `rows` is the
    hash of those that are trained on.
    """

    method: "Method"
    policy: Policy
    engine: Engine
    collector: Collector
    stream: PromptStream
    updater: Updater
    evaluator: Evaluator
    doctor: Doctor
    rows: str
    step: int = 0
    without_signal: int = 0
    told: set[str] = field(default_factory=set)  # what has been told of, and is said once only
    saved: int = 0
    best: dict[str, Any] | None = None


def prepare(context: RunContext, method: "Method") -> OnlineSetup:
    """Load or resume policy, sampler and optimizer, show the plan, and measure the start."""
    saved = context.run.latest_checkpoint()
    setup, plan, notes = assemble(context, method, saved)
    context.view.plan(plan)
    for line in notes:
        context.view.note(line)
    if saved is None:
        context.run.rewind(0, context.config.online_stage)
        context.run.write_best(None)
        context.before = evaluate(context, setup, "before")
    else:
        _resume(context, setup, saved[0])
    return setup


def assemble(
    context: RunContext, method: "Method", saved: tuple[int, Path] | None
) -> tuple[OnlineSetup, Plan, list[str]]:
    """All that the loop works with, from the stage's start or the model of a checkpoint, and the plan.

    The last are notes: what of this model is computed in another way, and why.
    """
    config = context.config
    start = context.start
    if saved is not None and config.model.lora is None:
        context.start = saved[1]
    policy = load_stage_policy(context)
    context.start = start
    reference = load_reference(context, policy)
    engine, engine_name = build_engine(policy, config.rollout)
    renderer = Renderer(policy.tokenizer, prompt_format=config.prompt.format, system=config.prompt.system)
    train, held_out = _render(context, policy, renderer)
    forward = CompletionLogprobs(policy)
    notes = probe_forward(policy, forward)
    critic = load_stage_critic(context, policy, forward)
    sampling = sampling_of(config.rollout)
    judges = {"the reference": reference and reference.model, "the critic": critic and critic.critic.trunk}
    for name, model in judges.items():
        if model is not None:
            check_context(model, [*train, *held_out], config.rollout.max_new_tokens, name=name)
    setup = OnlineSetup(
        method=method,
        policy=policy,
        engine=engine,
        collector=Collector(
            engine, renderer, context.scorer, sampling, policy.eos_ids, config.online.group_size, config.seed
        ),
        stream=PromptStream(train, config.seed),
        rows=digest_of({"ids": p.ids, "answer": p.example.answer} for p in train),
        updater=Updater(
            config,
            policy,
            reference,
            context.accelerator.prepare(forward if critic is None else critic),
            context.accelerator,
            guard=FiniteGuard(context.run, config.online_stage, context.view.note),
        ),
        evaluator=Evaluator(config, context.scorer, renderer, held_out),
        # Before the first step even the evaluation `before` is still to come.
        doctor=examine(read_run(context.run.root, until=saved[0] if saved is not None else -1)),
    )
    plan = online_plan(config, policy, engine_name, train, held_out, context.scorer.isolated())
    return setup, plan, notes


def _render(
    context: RunContext, policy: Policy, renderer: Renderer
) -> tuple[list[RenderedPrompt], list[RenderedPrompt]]:
    """Render both sets of questions; refuse a limit that leaves none, or a model too short for it."""
    config = context.config
    limit = config.prompt.max_tokens
    train, long_train = render_all(renderer, context.data.train, max_tokens=limit)
    held_out, long_held_out = render_all(renderer, context.data.held_out, max_tokens=limit)
    if long_train or long_held_out:
        context.view.note(
            f"prompts over prompt.max_tokens={limit}: {long_train} training and {long_held_out} held-out "
            "questions left out"
        )
    if not train or not held_out:
        raise UserError(
            f"prompt.max_tokens={limit}: no question fits ({long_train} training and {long_held_out} "
            "held-out prompts are longer); raise it"
        )
    check_context(policy.model, [*train, *held_out], config.rollout.max_new_tokens)
    return train, held_out


def evaluate(context: RunContext, setup: OnlineSetup, label: str) -> Evaluation:
    """Measure the policy as it is; keep the numbers and every completion under `label`."""
    context.view.note(f"evaluating on held-out questions ({label}) ...")
    evaluation = setup.evaluator.run(setup.engine, setup.policy.eos_ids, context.view.note)
    context.save_evaluation(label, evaluation)
    if label != "after":
        setup.doctor.measured(setup.step, evaluation.summary)
    context.view.evaluation(label, evaluation.summary)
    return evaluation


def is_best(setup: OnlineSetup, evaluation: Evaluation) -> bool:
    """Whether the policy did better on the held-out questions than after any earlier step; notes it if so."""
    accuracy = evaluation.summary["accuracy"]
    if accuracy is None or (setup.best is not None and accuracy <= setup.best["accuracy"]):
        return False
    setup.best = {"step": setup.step, "accuracy": accuracy, "ci95": evaluation.summary["ci95"]}
    return True


def save_checkpoint(context: RunContext, setup: OnlineSetup) -> None:
    """Save what going on after `setup.step` needs, unless that is done."""
    if setup.step == setup.saved:
        return
    state: dict[str, Any] = {
        "stage": context.config.online_stage,
        "step": setup.step,
        "updates": setup.updater.updates,
        "position": setup.stream.position,
        "without_signal": setup.without_signal,
        "method": setup.method.state(),
        "skipped_in_a_row": setup.updater.guard.in_a_row,
        "best": setup.best,
        "rows": setup.rows,
    }
    best = setup.best["step"] if setup.best else None
    context.run.save_checkpoint(
        setup.step,
        lambda folder: save_training_state(
            folder, setup.policy, setup.updater.optimizer, state, setup.updater.critic_parameters
        ),
        best=best,
    )
    setup.saved = setup.step
    if best == setup.step:
        _name_best(context, setup)


def _name_best(context: RunContext, setup: OnlineSetup) -> None:
    """Bring `checkpoints/best.json` to what `setup.best` says."""
    if setup.best is None:
        context.run.write_best(None)
        return
    path = context.run.checkpoint_path(setup.best["step"]).relative_to(context.run.root)
    context.run.write_best({**setup.best, "checkpoint": str(path)})


def _measure_start(context: RunContext, setup: OnlineSetup) -> Evaluation:
    """The evaluation before the stage, of the model that it started from, once more: it was damaged."""
    context.view.note("evaluating once more the model that the stage started from ...")
    plain = context.config.model.model_copy(update={"lora": None, "gradient_checkpointing": False})
    policy = load_stage_policy(replace(context, config=context.config.model_copy(update={"model": plain})))
    engine, _ = build_engine(policy, context.config.rollout)
    evaluation = setup.evaluator.run(engine, policy.eos_ids)
    context.save_evaluation("before", evaluation)
    return evaluation


def _resume(context: RunContext, setup: OnlineSetup, step: int) -> None:
    path = context.run.checkpoint_path(step)
    updater = setup.updater
    state = load_training_state(path, setup.policy, updater.optimizer, updater.critic_parameters)
    check_rows(state, setup.rows, field="task.name", value=context.config.task.name)
    setup.step = setup.saved = step
    updater.guard.in_a_row = state.get("skipped_in_a_row", 0)
    setup.best = state.get("best")
    # A process that was killed behind its checkpoint has not come to these two.
    _name_best(context, setup)
    context.run.prune_checkpoints(best=setup.best["step"] if setup.best else None)
    updater.updates = state["updates"]
    setup.method.restore(state["method"])
    setup.stream.position = state["position"]
    setup.without_signal = state["without_signal"]
    setup.engine.refresh()
    context.run.rewind(step, context.config.online_stage)
    context.before = context.load_evaluation("before") or _measure_start(context, setup)
    if context.before.questions != setup.evaluator.questions:
        raise UserError(
            "task: the held-out questions are no longer those of the evaluation before this run, so its gain "
            "could not be measured; restore the data, or choose another name= for a new run"
        )
    context.view.note(f"going on after step {step} of {context.config.online.steps}, from {path}")
    if changed := other_versions(path):
        context.view.note(f"warning: {path.name} was {changed}")
