"""`python -m rlreason eval MODEL_OR_RUN`: the evaluation of a run, for any model."""

import json
from pathlib import Path
from typing import Any

import torch

from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.evaluation.evaluator import Evaluation, Evaluator
from rlreason.policy.chat import Renderer, check_context, render_all
from rlreason.policy.model import load_policy
from rlreason.report.terminal import View
from rlreason.rollout import build_engine
from rlreason.scoring import Scorer, readable
from rlreason.tasks import TaskData, load_tasks


def model_path(model_or_run: str) -> str:
    """The model that an argument means: a run's final model, else its newest checkpoint, else itself.

    Raises UserError for a run that has saved none yet.
    """
    folder = Path(model_or_run)
    if not (folder / "metrics.jsonl").exists() and not (folder / "checkpoints").is_dir():
        return model_or_run
    if (folder / "model").is_dir():
        return str(folder / "model")
    earlier = [folder / "checkpoints" / stage for stage in ("pretrain", "sft")]
    checkpoints = [checkpoint for checkpoint in earlier if checkpoint.is_dir()]
    checkpoints += sorted((folder / "checkpoints").glob("step-*"))
    if not checkpoints:
        raise UserError(f"{model_or_run}: this run has saved neither a model nor a checkpoint yet")
    return str(checkpoints[-1])


def evaluate_command(model_or_run: str, config: RunConfig) -> None:
    """Evaluate and print the numbers, then as one line of JSON. Raises UserError for unusable input."""
    path = model_path(model_or_run)
    with Scorer(config) as scorer:
        summary = _evaluate(path, config, scorer)
    print(json.dumps(summary))


def _evaluate(path: str, config: RunConfig, scorer: Scorer) -> dict[str, Any]:
    data = load_tasks(config.task, seed=config.seed, eval_questions=config.eval.questions)
    data, left_out = readable(config, scorer, data)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with View() as view:
        if left_out:
            view.note(left_out)
        evaluation = evaluate_saved(path, config, scorer, data, view)
        view.evaluation(path, evaluation.summary)
    return evaluation.summary


def evaluate_saved(path: str, config: RunConfig, scorer: Scorer, data: TaskData, view: View) -> Evaluation:
    """Measure the model at `path` on the held-out questions. Raises UserError if it cannot be loaded."""
    plain = config.model.model_copy(update={"lora": None, "scratch": None, "path": path, "revision": None})
    policy = load_policy(plain)
    engine, engine_name = build_engine(policy, config.rollout)
    renderer = Renderer(policy.tokenizer, prompt_format=config.prompt.format, system=config.prompt.system)
    prompts, too_long = render_all(renderer, data.held_out, max_tokens=config.prompt.max_tokens)
    if not prompts:
        raise UserError(f"prompt.max_tokens={config.prompt.max_tokens}: no held-out question fits; raise it")
    check_context(policy.model, prompts, config.rollout.max_new_tokens)
    view.note(f"{path}: {len(prompts)} held-out questions ({too_long} too long), sampler {engine_name}")
    return Evaluator(config, scorer, renderer, prompts).run(engine, policy.eos_ids, view.note)
