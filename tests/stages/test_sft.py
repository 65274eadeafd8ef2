"""The cold start: reasoning and the end-of-sequence token carry loss, the prompt does not."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from micro import lines
from transformers import AutoTokenizer
from trl import SFTTrainer

from rlreason.errors import UserError
from rlreason.policy.adapter import causal_lm_of
from rlreason.policy.chat import Renderer
from rlreason.policy.scratch import scratch_tokenizer
from rlreason.stages.exact import ExactTrainer
from rlreason.stages.sft import collect_traces, trace_rows
from rlreason.tasks import Trace
from rlreason.types import Example


def renderer() -> Renderer:
    tags = Renderer.tags("think_answer")
    tokenizer = scratch_tokenizer(["What is 1 + 2?", "1 + 2 = 3", "3"], tags)
    return Renderer(tokenizer, prompt_format="think_answer", system=None)


def trace(think: str = "1 + 2 = 3") -> Trace:
    return Trace(Example([{"role": "user", "content": "What is 1 + 2?"}], "3"), think, "3", "steps")


def test_reasoning_answer_and_end_carry_loss_and_the_prompt_does_not() -> None:
    maker = renderer()
    (row,), dropped = trace_rows(maker, [trace()], limit=100)
    assert dropped == 0
    trained = [i for i, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
    masked = [i for i, m in zip(row["input_ids"], row["completion_mask"], strict=True) if not m]
    assert maker.tokenizer.decode(trained) == "<think>\n1 + 2 = 3\n</think>\n<answer>3</answer><|im_end|>"
    assert trained[-1] == maker.tokenizer.eos_token_id
    assert masked == maker.render(trace().example).ids


def test_traces_that_are_too_long_are_counted_and_never_cut() -> None:
    maker = renderer()
    (row,), _ = trace_rows(maker, [trace()], limit=100)
    length = len(row["input_ids"])
    assert trace_rows(maker, [trace()], limit=length) == ([row], 0)
    assert trace_rows(maker, [trace()], limit=length - 1) == ([], 1)


def test_trace_that_holds_a_tag_is_refused_with_its_question() -> None:
    with pytest.raises(UserError, match=r"sft\.traces: the trace of 'What is 1 \+ 2\?': think .*</think>"):
        trace_rows(renderer(), [trace("so </think> it is")], limit=100)


def what_is_trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The text of the labels of every row that TRL's trainer gets, from now on."""
    found: list[str] = []
    plain = SFTTrainer.train

    def noted(self: SFTTrainer, **options: Any) -> Any:
        for row in self.train_dataset:
            found.append(self.processing_class.decode([i for i in row["labels"] if i != -100]))
        return plain(self, **options)

    monkeypatch.setattr(SFTTrainer, "train", noted)
    return found


def test_what_is_left_out_of_a_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"What is {n} + 1?", "output": str(n + 1)} for n in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = [Example([{"role": "user", "content": f"What is {n} + 1?"}], "") for n in (2, 3)]
    sft = SimpleNamespace(traces=str(path), size=3)
    context: Any = SimpleNamespace(
        config=SimpleNamespace(seed=0, sft=sft), data=SimpleNamespace(held_out=held_out)
    )
    found, left_out = collect_traces(context)
    assert len(found) == 3
    assert left_out.endswith("rows.jsonl: 2 rows that hold a held-out question, 1 traces beyond sft.size=3")
    sft.size = 4
    assert "beyond" not in collect_traces(context)[1]
    context.data.held_out = [Example([{"role": "user", "content": row["instruction"]}], "") for row in rows]
    with pytest.raises(UserError, match=r"gives no trace to train on; left out of .*: 6 rows that hold"):
        collect_traces(context)


def test_a_model_from_nothing_learns_instructions_and_chats(
    train: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = what_is_trained(monkeypatch)
    answer = {"role": "assistant", "content": "Here", "reasoning_content": "whatever"}
    chat = [{"role": "user", "content": "Where?"}, answer, {"role": "user", "content": "Sure?"}]
    files = {
        "instructions": [{"instruction": "Greet.", "input": "politely", "output": "Hello"}] * 4,
        "chats": [{"messages": [*chat, {"role": "assistant", "content": "Yes"}]}] * 2,
    }
    for name, rows in files.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run = train(name=name, stage="sft", sft={"traces": str(path)})
        assert "4 of 4 completions are not in the form think_answer" in capsys.readouterr().out
        assert lines(run / "metrics.jsonl")[-1]["step"] == 1  # four turns in one batch of four
        tokenizer = AutoTokenizer.from_pretrained(run / "model")
        said = "Greet.\n\npolitely\nHello" if name == "instructions" else "Where?\nwhatever\nHere\nYes"
        assert tokenizer.unk_token_id not in tokenizer(said)["input_ids"]
    assert trained[:4] == ["Hello<|im_end|>"] * 4
    turns = ["<think>\nwhatever\n</think>\nHere<|im_end|>", "Yes<|im_end|>"]
    assert sorted(trained[4:]) == sorted(turns * 2)


class Compared(Exception):
    """Ends a run once both losses are there."""


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"gradient_checkpointing": True},
        {"lora": {"rank": 4}},
        {"precision": "bfloat16"},
        {"lora": {"rank": 4}, "gradient_checkpointing": True, "precision": "bfloat16"},
    ],
    ids=["float32", "checkpointing", "LoRA", "bfloat16", "all"],
)
def test_the_loss_of_the_stage_is_that_of_trl(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, model: dict[str, Any]
) -> None:
    if "lora" in model:  # which needs a model that knows something
        model = {**model, "scratch": None, "path": str(train(name="base", stage="sft") / "model")}
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    widths: list[torch.Size] = []

    def compared(self: Any, **_: Any) -> None:
        layer = causal_lm_of(self.model).model.layers[0]
        layer.register_forward_hook(lambda module, inputs, output: widths.append(output.shape[:2]))
        batch = next(iter(self.get_train_dataloader()))
        count = (batch["labels"] != -100).sum()
        for compute_loss in (self.compute_loss, super(ExactTrainer, self).compute_loss):
            self.model.zero_grad()
            with self.accelerator.autocast():
                loss = compute_loss(self.model, dict(batch), num_items_in_batch=count)
            loss.backward()
            gradients = [p.grad.flatten() for p in self.model.parameters() if p.grad is not None]
            found.append((loss.detach(), torch.cat(gradients)))
        raise Compared

    monkeypatch.setattr(SFTTrainer, "train", compared)
    with pytest.raises(Compared):
        train(stage="sft", prompt={"system": "auto"}, model=model)
    (ours, our_gradient), (theirs, their_gradient) = found
    near = 1e-2 if model.get("precision") else 1e-5
    assert float(ours) == pytest.approx(float(theirs), rel=near)
    assert (our_gradient - their_gradient).norm() < 10 * near * their_gradient.norm()
    assert widths[0][0] == 1  # four examples in one row, behind what they begin with
    assert widths[-1][0] == 4


def test_experts_take_the_way_of_trl(train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the loss is ours is said by what the trainer was given."""
    given: list[bool] = []
    own = ExactTrainer.run_stage

    def noted(self: ExactTrainer, *rest: Any) -> int:
        given.append(self.example_loss is not None)
        return own(self, *rest)

    monkeypatch.setattr(ExactTrainer, "run_stage", noted)
    train(name="plain", stage="sft")
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    train(name="experts", stage="sft", model={"scratch": {"architecture": "mixtral", "overrides": experts}})
    assert given == [True, False]


def test_a_model_that_refuses_the_layout_is_taught_by_the_loss_of_trl(
    train: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(policy: Any) -> None:
        raise TypeError("unexpected keyword argument 'position_ids'")

    monkeypatch.setattr("rlreason.stages.sft.ExampleLoss", refuse)
    run = train(stage="sft")
    assert lines(run / "metrics.jsonl")[-1]["loss"] > 0
    said = " ".join(capsys.readouterr().out.split())
    assert "TRL's loss is taken, as this model refuses ours (unexpected keyword argument" in said
