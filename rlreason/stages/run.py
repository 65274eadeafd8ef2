"""A run: its checks, its stages in order, its verdict."""

import io
import json
import os
import shlex
import shutil
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from rlreason.config import RunConfig, dump
from rlreason.errors import UserError
from rlreason.evaluation.evaluator import Evaluation
from rlreason.evaluation.statistics import Answered
from rlreason.evaluation.steps import Step, step_table
from rlreason.report.terminal import View
from rlreason.report.text import harmless
from rlreason.runs import RunDirectory
from rlreason.runs.directory import METRICS
from rlreason.scoring import Scorer, readable, reward_model_path, without_own_model
from rlreason.stages.context import RunContext
from rlreason.stages.trackers import Trackers, check_trackers
from rlreason.tasks import TaskData, load_tasks

_SHOWN_LINES = 12
# How long processes wait for each other. One that dies ends the others sooner: its launcher sees to that.
_PATIENCE = timedelta(hours=2)


def run(config: RunConfig) -> None:
    """Train as `config` says, in `output_dir/name`; go on where an earlier process stopped.

    Questions and rewards are checked before a model is loaded. Raises UserError for what the user has to
    change, KeyboardInterrupt after an interrupt, with everything saved and the way to go on printed.
    """
    check_trackers(config.log.trackers)
    with Scorer(config) as scorer:
        _run(config, scorer)


def _run(config: RunConfig, scorer: Scorer) -> None:
    data = load_tasks(config.task, seed=config.seed, eval_questions=config.eval.questions)
    with Scorer(without_own_model(config)) as rules:
        data, left_out = readable(config, rules, data)
    root = Path(config.output_dir) / config.name
    accelerator = new_accelerator(config)
    from rlreason.stages.policies import check_new_model
    from rlreason.stages.preflight import check_sources, memory_warning

    check_new_model(config)
    check_sources(config, data.held_out, reward_model_done=reward_model_path(config).is_dir())
    with _open(root, config, accelerator) as directory, _view(accelerator) as view:
        for what in directory.damaged:
            view.note(what)
        view.note(_counts(data))
        if left_out:
            view.note(left_out)
        if warning := memory_warning(config, accelerator.device):
            view.note(f"warning: {warning}")
        context = RunContext(config, directory, view, data, scorer, accelerator)
        try:
            context.trackers = Trackers.start(config, root, accelerator, view.note)
            _run_stages(context)
        except KeyboardInterrupt:
            view.close()
            if accelerator.is_main_process:
                print(harmless(_how_to_go_on(directory, config)), file=sys.stderr)
            raise
        except UserError:  # a run that stops itself is the one that people look at
            if (root / METRICS).is_file():
                view.note(f"report: {_report(context)}")
            raise
        finally:
            context.trackers.close()


def _open(root: Path, config: RunConfig, accelerator: Any) -> RunDirectory:
    """Open the run in the main process, then let the others follow."""
    directory = RunDirectory.open(root, dump(config)) if accelerator.is_main_process else None
    accelerator.wait_for_everyone()
    return directory or RunDirectory.follow(root)


def _view(accelerator: Any) -> View:
    if accelerator.is_main_process:
        return View()
    return View(console=Console(file=io.StringIO()))


def new_accelerator(config: RunConfig) -> Any:
    """Threads, seeds, libraries' chatter and telemetry, then accelerate's Accelerator."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    if config.threads is not None:
        torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    # With `eval.each_stage` the main process evaluates, and the others wait for it at their next exchange.
    patience = InitProcessGroupKwargs(timeout=_PATIENCE)
    return Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[patience])


def _run_stages(context: RunContext) -> None:
    from rlreason.stages.grpo import train_grpo
    from rlreason.stages.ppo import train_ppo
    from rlreason.stages.pretrain import train_pretrain
    from rlreason.stages.reward_model import train_reward_model
    from rlreason.stages.sft import train_sft

    stages = {
        "pretrain": (train_pretrain, "pretraining"),
        "sft": (train_sft, "cold start: supervised fine-tuning"),
        "reward_model": (train_reward_model, "reward model"),
        "grpo": (train_grpo, "GRPO"),
        "ppo": (train_ppo, "PPO"),
    }
    for name in context.config.stages:
        train, title = stages[name]
        context.view.stage(title)
        train(context)
        if context.config.eval.each_stage and name in ("pretrain", "sft"):
            _evaluate_stage(context, name)
    if context.before is not None and context.after is not None:
        _verdict(context)
    else:
        _publish(context)


def _evaluate_stage(context: RunContext, name: str) -> None:
    """Measure the model that a stage has left, unless that has been done."""
    if context.load_evaluation(name) is not None or not context.accelerator.is_main_process:
        return
    from rlreason.evaluation.command import evaluate_saved

    with Scorer(without_own_model(context.config)) as scorer:
        found = evaluate_saved(str(context.start), context.config, scorer, context.data, context.view)
    context.save_evaluation(name, found)
    context.view.evaluation(f"after {name}", found.summary)


def _publish(context: RunContext) -> None:
    """A run that ends before reinforcement learning: the model of its last stage is the run's model."""
    start = context.reward_model if context.config.stages[-1] == "reward_model" else context.start
    assert start is not None

    def copy(folder: Path) -> None:
        shutil.copytree(start, folder, dirs_exist_ok=True)

    context.run.save_directory("model", copy)
    context.view.note(f"model: {context.run.root / 'model'}")
    context.view.note(f"report: {_report(context)}")


def _verdict(context: RunContext) -> None:
    """Write `eval.json`, and end with held-out accuracy before and after, and the gain."""
    before, after = context.before, context.after
    assert before is not None
    assert after is not None
    gain = after.gain_over(before)
    steps = _steps(context, before, after)
    context.run.write_eval(
        {"before": before.summary, "after": after.summary, "gain": gain, "steps": [s.record() for s in steps]}
    )
    stage = context.config.online_stage.upper()
    lines = [*step_table(steps), "", *_changes(context, before, after), *_places(context)]
    context.view.final(before.summary, after.summary, gain, lines, stage=stage)


def _steps(context: RunContext, before: Evaluation, after: Evaluation) -> list[Step]:
    """Held-out accuracy after each stage: of the models, and of best-of-n by the reward model."""
    config = context.config
    found = [
        Step(name, evaluation.summary["accuracy"], evaluation.summary["ci95"])
        for name in ("pretrain", "sft")
        if name in config.stages and (evaluation := context.load_evaluation(name)) is not None
    ]
    if not found or found[-1].name != "sft":
        found.append(
            Step(f"before {config.online_stage}", before.summary["accuracy"], before.summary["ci95"])
        )
    if context.reward_model is not None:
        report = json.loads((context.reward_model / "evaluation.json").read_text(encoding="utf-8"))
        if best := report.get("best_of"):
            found.append(Step(f"best of {best['n']} by reward_model", best["best"], best["best_ci95"]))
    return [*found, Step(config.online_stage, after.summary["accuracy"], after.summary["ci95"])]


def _changes(context: RunContext, before: Evaluation, after: Evaluation) -> list[str]:
    """How the reasoning changed: shares before and after, and one question answered by both."""
    rows = [
        ("answers in the asked form", "format", "{:.1%}"),
        ("reasoning works in steps", "derives", "{:.1%}"),
        ("cut off at the limit", "truncated", "{:.1%}"),
        ("tokens in a completion", "tokens", "{:.1f}"),
    ]
    lines = ["how the reasoning changed on held-out questions, before -> after"]
    for title, key, form in rows:
        lines.append(f"  {title:<27}{form.format(before.summary[key])} -> {form.format(after.summary[key])}")
    pairs = zip(before.questions, before.answered, after.answered, strict=True)
    learned = [(q, old[0], new[0]) for q, old, new in pairs if _learned(old[0], new[0])]
    if learned:
        question, old, new = learned[0]
        lines += ["", f"the first question that turned from wrong to right: {question}"]
        for label, answered in (("before", old), ("after", new)):
            lines += [f"  {label:<7}| {line}" for line in answered.text.strip().splitlines()[:_SHOWN_LINES]]
    return [*lines, ""]


def _places(context: RunContext) -> list[str]:
    """Where everything is, for the last lines of a run."""
    root = context.run.root
    return [f"model    {root / 'model'}", f"run      {root}", f"report   {_report(context)}", ""]


def _report(context: RunContext) -> str:
    """Write `report.html` into the run directory; say where it is, or why there is none.

    The run is over and saved by now. Nothing that goes wrong here may make it look as if it had failed: hence
    the one wide `except` of this file.
    """
    if not context.accelerator.is_main_process:
        return "written by the first process"
    root = context.run.root
    try:
        from rlreason.html_report import report_command

        return report_command([root], None).text()
    except Exception as error:
        said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        return (
            f"could not be written: {said}. The run is saved; to try again: python -m rlreason report {root}"
        )


def _learned(old: Answered, new: Answered) -> bool:
    """Whether a question turned from wrong to right. What has no mark is neither."""
    return old.correct is not None and new.correct is not None and old.correct < 1 <= new.correct


def _counts(data: TaskData) -> str:
    """What became of the rows of the task, with every count that is not 0."""
    counts = [f"{number} {name.replace('_', ' ')}" for name, number in data.report.items() if number]
    return f"questions: {', '.join(counts)}"


def _how_to_go_on(directory: RunDirectory, config: RunConfig) -> str:
    place = _place(directory, config)
    config_path = shlex.quote(str(directory.root / "config.yaml"))
    return f"stopped; nothing saved is lost. To go on {place}: python train.py {config_path}"


def _place(directory: RunDirectory, config: RunConfig) -> str:
    """Where the same command will go on: the newest that is saved, of the last stage that has begun."""
    for stage in reversed(config.stages):
        online = stage in ("grpo", "ppo")
        saved = directory.latest_checkpoint(None if online else stage)
        if saved:
            return f"after step {saved[0]} of {stage}"
        if not online and directory.saved_directory(f"checkpoints/{stage}"):
            return f"after {stage}"
    return f"from the start of {config.stages[0]}"
