"""Pretraining: what is packed, what carries loss, what is measured, and that it learns."""

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from micro import lines
from tiny import tiny_model, tiny_policy
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlreason.errors import UserError
from rlreason.policy.blocks import switch, takes_blocks
from rlreason.stages import pretrain
from rlreason.stages.pretrain import PackedCollator, keeps_apart, pack, perplexity, take_blocks

_WINDOW = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 2}


def text_rows(*documents: list[int]) -> list[dict[str, list[int]]]:
    return [{"input_ids": ids, "labels": ids} for ids in documents]


def pieces(packed: Dataset) -> list[list[int]]:
    """The packed pieces, taken apart again by `seq_lengths`."""
    found = []
    for row in packed:
        ids = list(row["input_ids"])
        assert sum(row["seq_lengths"]) == len(ids)
        for length in row["seq_lengths"]:
            found.append(ids[:length])
            ids = ids[length:]
    return found


def tiny_llama() -> Any:
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=None,
    )
    return LlamaForCausalLM(shape).eval()


def test_packing_loses_no_token_and_cuts_only_what_is_too_long() -> None:
    documents = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10, 11, 12], [13]]
    packed = pack(text_rows(*documents), sequence_tokens=5)
    assert max(map(len, packed["input_ids"])) <= 5
    found = sorted(pieces(packed))
    assert found == [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [11, 12], [13]]


def test_labels_leave_out_padding_and_the_first_token_of_every_piece() -> None:
    rows = [
        {"input_ids": [1, 2, 3, 4], "labels": [1, 2, 3, 4], "seq_lengths": [3, 1]},
        {"input_ids": [5, 6], "labels": [-100, 6], "seq_lengths": [2]},
    ]
    batch = PackedCollator(pad_id=0, in_blocks=True)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4], [5, 6, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, 2, 3, -100], [-100, 6, -100, -100]]
    # Three pieces of 3 tokens, padded, in two rows of 4: 3 x 3 x 3 pairs are more than 0.7 of 2 x 4 x 4.
    assert "blocks" not in batch


def test_where_the_pieces_of_two_sequences_lie() -> None:
    rows = [
        {"input_ids": [1, 2, 3, 4, 5, 6], "labels": [1, 2, 3, 4, 5, 6], "seq_lengths": [3, 1, 2]},
        {"input_ids": [7, 8, 9, 7], "labels": [7, 8, 9, 7], "seq_lengths": [2, 2]},
    ]
    blocks = PackedCollator(pad_id=0, in_blocks=True)(rows)["blocks"]
    assert blocks.prompt_GP.tolist() == [[0, 1, 2], [3, 0, 0], [4, 5, 0], [6, 7, 0], [8, 9, 0]]
    # Results are three a piece: of the first 0, 1, 2; of the second 3; ... Padding takes any.
    assert blocks.origin_NW.tolist() == [[0, 1, 2, 3, 6, 7], [9, 10, 12, 13, 0, 0]]
    assert (len(blocks.own_CT), len(blocks.group_C)) == (0, 0)
    assert "blocks" not in PackedCollator(pad_id=0, in_blocks=False)(rows)


@pytest.mark.parametrize("in_blocks", [False, True])
def test_packed_documents_do_not_see_each_other(in_blocks: bool) -> None:
    model = tiny_llama()
    documents = [[1, 2, 3, 4], [5, 6, 7], [8, 9]]
    alone = torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in documents])
    weight = torch.randn(alone.shape, generator=torch.Generator().manual_seed(0))
    expected = torch.autograd.grad((alone * weight).sum(), [*model.parameters()])
    switch(model, on=in_blocks)
    rows = [*pack(text_rows(*documents), sequence_tokens=9)]
    batch = PackedCollator(pad_id=0, in_blocks=in_blocks)(rows)
    assert batch["input_ids"].shape == (1, 9)
    assert ("blocks" in batch) == in_blocks
    batch.pop("labels")
    packed = model(**batch).logits[0]
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad((packed * weight).sum(), [*model.parameters()]), expected, strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "in_blocks"),
    [
        ("llama", {}, True),
        ("gpt2", {}, True),
        ("mistral window", {}, False),
        ("qwen2_moe", {}, False),  # the loss that balances its experts reads the mask
        ("qwen2_moe", {"router_aux_loss_coef": 0.0}, True),
        # Its window is in the mask alone, and longer than what the probe reads.
        ("qwen2_moe", {"router_aux_loss_coef": 0.0, **_WINDOW}, False),
    ],
)
def test_which_models_take_blocks(name: str, changes: dict[str, Any], in_blocks: bool) -> None:
    policy = tiny_policy(tiny_model(name, **changes))
    assert take_blocks(policy) == in_blocks
    assert takes_blocks(policy.model) == in_blocks


def test_a_probe_of_blocks_sees_documents_that_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy(tiny_model("llama"))
    switch(policy.model, on=True)
    assert keeps_apart(policy, in_blocks=True)
    own = PackedCollator._blocks
    joined = staticmethod(lambda lengths, width: own([[sum(row)] for row in lengths], width))
    monkeypatch.setattr(PackedCollator, "_blocks", joined)
    assert not keeps_apart(policy, in_blocks=True)


@pytest.mark.parametrize("in_blocks", [False, True])
def test_training_does_not_let_documents_see_each_other(
    in_blocks: bool, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trainer itself hands to the model, not what the collator alone would."""
    seen, blocks = [], []
    if not in_blocks:
        monkeypatch.setattr(pretrain, "documents_pay", lambda sizes, **rows: False)
    forward = LlamaForCausalLM.forward

    def spy(self: Any, *args: Any, **inputs: Any) -> Any:
        output = forward(self, *args, **inputs)
        if self.training:
            row = inputs["position_ids"][0].tolist()
            first = row.index(0, 1) if 0 in row[1:] else len(row)  # the length of the first document
            alone = forward(self, input_ids=inputs["input_ids"][:1, :first], use_cache=False).logits[0]
            seen.append(first < len(row))
            assert in_blocks or "blocks" not in inputs
            blocks.append("blocks" in inputs)
            torch.testing.assert_close(output.logits[0, :first], alone, rtol=1e-4, atol=1e-4)
            second = inputs["input_ids"][:1, first:][:, : [*row[first + 1 :], 0].index(0) + 1]
            if seen[-1]:
                alone = forward(self, input_ids=second, use_cache=False).logits[0]
                packed = output.logits[0, first : first + second.shape[1]]
                torch.testing.assert_close(packed, alone, rtol=1e-4, atol=1e-4)
        return output

    monkeypatch.setattr(LlamaForCausalLM, "forward", spy)
    train(name="apart", stage="pretrain", pretrain={"epochs": 1, "sequence_tokens": 192, "batch_size": 1})
    assert any(seen)
    assert any(blocks) == in_blocks


def test_perplexity_is_that_of_the_documents_one_by_one() -> None:
    model = tiny_llama()
    documents = [[1, 2, 3, 4], [5, 6, 7], [8, 9]]
    total = 0.0
    with torch.no_grad():
        for ids in documents:
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1]
            total += float(cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
    policy: Any = SimpleNamespace(model=model, pad_id=0, device=torch.device("cpu"), autocast=nullcontext)
    found = perplexity(policy, pack(text_rows(*documents), sequence_tokens=8), documents=3)
    assert found.tokens == 6  # 3 + 2 + 1: nothing predicts a first token
    assert found.loss == pytest.approx(total / 6, rel=1e-5)


def text_file(folder: Path) -> Path:
    path = folder / "book.jsonl"
    path.write_text("".join(f'{{"text": "the cat number {n} sat on mat {n % 7}"}}\n' for n in range(200)))
    return path


@pytest.mark.parametrize("tokens", ["digits", "numbers", "bpe"])
def test_learns_a_file_and_leaves_a_model_that_loads(train: Any, tmp_path: Path, tokens: str) -> None:
    changes = {
        "stage": "pretrain",
        "pretrain": {
            "text": str(text_file(tmp_path)),
            "held_out": 0.1,
            "sequence_tokens": 64,
            "epochs": 3,
            "optim": {"lr": 1e-2, "warmup_steps": 2},
        },
        "model": {"scratch": {"tokens": tokens}},
    }
    run = train(name="base", **changes)
    measured = [line for line in lines(run / "metrics.jsonl") if "held_out_loss" in line]
    before, after = (line["held_out_loss"] for line in measured)
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert before == pytest.approx(math.log(len(tokenizer)), rel=0.15)  # a random model guesses evenly
    assert after < 0.6 * before
    model = AutoModelForCausalLM.from_pretrained(run / "model")
    assert model.get_input_embeddings().weight.shape[0] == len(tokenizer)


def test_solved_questions_carry_loss_behind_the_question_only(train: Any) -> None:
    run = train(name="solved", stage="pretrain", pretrain={"epochs": 1, "sequence_tokens": 192})
    line = next(line for line in lines(run / "metrics.jsonl") if "held_out_loss" in line)
    model = AutoTokenizer.from_pretrained(run / "model")
    # "<think>\na + b = c\n</think>\n<answer>c</answer><eos>" and no word of the question: far fewer tokens
    # than the two dozen words of each of the 6 questions would add.
    assert line["held_out_tokens"] < 6 * 60
    assert model.chat_template


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("", "has no rows"),
        ('{"txt": "a"}\n', r"no column 'text'; .*'txt'.*pretrain\.column"),
        ('{"text": "a"}\n{"text": " "}\n', r"column 'text' is empty or no text in 1 of 2 rows \(row 2\)"),
        ('{"text": "a"}\n', r"pretrain\.held_out: 0\.02 of 1 documents leaves"),
    ],
)
def test_text_that_cannot_be_used_is_refused(train: Any, tmp_path: Path, content: str, wrong: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=wrong):
        train(name="bad", stage="pretrain", pretrain={"text": str(path), "sequence_tokens": 64})


def test_model_that_mixes_documents_is_refused(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = LlamaForCausalLM.forward

    def mixing(self: Any, *args: Any, position_ids: Any = None, **inputs: Any) -> Any:
        return forward(self, *args, **inputs)  # positions are ignored, as by a recurrent model

    monkeypatch.setattr(LlamaForCausalLM, "forward", mixing)
    with pytest.raises(UserError, match="lets the documents of a packed sequence see each other"):
        train(name="mixes", stage="pretrain", pretrain={"sequence_tokens": 192})


def test_mistakes_of_later_stages_show_before_training(train: Any, tmp_path: Path) -> None:
    changes = {"stage": ["pretrain", "sft"], "pretrain": {"sequence_tokens": 192}}
    with pytest.raises(UserError, match=r"sft\.traces: there is no file"):
        train(name="early", sft={"traces": str(tmp_path / "missing.jsonl")}, **changes)


def test_solved_question_that_does_not_fit_is_refused(train: Any) -> None:
    with pytest.raises(UserError, match=r"pretrain\.sequence_tokens: the solved question .* more than 16"):
        train(name="cut", stage="pretrain", pretrain={"sequence_tokens": 16})
