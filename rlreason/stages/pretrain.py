"""Stage `pretrain`: predict the next token of raw text, with transformers' Trainer.

Documents are packed into sequences of one length (best fit, by TRL), and each sees only itself: attention is
told where they are, or transformers tells by position ids, which start anew with every document.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from datasets import Dataset, disable_progress_bars
from torch.nn.functional import cross_entropy
from transformers import TrainingArguments

from rlreason.config import RunConfig
from rlreason.config.training import DERIVATIONS
from rlreason.errors import UserError
from rlreason.policy.adapter import causal_lm_of
from rlreason.policy.blocks import documents_pay, lay_out, takes_blocks
from rlreason.policy.chat import Renderer
from rlreason.policy.forward import is_windowed, try_blocks
from rlreason.policy.model import Policy
from rlreason.runs.resume import check_rows, digest_of
from rlreason.stages.context import RunContext
from rlreason.stages.exact import ExactTrainer, begin
from rlreason.stages.policies import load_stage_policy
from rlreason.stages.sft import collect_traces, trace_texts
from rlreason.stages.trainer import balanced_experts, balances_experts, trainer_arguments
from rlreason.tasks import Trace, Turn, load_documents, split_documents, traces

NAME = "pretrain"
_IGNORED = -100  # the label that cross_entropy leaves out


class Perplexity(NamedTuple):
    """`loss` is the mean of -log p over all predicted tokens, in nats; its exponential is the perplexity."""

    loss: float
    tokens: int
    documents: int

    def __str__(self) -> str:
        return f"{math.exp(min(self.loss, 700)):.2f} ({self.tokens:,} tokens of {self.documents} documents)"


class Documents(NamedTuple):
    """What to train on and what to measure by: traces of solved questions, or plain text. `note` counts."""

    train: Sequence[Trace] | Sequence[str]
    held_out: Sequence[Trace] | Sequence[str]
    note: str


def collect_documents(context: RunContext) -> Documents:
    """The documents of the stage.

    Derivations are measured on the task's held-out questions, files on a share of their documents. Documents
    that hold one of the task's held-out questions are left out of both.
    """
    config, data = context.config, context.data
    if config.pretrain.text == (DERIVATIONS,):
        train, held_out = (
            traces(config.task, part, {}, seed=0, field="pretrain.text")
            for part in (data.train, data.held_out)
        )
        return Documents(train, held_out, note="questions of the task, solved")
    found = load_documents(config.pretrain.text, column=config.pretrain.column, exclude=data.held_out)
    note = (
        f"left out: {found.duplicates} that came twice, {found.with_held_out} that hold a held-out question"
    )
    texts, measured = split_documents(found.texts, held_out=config.pretrain.held_out)
    return Documents(texts, measured, note)


def tokenize(
    config: RunConfig, tokenizer: Any, documents: Sequence[Trace] | Sequence[str]
) -> list[dict[str, list[int]]]:
    """`input_ids` of each document, beginning and end of sequence included, and `labels`.

    Text carries loss on every token. A solved question is rendered as the conversation that later stages
    hold; its question was drawn at random, so there is nothing in it to predict, and carries none. Raises
    UserError for a tokenizer without an end-of-sequence token, and for a solved question that does not fit
    into `pretrain.sequence_tokens`.
    """
    return [
        _text_row(tokenizer, document)
        if isinstance(document, str)
        else _solved_row(config, tokenizer, document)
        for document in documents
    ]


def _text_row(tokenizer: Any, text: str) -> dict[str, list[int]]:
    if tokenizer.eos_token_id is None:
        raise UserError(
            "model.path: its tokenizer has no end-of-sequence token, so a document could not be told to end; "
            "set eos_token in tokenizer_config.json"
        )
    # Where the tokenizer writes a beginning of sequence, the model has seen one before every document.
    bos = tokenizer.bos_token_id
    begins = bos is not None and tokenizer("")["input_ids"][:1] == [bos]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*([bos] if begins else []), *ids, tokenizer.eos_token_id]
    return {"input_ids": ids, "labels": ids}


def _solved_row(config: RunConfig, tokenizer: Any, trace: Trace) -> dict[str, list[int]]:
    renderer = Renderer(tokenizer, prompt_format=config.prompt.format, system=config.prompt.system)
    prompt = renderer.render(trace.example)
    completion = renderer.completion_ids(prompt, renderer.spec.render(trace.think, trace.answer))
    ids = [*prompt.ids, *completion]
    if len(ids) > config.pretrain.sequence_tokens:
        raise UserError(
            f"pretrain.sequence_tokens: the solved question {trace.example.question!r:.80} has {len(ids)} "
            f"tokens, more than {config.pretrain.sequence_tokens}, and would be cut off from its question; "
            "raise it"
        )
    return {"input_ids": ids, "labels": [*(_IGNORED for _ in prompt.ids), *completion]}


def pack(rows: list[dict[str, list[int]]], *, sequence_tokens: int) -> Dataset:
    """Pack tokenized documents into sequences of at most `sequence_tokens`.

    `seq_lengths` of a sequence are the lengths of the pieces in it. A document that is longer is cut into
    several pieces; no token is lost.
    """
    from trl import pack_dataset

    # One batch: packed batch by batch, each would end in half-empty sequences.
    return pack_dataset(Dataset.from_list(rows), sequence_tokens, "bfd_split", {"batch_size": None})


class PackedCollator:
    """Pads packed sequences on the right. Nothing is predicted of padding and of a piece's first token.

    With `in_blocks` attention is told where each piece is, and computes no pairs of tokens of different ones,
    where that pays; else transformers masks them, which it tells by their positions.
    """

    def __init__(self, pad_id: int, *, in_blocks: bool) -> None:
        self._pad_id = pad_id
        self._in_blocks = in_blocks

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), width), self._pad_id)
        positions = torch.zeros((len(rows), width), dtype=torch.long)
        labels = torch.full((len(rows), width), _IGNORED)
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            place = torch.cat([torch.arange(size) for size in row["seq_lengths"]])
            ids[number, :length] = torch.tensor(row["input_ids"])
            positions[number, :length] = place
            labels[number, :length] = torch.tensor(row["labels"]).masked_fill(place == 0, _IGNORED)
        # Without a cache: with one, transformers takes the positions for those of a single document.
        batch = {"input_ids": ids, "position_ids": positions, "labels": labels, "use_cache": False}
        sizes = [size for row in rows for size in row["seq_lengths"]]
        if self._in_blocks and documents_pay(sizes, rows=len(rows), width=width):
            batch |= self._blocks([row["seq_lengths"] for row in rows], width)
        return batch

    @staticmethod
    def _blocks(lengths: list[list[int]], width: int) -> dict[str, Any]:
        pieces = [
            range(row * width + end - size, row * width + end)
            for row, sizes in enumerate(lengths)
            for size, end in zip(sizes, accumulate(sizes), strict=True)
        ]
        blocks = lay_out(pieces, [], [], rows=len(lengths), width=width)
        return {"blocks": blocks, "attention_mask": blocks.unread_mask}


@torch.no_grad()
def perplexity(policy: Policy, packed: Dataset, *, documents: int) -> Perplexity:
    """How well the policy predicts packed documents, in the precision it trains in."""
    collate = PackedCollator(policy.pad_id, in_blocks=takes_blocks(causal_lm_of(policy.model)))
    was_training = policy.model.training
    policy.model.eval()
    total, tokens = 0.0, 0
    for row in packed:
        batch = collate([row])
        labels = batch["labels"][0, 1:].to(policy.device)
        with policy.autocast():
            logits = _logits(policy, batch)[:-1]
        total += float(cross_entropy(logits, labels, ignore_index=_IGNORED, reduction="sum"))
        tokens += int((labels != _IGNORED).sum())
    policy.model.train(was_training)
    return Perplexity(total / max(1, tokens), tokens, documents)


def train_pretrain(context: RunContext) -> None:
    """Run the stage and leave its model in `checkpoints/pretrain`; a finished one is not run again."""
    done = context.run.saved_directory(f"checkpoints/{NAME}")
    if done is not None:
        context.run.drop_checkpoints(NAME)  # the process may have ended before it came to that
        context.view.note(f"pretraining: already done, going on from {done}")
        context.start = done
        return
    settings = context.config.pretrain
    found = collect_documents(context)
    later_traces = collect_traces(context)[0] if "sft" in context.config.stages else []
    policy = load_stage_policy(context, texts=_texts(context, found, later_traces), dropout=True)
    _check_model(context, policy)
    in_blocks = take_blocks(policy)
    disable_progress_bars()
    if context.start is None and context.config.model.scratch is not None:
        context.view.note(f"pretraining: {_new_model(policy)}")
    context.view.note(f"pretraining: {found.note}; tokenizing {len(found.train)} documents ...")
    packed, measured = (
        pack(tokenize(context.config, policy.tokenizer, part), sequence_tokens=settings.sequence_tokens)
        for part in (found.train, found.held_out)
    )
    tokens = sum(map(len, packed["input_ids"]))
    context.view.note(
        f"pretraining: {len(found.train)} documents, {tokens:,} tokens in {len(packed)} sequences "
        f"({tokens / (len(packed) * settings.sequence_tokens):.1%} full), {len(found.held_out)} held out"
    )
    if not in_blocks and context.config.model.attention == "sdpa":
        context.view.note("pretraining: this model's attention knows no blocks: documents are masked")
    rows = digest_of(row for part in (packed, measured) for row in part)
    carried = begin(context, NAME, "pretraining")
    check_rows(carried, rows, field="pretrain.text", value=settings.text)
    if carried is None:
        before = _measure(context, policy, measured, len(found.held_out), step=0)
    else:
        before = Perplexity(**carried["before"])
    steps = _fit(context, policy, packed, {"before": before._asdict(), "rows": rows})
    after = _measure(context, policy, measured, len(found.held_out), step=steps)
    context.view.note(f"held-out perplexity before: {before}")
    context.view.note(f"held-out perplexity after:  {after}")
    context.start = context.run.save_directory(f"checkpoints/{NAME}", policy.save)
    context.run.drop_checkpoints(NAME)
    context.accelerator.wait_for_everyone()


def _texts(context: RunContext, found: Documents, later_traces: list[Trace | Turn]) -> list[str]:
    """What a tokenizer made from nothing has to hold: the documents, and the traces of a later stage.

    Held-out text is measured with what the other text holds; held-out questions are to be answered, so that
    the numbers in them must have tokens.
    """
    if context.config.model.scratch is None:
        return []
    documents = [*found.train, *(part for part in found.held_out if isinstance(part, Trace))]
    plain = [document for document in documents if isinstance(document, str)]
    solved = [document for document in documents if isinstance(document, Trace)]
    return [*plain, *trace_texts(solved), *trace_texts(later_traces)]


def _new_model(policy: Policy) -> str:
    """What a model made from nothing is, in a line."""
    count = sum(parameter.numel() for parameter in policy.model.parameters())
    kind, size = policy.model.config.model_type, policy.model.get_input_embeddings().weight.shape[0]
    return f"a new {kind} of {count / 1e6:,.1f} million parameters, {size:,} tokens in its vocabulary"


def _check_model(context: RunContext, policy: Policy) -> None:
    """Refuse what would fail, or train something else, after hours."""
    config = context.config
    wanted = config.pretrain.sequence_tokens
    longest = getattr(policy.model.config, "max_position_embeddings", None)
    if longest is not None and wanted > longest:
        raise UserError(
            f"pretrain.sequence_tokens: {wanted} is more than the {longest} positions of the model; lower it"
        )
    if len(config.stages) > 1:  # later stages put questions to the model: raises without a chat template
        Renderer(policy.tokenizer, prompt_format=config.prompt.format, system=config.prompt.system)
    if config.model.attention != "flash_attention_2" and not keeps_apart(policy):
        raise UserError(
            "stage: this model lets the documents of a packed sequence see each other (it takes no position "
            "ids, or has recurrent layers), so it cannot be pretrained here; take one with plain attention"
        )


def take_blocks(policy: Policy) -> bool:
    """Let attention leave out pairs of tokens of different documents, where the model can; whether it does.

    Two things are not seen by the probe: a window that is in the mask alone, and the loss that balances
    experts, which in older versions of transformers reads a mask of two dimensions.
    """
    text = policy.model.config.get_text_config()
    if is_windowed(text) or balances_experts(text):
        return False
    return try_blocks(causal_lm_of(policy.model), lambda: keeps_apart(policy, in_blocks=True))


@torch.no_grad()
def keeps_apart(policy: Policy, *, in_blocks: bool = False) -> bool:
    """Whether two documents in one packed sequence are predicted as each is alone, in float32."""
    documents = [[3, 1, 2, 1], [2, 3, 3]]
    collate = PackedCollator(policy.pad_id, in_blocks=in_blocks)
    rows = [{"input_ids": ids, "labels": ids, "seq_lengths": [len(ids)]} for ids in documents]
    together = {
        "input_ids": list(chain(*documents)),
        "labels": list(chain(*documents)),
        "seq_lengths": [4, 3],
    }
    was_training = policy.model.training
    policy.model.eval()
    try:
        with policy.autocast(torch.float32):
            packed, *alone = (_logits(policy, collate([row])) for row in (together, *rows))
    except TypeError:  # it takes no position ids
        return False
    finally:
        policy.model.train(was_training)
    apart = torch.cat(alone)
    # Of the size of the logits: those of a model made from nothing are small, and so is what leaks into them.
    return bool((packed - apart).abs().max() <= 1e-4 * apart.abs().max())


def _logits(policy: Policy, batch: dict[str, Any]) -> torch.Tensor:
    """The logits of the single sequence of a batch, (T, V)."""
    inputs = {name: part for name, part in batch.items() if name != "labels"}
    logits = policy.model(**send_to_device(inputs, policy.device)).logits
    return logits[0].float()


def _measure(
    context: RunContext, policy: Policy, packed: Dataset, documents: int, *, step: int
) -> Perplexity:
    found = perplexity(policy, packed, documents=documents)
    context.record(
        {"stage": NAME, "step": step, "held_out_loss": found.loss, "held_out_tokens": found.tokens}
    )
    return found


def _fit(context: RunContext, policy: Policy, packed: Dataset, carried: dict[str, Any]) -> int:
    """Train, with `carried` in the checkpoints; returns the number of optimizer steps."""
    settings = context.config.pretrain
    trainer = ExactTrainer(
        model=policy.model,
        args=trainer_arguments(
            TrainingArguments, context, policy, NAME, settings, remove_unused_columns=False
        ),
        train_dataset=packed,
        data_collator=PackedCollator(policy.pad_id, in_blocks=takes_blocks(causal_lm_of(policy.model))),
        processing_class=policy.tokenizer,
    )
    with balanced_experts(policy.model):
        return trainer.run_stage(context, NAME, carried)
