"""Stage `sft`: imitate worked solutions, with TRL's SFTTrainer. The cold start before GRPO."""

import random
from typing import Any

from datasets import Dataset, disable_progress_bars
from transformers.trainer_callback import PrinterCallback

from rlreason.errors import UserError
from rlreason.policy.chat import Renderer
from rlreason.policy.model import Policy
from rlreason.seeds import derive_seed
from rlreason.stages.context import RunContext
from rlreason.stages.policies import load_stage_policy
from rlreason.stages.trainer import Recorder, balanced_experts, trainer_arguments
from rlreason.tasks import Trace, load_traces, traces

NAME = "sft"


def collect_traces(context: RunContext) -> list[Trace]:
    """The traces to imitate, in seeded order: the task's own derivations, or those of a file."""
    config = context.config
    seed = derive_seed("traces", config.seed)
    if config.sft.traces == "derivations":
        examples = context.data.train[: config.sft.size]
        found = traces(config.task, examples, config.sft.style_shares, seed)
    else:
        found = load_traces(config.sft.traces, exclude=context.data.held_out)
    random.Random(seed).shuffle(found)
    found = found[: config.sft.size]
    if not found:
        raise UserError(f"sft.traces: {config.sft.traces!r} gives no trace to train on")
    return found


def trace_rows(renderer: Renderer, found: list[Trace], *, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Tokenize traces: `input_ids` and a `completion_mask` that is 1 on what carries loss, EOS included.

    Rows of more than `limit` tokens are left out and counted, never cut.
    """
    rows, dropped = [], 0
    eos = renderer.tokenizer.eos_token_id
    for trace in found:
        prompt = renderer.render(trace.example)
        try:
            text = renderer.spec.render(trace.think, trace.answer)
        except ValueError as error:
            raise UserError(f"sft.traces: the trace of {trace.example.question!r:.80}: {error}") from error
        completion = renderer.completion_ids(prompt, text)
        assert completion[-1] == eos, "a trace must end with the end-of-sequence token"
        ids = [*prompt.ids, *completion]
        if len(ids) > limit:
            dropped += 1
            continue
        rows.append({"input_ids": ids, "completion_mask": [0] * len(prompt.ids) + [1] * len(completion)})
    return rows, dropped


def train_sft(context: RunContext) -> None:
    """Run the stage and leave its model in `checkpoints/sft`; a finished one is not run again."""
    done = context.run.saved_directory(f"checkpoints/{NAME}")
    if done is not None:
        context.view.note(f"cold start: already done, going on from {done}")
        context.start = done
        return
    found = collect_traces(context)
    policy = load_stage_policy(context, texts=trace_texts(found), dropout=True)
    prompt = context.config.prompt
    renderer = Renderer(policy.tokenizer, prompt_format=prompt.format, system=prompt.system)
    limit = prompt.max_tokens + context.config.rollout.max_new_tokens
    rows, dropped = trace_rows(renderer, found, limit=limit)
    if not rows:
        raise UserError(
            f"sft: all {len(found)} traces are longer than prompt.max_tokens + rollout.max_new_tokens = "
            f"{limit} tokens; raise one of the two"
        )
    context.view.note(f"cold start: {len(rows)} traces, {dropped} left out as too long")
    context.run.rewind(-1, NAME)
    _fit(context, policy, rows)
    context.start = context.run.save_directory(f"checkpoints/{NAME}", policy.save)
    context.accelerator.wait_for_everyone()


def trace_texts(found: list[Trace]) -> list[str]:
    """Every text in traces, each by itself, for a tokenizer that is made to hold them."""
    return [
        text
        for trace in found
        for text in (trace.think, trace.answer, *(message["content"] for message in trace.example.prompt))
    ]


def _fit(context: RunContext, policy: Policy, rows: list[dict[str, Any]]) -> None:
    from trl import SFTConfig, SFTTrainer

    disable_progress_bars()
    settings = context.config.sft
    arguments = SFTConfig(
        **trainer_arguments(context, policy, NAME, settings, rows=len(rows)),
        completion_only_loss=True,
        max_length=None,
        packing=False,
        shuffle_dataset=False,
    )
    trainer = SFTTrainer(
        model=policy.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
        callbacks=[Recorder(context, NAME)],
    )
    trainer.remove_callback(PrinterCallback)
    with balanced_experts(policy.model):
        trainer.train()
