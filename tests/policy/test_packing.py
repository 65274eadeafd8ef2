"""Sharing a prompt, and cutting into micro-batches, changes neither log-probs nor gradients."""

from typing import Any

import pytest
import torch
from groups import GROUPS, Shape, begun, completions, shapes
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import NATIVE, PAD, plain_logprobs, tiny_model, tiny_policy, with_lora
from torch import Tensor

from rlreason.policy import packing
from rlreason.policy.adapter import causal_lm_of
from rlreason.policy.blocks import switch
from rlreason.policy.forward import CompletionLogprobs
from rlreason.policy.packing import (
    Completion,
    PassSize,
    Sharing,
    common_beginning,
    computed_tokens,
    pack,
)


def weights(sequence: Completion, index: int) -> Tensor:
    """A weight for each token, some negative, so that no error cancels."""
    return torch.sin(torch.arange(len(sequence.completion_ids)) * 1.7 + index + 1)


def gradients(model: Any) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            found[name] = parameter.grad.clone()
            parameter.grad = None
    return found


def plain(
    model: Any, sequences: list[Completion], temperature: float
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Every completion on its own, through the model's full logits."""
    rows = []
    for index, sequence in enumerate(sequences):
        row = plain_logprobs(model, sequence.prompt_ids, sequence.completion_ids, temperature)
        (row * weights(sequence, index)).sum().backward()
        rows.append(row.detach())
    return rows, gradients(model)


def packed(
    model: Any,
    sequences: list[Completion],
    temperature: float,
    *,
    share: Sharing,
    budget: int,
    chunked: bool = True,
    blocks: bool = False,
) -> tuple[list[Tensor], dict[str, Tensor]]:
    switch(causal_lm_of(model), on=blocks)
    forward = CompletionLogprobs(tiny_policy(model))
    forward.chunked = chunked
    rows: list[Tensor | None] = [None] * len(sequences)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pays", "affordable"):  # also for few and uneven tokens
            patch.setattr(packing, name, lambda *lengths, **rows: True)
        batches = pack(sequences, share=share, size=PassSize(budget, min(budget, 64)), pad_id=PAD)
    for batch in batches:
        logprobs, _ = forward(batch, temperature)
        assert bool((logprobs[batch.mask_CT == 0] == 0).all())
        loss = torch.zeros(())
        for row, index in zip(logprobs, batch.order, strict=True):
            assert rows[index] is None
            rows[index] = row[: len(sequences[index].completion_ids)].detach()
            loss = loss + (row[: len(rows[index])] * weights(sequences[index], index)).sum()  # type: ignore[arg-type]
        loss.backward()
    return [row for row in rows if row is not None], gradients(model)


def assert_equal_training(
    one: tuple[list[Tensor], dict[str, Tensor]], other: tuple[list[Tensor], dict[str, Tensor]]
) -> None:
    assert len(one[0]) == len(other[0])
    for a, b in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    assert one[1].keys() == other[1].keys()
    for name in one[1]:
        a, b = one[1][name].double().flatten(), other[1][name].double().flatten()
        assert float(a.norm()) > 0, name
        assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.99999, name
        assert float((a - b).norm() / b.norm()) < 1e-4, name


LAYOUTS: dict[str, Any] = {
    "alone": {"share": Sharing.NOTHING},
    "mask": {"share": Sharing.PROMPT},
    "blocks": {"share": Sharing.PROMPT, "blocks": True},
    "beginning": {"share": Sharing.BEGINNING, "blocks": True},
    "beginning under a mask": {"share": Sharing.BEGINNING},
}
SHARED = [layout for layout in LAYOUTS if layout != "alone"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [*NATIVE, "gpt2"])
def test_logprobs_and_gradients_equal_the_plain_ones(name: str, layout: str) -> None:
    model = tiny_model(name).train()
    if name == "gpt2":  # its dropout is on by default
        model.eval()
    sequences = begun(GROUPS)
    found = packed(model, sequences, 0.8, budget=60, **LAYOUTS[layout])
    assert_equal_training(found, plain(model, sequences, 0.8))


@pytest.mark.parametrize("layout", SHARED)
@pytest.mark.parametrize("budget", [1, 13, 40, 60, 10_000])
def test_the_budget_changes_nothing(budget: int, layout: str) -> None:
    model, sequences = tiny_model("llama"), begun(GROUPS)
    found = packed(model, sequences, 1.0, budget=budget, **LAYOUTS[layout])
    assert_equal_training(found, plain(model, sequences, 1.0))


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "lm_head"]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_adapter_gets_the_same_gradients(layout: str, targets: Any) -> None:
    model = with_lora(tiny_model("llama"), targets=targets)
    sequences = begun(GROUPS)
    expected = plain(model, sequences, 1.0)
    assert all("lora_" in name for name in expected[1])
    assert_equal_training(packed(model, sequences, 1.0, budget=60, **LAYOUTS[layout]), expected)


def test_full_logits_give_the_same_as_chunks() -> None:
    model = tiny_model("llama")
    expected = plain(model, GROUPS, 0.8)
    assert_equal_training(
        packed(model, GROUPS, 0.8, share=Sharing.PROMPT, budget=48, chunked=False), expected
    )


@pytest.mark.parametrize("layout", SHARED)
def test_gradient_checkpointing_gives_the_same(layout: str) -> None:
    model, sequences = tiny_model("llama"), begun(GROUPS)
    expected = plain(model, sequences, 1.0)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    assert_equal_training(packed(model, sequences, 1.0, budget=60, **LAYOUTS[layout]), expected)


def test_entropy_equals_that_of_the_plain_distribution() -> None:
    model = tiny_model("llama")
    (batch,) = pack(GROUPS, share=Sharing.PROMPT, size=PassSize(500, 64), pad_id=PAD)
    _, entropy = CompletionLogprobs(tiny_policy(model))(batch, 0.8)
    assert not entropy.requires_grad
    for row, index in zip(entropy, batch.order, strict=True):
        sequence = GROUPS[index]
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids]])
        logits = model(ids).logits[0, len(sequence.prompt_ids) - 1 : -1] / 0.8
        expected = torch.distributions.Categorical(logits=logits).entropy()
        torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-5)
        assert not row[len(expected) :].any()


MODELS = {"mask": tiny_model("llama"), "blocks": tiny_model("llama")}
switch(MODELS["blocks"], on=True)


@settings(max_examples=20, deadline=None)
@given(
    shape=shapes(prompt=st.integers(1, 9), tokens=7, completions=4, groups=3),
    budget=st.integers(1, 80),
    layout=st.sampled_from(sorted(LAYOUTS)),
    alike=st.booleans(),
)
def test_any_groups_and_any_budget(shape: Shape, budget: int, layout: str, alike: bool) -> None:
    sequences = begun(completions(shape)) if alike else completions(shape)
    model = MODELS["blocks" if "blocks" in LAYOUTS[layout] else "mask"]
    share, size = LAYOUTS[layout]["share"], PassSize(budget, min(budget, 40))
    batches = pack(sequences, share=share, size=size, pad_id=PAD)
    assert sorted(index for batch in batches for index in batch.order) == list(range(len(sequences)))
    assert computed_tokens(sequences, share=share, size=size) == sum(
        batch.ids_NW.numel() for batch in batches
    )
    forward = CompletionLogprobs(tiny_policy(model))
    for batch in batches:
        rows, width = batch.ids_NW.shape
        of = {sequences[index].group for index in batch.order}
        assert rows * width <= budget or (rows == 1 and len(of) == 1)
        with torch.no_grad():
            logprobs, _ = forward(batch, 1.0)
            for row, index in zip(logprobs, batch.order, strict=True):
                sequence = sequences[index]
                expected = plain_logprobs(model, sequence.prompt_ids, sequence.completion_ids)
                torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-5)


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=5))
def test_what_all_rows_begin_with(rows: list[list[int]]) -> None:
    length = common_beginning(rows)
    assert all(row[:length] == rows[0][:length] for row in rows)
    assert min(map(len, rows)) == length or len({row[length] for row in rows}) > 1
