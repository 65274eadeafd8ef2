"""Stage `sft`: imitate worked solutions, or instructions and chats, with TRL's SFTTrainer. The cold start."""

import random
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars

from rewards import parse
from rlreason.errors import UserError
from rlreason.policy.chat import Renderer
from rlreason.policy.examples import ExampleLoss
from rlreason.policy.forward import REFUSALS
from rlreason.policy.model import Policy
from rlreason.runs.resume import check_rows, digest_of
from rlreason.seeds import derive_seed
from rlreason.stages.context import RunContext
from rlreason.stages.exact import ExactTrainer, begin
from rlreason.stages.policies import load_stage_policy
from rlreason.stages.trainer import balanced_experts, trainer_arguments
from rlreason.tasks import Trace, Turn, load_traces, traces

NAME = "sft"


def collect_traces(context: RunContext) -> tuple[list[Trace | Turn], str]:
    """What to imitate, in seeded order: the task's own derivations, or traces and turns of a file.

    The second is what was left out of a file, in words; empty where nothing was.
    """
    config = context.config
    seed = derive_seed("traces", config.seed)
    left_out = []
    if config.sft.traces == "derivations":
        examples = context.data.train[: config.sft.size]
        found: list[Trace | Turn] = [*traces(config.task, examples, config.sft.styles, seed)]
    else:
        found, with_held_out = load_traces(config.sft.traces, exclude=context.data.held_out)
        if with_held_out:
            left_out.append(f"{with_held_out} rows that hold a held-out question")
        if len(found) > config.sft.size:
            left_out.append(f"{len(found) - config.sft.size} traces beyond sft.size={config.sft.size}")
    random.Random(seed).shuffle(found)
    found = found[: config.sft.size]
    why = f"left out of {config.sft.traces}: {', '.join(left_out)}" if left_out else ""
    if not found:
        raise UserError(f"sft.traces: {config.sft.traces!r} gives no trace to train on; {why}".rstrip("; "))
    return found, why


def written(renderer: Renderer, one: Trace | Turn) -> str:
    """The completion as text, tags included: a trace in the form, a turn as it is in the file.

    A turn that closes reasoning it has not opened, as templates that open it lead to, is given the tag.
    Raises UserError for a trace that does not fit the form, and for reasoning that is given twice.
    """
    spec = renderer.spec
    if isinstance(one, Trace):
        try:
            return spec.render(one.think, one.answer)
        except ValueError as error:
            raise UserError(f"sft.traces: the trace of {one.example.question!r:.80}: {error}") from error
    opener, closer = spec.think_open, spec.think_close
    if one.reasoning:
        if any(tag in text for tag in (opener, closer) for text in (one.reasoning, one.completion)):
            raise UserError(
                f"sft.traces: the completion of {one.example.question!r:.80} has reasoning of its own, and "
                f"tags such as {opener} as well; keep one of the two"
            )
        return f"{opener}\n{one.reasoning}\n{closer}\n{one.completion}"
    before, closed, _ = one.completion.partition(closer)
    return f"{opener}\n{one.completion}" if closed and opener not in before else one.completion


def trace_rows(
    renderer: Renderer, found: Sequence[Trace | Turn], *, limit: int, free: Renderer | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Tokenize what is imitated: `input_ids` and a `completion_mask`, 1 on what carries loss, EOS included.

    The prompt is rendered as for sampling and the completion never passes through the chat template, since
    many templates drop the reasoning of the assistant's turns. `free` renders the questions of completions
    that are not in the form. Rows of more than `limit` tokens are left out and counted, never cut.
    Raises UserError for completions that this tokenizer or template cannot teach.
    """
    rows, dropped = [], 0
    for one in found:
        text = written(renderer, one)
        chat = free if free is not None and not _keeps_form(renderer, text) else renderer
        prompt = chat.render(one.example)
        if prompt.prefill and not text.startswith(chat.spec.think_open):
            raise UserError(
                f"sft.traces: the completion of {one.example.question!r:.80} has no reasoning, but the chat "
                f"template of this model opens {chat.spec.think_open} in front of it; add the reasoning, "
                "leave the row out, or take a model whose template does not open it"
            )
        completion = chat.completion_ids(prompt, text)
        _check_teachable(chat, one, text, completion)
        ids = [*prompt.ids, *completion]
        if len(ids) > limit:
            dropped += 1
            continue
        rows.append({"input_ids": ids, "completion_mask": [0] * len(prompt.ids) + [1] * len(completion)})
    return rows, dropped


def _keeps_form(renderer: Renderer, text: str) -> bool:
    return not parse(text, spec=renderer.spec).problems


def _check_teachable(renderer: Renderer, one: Trace | Turn, text: str, completion: Sequence[int]) -> None:
    """The reasoning and one end of sequence, at the end, are in the tokens that carry loss."""
    eos = renderer.tokenizer.eos_token_id
    assert completion[-1] == eos, "a completion must end with the end-of-sequence token"
    if eos in completion[:-1]:
        raise UserError(
            f"sft.traces: the completion of {one.example.question!r:.80} holds "
            f"{renderer.tokenizer.eos_token!r}, which ends a sequence; remove it: the end is put behind each"
        )
    closer = renderer.spec.think_close
    if closer in text and closer not in renderer.decode(completion, [eos]):
        raise UserError(
            f"sft.traces: the tokenizer of this model cannot write {closer}, so the reasoning of "
            f"{one.example.question!r:.80} would have no end; take another model"
        )


def train_sft(context: RunContext) -> None:
    """Run the stage and leave its model in `checkpoints/sft`; a finished one is not run again."""
    done = context.run.saved_directory(f"checkpoints/{NAME}")
    if done is not None:
        context.run.drop_checkpoints(NAME)  # the process may have ended before it came to that
        context.view.note(f"cold start: already done, going on from {done}")
        context.start = done
        return
    found, left_out = collect_traces(context)
    if left_out:
        context.view.note(f"cold start: {left_out}")
    policy = load_stage_policy(context, texts=trace_texts(found), dropout=True)
    prompt = context.config.prompt
    renderer = Renderer(policy.tokenizer, prompt_format=prompt.format, system=prompt.system)
    # The system prompt that asks for the form stands in front of what keeps it, and of nothing else.
    free = Renderer(
        policy.tokenizer,
        prompt_format=prompt.format,
        system=None if prompt.system == "auto" else prompt.system,
    )
    limit = prompt.max_tokens + context.config.rollout.max_new_tokens
    rows, dropped = trace_rows(renderer, found, limit=limit, free=free)
    if not rows:
        raise UserError(
            f"sft: all {len(found)} traces are longer than prompt.max_tokens + rollout.max_new_tokens = "
            f"{limit} tokens; raise one of the two"
        )
    context.view.note(f"cold start: {len(rows)} traces, {dropped} left out as too long")
    formless = sum(not _keeps_form(renderer, written(renderer, one)) for one in found)
    if formless:
        context.view.note(
            f"cold start: {formless} of {len(found)} completions are not in the form {prompt.format}"
            + ("; they are taught without its system prompt" if prompt.system == "auto" else "")
        )
    carried = begin(context, NAME, "cold start")
    check_rows(carried, digest_of(rows), field="sft.traces", value=context.config.sft.traces)
    _fit(context, policy, rows)
    context.start = context.run.save_directory(f"checkpoints/{NAME}", policy.save)
    context.run.drop_checkpoints(NAME)
    context.accelerator.wait_for_everyone()


def trace_texts(found: Sequence[Trace | Turn]) -> list[str]:
    """Every text in what is imitated, each by itself, for a tokenizer that is made to hold them."""
    texts = []
    for one in found:
        own = (one.think, one.answer) if isinstance(one, Trace) else (one.reasoning, one.completion)
        texts += [*own, *(message["content"] for message in one.example.prompt)]
    return texts


def _example_loss(context: RunContext, policy: Policy) -> ExampleLoss | None:
    """The loss that computes no more than it has to; None for a model that does not take such rows."""
    try:
        loss = ExampleLoss(policy)
    except torch.OutOfMemoryError:
        raise
    except REFUSALS as error:
        context.view.note(f"cold start: TRL's loss is taken, as this model refuses ours ({str(error)[:200]})")
        return None
    for note in loss.notes:
        context.view.note(f"cold start: {note}")
    return loss


def _fit(context: RunContext, policy: Policy, rows: list[dict[str, Any]]) -> None:
    from trl import SFTConfig, SFTTrainer

    class ExactSft(ExactTrainer, SFTTrainer):
        pass

    disable_progress_bars()
    settings = context.config.sft
    arguments = trainer_arguments(
        SFTConfig,
        context,
        policy,
        NAME,
        settings,
        completion_only_loss=True,
        max_length=None,
        packing=False,
        shuffle_dataset=False,
    )
    trainer = ExactSft(
        model=policy.model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=policy.tokenizer,
    )
    # Several processes, whose wrapper has to see the forward pass, and a mixture of experts, which has a loss
    # beside this one, take TRL's way.
    if context.accelerator.num_processes == 1 and not trainer.aux_loss_enabled:
        trainer.example_loss = _example_loss(context, policy)
    with balanced_experts(policy.model):
        trainer.run_stage(context, NAME, {"rows": digest_of(rows)})
