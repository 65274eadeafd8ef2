"""The loss of labelled examples is that of a plain forward pass, and costs less."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import FAMILIES, PAD, random_ids, tiny_model, tiny_policy, with_lora
from torch import Tensor

from rlreason.policy.examples import IGNORED, ExampleLoss, pack_examples, tokens_computed
from rlreason.policy.model import drops, switch_dropout_off

SYSTEM = random_ids(24, seed=1)
QUESTIONS = [[3 + n, *random_ids(4 + n % 3, seed=10 + n)] for n in range(6)]
ANSWERS = [random_ids(7 + 2 * n, seed=20 + n) for n in range(6)]
ROWS = [[*SYSTEM, *question, *answer] for question, answer in zip(QUESTIONS, ANSWERS, strict=True)]
LABELS = [
    [IGNORED] * (len(SYSTEM) + len(question)) + answer
    for question, answer in zip(QUESTIONS, ANSWERS, strict=True)
]


def padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows])


def batch(rows: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    return padded(rows, PAD), padded(labels, IGNORED), padded([[1] * len(row) for row in rows], 0)


def plain(model: Any, ids: Tensor, labels: Tensor, valid: Tensor) -> Tensor:
    logits = model(input_ids=ids, attention_mask=valid, use_cache=False).logits
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def gradient(model: Any, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", [*FAMILIES, "gemma2", "gpt2", "lora"])
def test_loss_and_gradient_are_those_of_a_plain_forward_pass(name: str) -> None:
    model = with_lora(tiny_model("llama")) if name == "lora" else tiny_model(name)
    model.train()
    switch_dropout_off(model)
    rows = batch(ROWS, LABELS)
    wanted = plain(model, *rows)
    wanted_gradient = gradient(model, wanted)
    loss = ExampleLoss(tiny_policy(model))(*rows)
    found = gradient(model, loss)
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=1e-5)
    assert F.cosine_similarity(found, wanted_gradient, dim=0) > 0.99999
    assert (found - wanted_gradient).norm() <= 1e-4 * wanted_gradient.norm()


def test_what_all_rows_begin_with_is_computed_once() -> None:
    packed = pack_examples(ROWS, LABELS, share=True, pad_id=PAD)
    assert packed.ids_NW.shape == (1, len(SYSTEM) + sum(len(row) - len(SYSTEM) for row in ROWS))
    alone = pack_examples(ROWS, LABELS, share=False, pad_id=PAD)
    assert alone.ids_NW.shape == (len(ROWS), max(map(len, ROWS)))


def test_a_short_beginning_is_not_shared() -> None:
    rows = [[5, 6, *row] for row in ANSWERS]
    labels = [[IGNORED, IGNORED, *row] for row in ANSWERS]
    assert pack_examples(rows, labels, share=True, pad_id=PAD).part_NW is None


def test_many_examples_fill_several_rows_evenly() -> None:
    rows = [[*random_ids(1000, seed=0), 3 + n % 30, *random_ids(99, seed=n)] for n in range(15)]
    labels = [[IGNORED] * 1000 + row[1000:] for row in rows]
    packed = pack_examples(rows, labels, share=True, pad_id=PAD)
    assert packed.ids_NW.shape == (2, 1800)  # 10 fit into the longest row; 8 and 7 need less padding
    assert packed.mask_CT.sum() == 1500


_TOKENS = st.lists(st.integers(3, 5), min_size=1, max_size=4)


@given(
    st.lists(st.integers(3, 5), max_size=12),
    st.lists(st.tuples(_TOKENS, st.data()), min_size=1, max_size=5),
    st.booleans(),
)
def test_every_labelled_token_is_predicted_once_behind_what_precedes_it(
    beginning: list[int], parts: list[tuple[list[int], st.DataObject]], share: bool
) -> None:
    rows = [[6, *beginning, *tokens] for tokens, _ in parts]
    labels = []
    for row, (_, data) in zip(rows, parts, strict=True):
        chosen = data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row)))
        labels.append([token if keep else IGNORED for token, keep in zip(row, chosen, strict=True)])
    packed = pack_examples(rows, labels, share=share, pad_id=PAD)
    assert sorted(packed.order) == list(range(len(rows)))
    width = packed.ids_NW.shape[1]
    part = torch.zeros_like(packed.ids_NW) if packed.part_NW is None else packed.part_NW
    for slot, index in enumerate(packed.order):
        wanted = [(row_place, rows[index][row_place]) for row_place in range(1, len(rows[index]))]
        wanted = [(place, token) for place, token in wanted if labels[index][place] != IGNORED]
        kept = packed.mask_CT[slot].bool()
        found = []
        for source, target in zip(packed.source_CT[slot][kept], packed.targets_CT[slot][kept], strict=True):
            number, place = divmod(int(source), width)
            # What the predictor sees: the shared beginning and its own part, up to itself.
            own = part[number, place]
            seen = [
                int(packed.ids_NW[number, other])
                for other in range(place + 1)
                if part[number, other] in (0, own)
            ]
            found.append((len(seen), int(target)))
            assert seen == rows[index][: len(seen)]
            assert int(packed.positions_NW[number, place]) == len(seen) - 1
        assert found == wanted


def test_with_dropout_each_example_has_zeros_of_its_own() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.1)
    assert drops(model)
    seen: list[torch.Size] = []
    loss = ExampleLoss(tiny_policy(model))
    model.train()
    model.transformer.h[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    loss(*batch(ROWS, LABELS))
    assert seen[-1][:2] == (len(ROWS), max(map(len, ROWS)))
    switch_dropout_off(model)
    assert not drops(model)


def test_dropout_of_a_model_does_not_make_its_logits_look_strange() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    model.train()
    loss = ExampleLoss(tiny_policy(model))
    assert loss._forward.chunked
    assert model.training


@pytest.mark.parametrize("name", ["llama", "qwen3", "granite", "gpt2"])
def test_the_loss_shares_where_the_model_lets_it(name: str) -> None:
    model = tiny_model(name)
    switch_dropout_off(model)
    loss = ExampleLoss(tiny_policy(model))
    seen: list[torch.Size] = []
    body = model.transformer.h[0] if name == "gpt2" else model.model.layers[0]
    body.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    loss(*batch(ROWS, LABELS))
    assert seen[-1][:2] == (1, len(SYSTEM) + sum(len(row) - len(SYSTEM) for row in ROWS))
    assert loss.notes == []


@pytest.mark.parametrize(("name", "options"), [("mistral window", {}), ("llama", {"attn": "eager"})])
def test_it_does_not_where_attention_would_see_or_keep_all_pairs(name: str, options: dict[str, str]) -> None:
    model = tiny_model(name)
    if "attn" in options:
        model.set_attn_implementation(options["attn"])
    loss = ExampleLoss(tiny_policy(model))
    seen: list[torch.Size] = []
    model.model.layers[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    loss(*batch(ROWS, LABELS))
    assert seen[-1][:2] == (len(ROWS), max(map(len, ROWS)))


def test_tokens_computed_are_those_of_the_layout() -> None:
    rows = [
        {"input_ids": row, "completion_mask": [int(label != IGNORED) for label in labels]}
        for row, labels in zip(ROWS, LABELS, strict=True)
    ]
    own = [len(row) - len(SYSTEM) for row in ROWS]
    assert tokens_computed(rows, 6, share=True) == len(SYSTEM) + sum(own)
    assert tokens_computed(rows, 4, share=True) == 2 * len(SYSTEM) + sum(own)
    assert tokens_computed(rows, 1, share=True) == sum(map(len, ROWS))
    assert tokens_computed(rows, 6, share=False) == len(ROWS) * max(map(len, ROWS))
