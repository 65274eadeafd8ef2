"""What the probe finds out about models for which a shortcut does not hold."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import NATIVE, PAD, plain_logprobs, random_ids, tiny_model, tiny_policy, with_lora
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from rlreason.policy import forward as forward_module
from rlreason.policy.blocks import takes_blocks
from rlreason.policy.forward import CompletionLogprobs, probe_forward, rows_at
from rlreason.policy.packing import Completion, PassSize, Sharing, pack

# Longer than the probe's own sequences and than the sliding windows below.
PROMPT = random_ids(30, seed=1)
LONG = [Completion(0, PROMPT, random_ids(20, seed=2)), Completion(0, PROMPT, random_ids(20, seed=3))]
LONG += [Completion(1, [*PROMPT[:25], *random_ids(6, seed=4)], random_ids(19, seed=5))]


def probed(model: Any, dtype: torch.dtype = torch.float32) -> tuple[CompletionLogprobs, Sharing, list[str]]:
    policy = tiny_policy(model, dtype=dtype)
    forward = CompletionLogprobs(policy)
    notes = probe_forward(policy, forward)
    return forward, forward.sharing, notes


def check(model: Any, forward: CompletionLogprobs, share: Sharing) -> None:
    """With what the probe allows, log-probs are those of a plain forward pass."""
    for batch in pack(LONG, share=share, size=PassSize(400, 400), pad_id=PAD):
        with torch.no_grad():
            logprobs, _ = forward(batch, 1.0)
            for row, index in zip(logprobs, batch.order, strict=True):
                expected = plain_logprobs(model, LONG[index].prompt_ids, LONG[index].completion_ids)
                torch.testing.assert_close(row[: len(expected)], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", [*NATIVE, "gpt2"])
def test_ordinary_models_take_every_shortcut(name: str) -> None:
    model = tiny_model(name)
    forward, sharing, notes = probed(model)
    assert (forward.chunked, sharing, notes) == (True, Sharing.BEGINNING, [])
    assert takes_blocks(model)
    check(model, forward, sharing)


def test_attention_in_blocks_stays_out_of_what_is_saved(tmp_path: Path) -> None:
    model = tiny_model("llama")
    probed(model)
    assert takes_blocks(model)
    model.save_pretrained(tmp_path)
    assert "blocks" not in (tmp_path / "config.json").read_text()


def test_a_model_that_gives_other_results_in_blocks_keeps_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    own = model.model.forward

    def wrong(*args: Any, blocks: Any = None, **kwargs: Any) -> Any:
        return own(*args, **kwargs)  # and with it the mask, which is not looked at in blocks

    monkeypatch.setattr(model.model, "forward", wrong)
    forward, sharing, notes = probed(model)
    assert (sharing, takes_blocks(model), len(notes)) == (Sharing.PROMPT, False, 1)
    check(model, forward, sharing)


def test_an_adapter_takes_every_shortcut() -> None:
    forward, sharing, notes = probed(with_lora(tiny_model("llama")))
    assert (forward.chunked, sharing, notes) == (True, Sharing.BEGINNING, [])


def test_the_probe_compares_in_float32_and_leaves_the_precision_as_it_was() -> None:
    forward, sharing, notes = probed(tiny_model("llama"), dtype=torch.bfloat16)
    assert (forward.chunked, sharing, notes) == (True, Sharing.BEGINNING, [])
    (batch,) = pack(LONG, share=Sharing.PROMPT, size=PassSize(400, 400), pad_id=PAD)
    seen: list[torch.dtype] = []
    layer = forward.model.model.layers[0].mlp
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    forward(batch, 1.0)
    assert set(seen) == {torch.bfloat16}


def test_scaled_logits_are_computed_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """By something that no config says: head times hidden state is not all there is."""
    model = tiny_model("llama")
    own = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = own(*args, **kwargs)
        output.logits = output.logits * 0.25
        return output

    monkeypatch.setattr(model, "forward", scaled)
    forward, sharing, notes = probed(model)
    assert not forward.chunked
    assert sharing
    assert len(notes) == 1
    assert "full logits" in notes[0]
    check(model, forward, sharing)


@pytest.mark.parametrize("name", ["granite", "cohere"])
def test_a_scale_of_the_logits_that_the_config_names_takes_every_shortcut(name: str) -> None:
    model = tiny_model(name)
    forward, sharing, notes = probed(model)
    assert (forward.chunked, sharing, notes) == (True, Sharing.BEGINNING, [])
    check(model, forward, sharing)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 1.0),
        ({"logit_scale": 0.0625}, 0.0625),
        ({"logit_scale": None}, 1.0),
        ({"logit_scale": "inv_sqrt_d_model"}, 1.0),  # MPT's, left to the probe
        ({"lm_head_multiplier": 0.5}, 0.5),
        ({"logits_scaling": 8.0, "model_type": "granite"}, 0.125),
        ({"logits_scaling": 8.0, "model_type": "hyperclovax"}, 8.0),
        ({"logit_scale": 0.0625, "final_logit_softcapping": 30.0}, 1.0),
    ],
    ids=str,
)
def test_the_scale_that_a_config_names(config: dict[str, Any], scale: float) -> None:
    assert forward_module._logit_scale(SimpleNamespace(**config)) == scale


def test_under_flash_attention_an_unknown_scale_is_found_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It computes in half precision only. Its kernel needs a GPU; here it is that of `sdpa`."""

    def kernel(module: Any, query: torch.Tensor, *rest: Any, **options: Any) -> Any:
        assert torch.is_autocast_enabled("cpu")
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        return sdpa_attention_forward(module, query, *rest, **options)

    monkeypatch.setitem(AttentionInterface._global_mapping, "flash_attention_2", kernel)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "flash_attention_2", sdpa_mask)
    for scale, chunked in ((1.0, True), (0.25, False)):
        model = tiny_model("llama")
        model.config._attn_implementation = "flash_attention_2"
        own = model.forward

        def scaled(*args: Any, own: Any = own, scale: float = scale, **kwargs: Any) -> Any:
            output = own(*args, **kwargs)
            output.logits = output.logits * scale
            return output

        monkeypatch.setattr(model, "forward", scaled)
        forward, sharing, notes = probed(model, dtype=torch.bfloat16)
        assert (forward.chunked, sharing) == (chunked, Sharing.NOTHING)
        assert len(notes) == 2 - chunked


def test_a_model_that_is_another_where_positions_are_given_shares_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    own = model.model.forward

    def lost(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return own(*args, position_ids=None if position_ids is None else position_ids.flip(-1), **kwargs)

    monkeypatch.setattr(model.model, "forward", lost)
    forward, sharing, notes = probed(model)
    assert forward.chunked
    assert sharing == Sharing.NOTHING
    assert notes == ["this model's attention takes no block mask: each completion repeats its prompt"]


def test_a_model_that_looks_at_what_stands_behind_is_said_to_be_another_in_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    own = model.model.embed_tokens.forward
    monkeypatch.setattr(model.model.embed_tokens, "forward", lambda ids: own(ids) + own(ids).mean(1, True))
    _, sharing, notes = probed(model)
    assert sharing == Sharing.NOTHING
    assert "padded at the end, this model gives other log-probs, by" in notes[0]


def test_noise_that_is_drawn_in_training_does_not_mislead_the_probe() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5).train()
    forward, sharing, notes = probed(model)
    assert (forward.chunked, sharing, notes) == (True, Sharing.BEGINNING, [])
    assert model.training


def test_memory_that_is_used_up_is_no_property_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    calls = []

    def full(*args: Any, own: Any = model.model.forward, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return own(*args, **kwargs)

    monkeypatch.setattr(model.model, "forward", full)
    with pytest.raises(torch.OutOfMemoryError):
        probed(model)


def test_masks_as_long_as_the_positions_rule_out_rows_that_are_longer() -> None:
    model = tiny_model("gpt_neo", attention_types=[[["global"], 2]], num_layers=2, intermediate_size=None)
    _, sharing, _ = probed(model)
    assert sharing == Sharing.NOTHING


def test_a_model_that_ignores_the_block_mask_gets_rows_of_one_completion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model("llama")
    own = model.model.forward

    def deaf(*args: Any, attention_mask: Any = None, **kwargs: Any) -> Any:
        flat = attention_mask is None or attention_mask.dim() == 2
        mask = attention_mask if flat else torch.ones_like(kwargs["input_ids"])
        return own(*args, attention_mask=mask, **kwargs)

    monkeypatch.setattr(model.model, "forward", deaf)
    forward, sharing, notes = probed(model)
    assert forward.chunked
    assert sharing == Sharing.NOTHING
    assert len(notes) == 1
    assert "repeats its prompt" in notes[0]
    check(model, forward, sharing)


@pytest.mark.parametrize("window", [4, 20, 40])
@pytest.mark.parametrize(
    ("name", "options"),
    [("mistral", {}), ("qwen2", {"use_sliding_window": True, "max_window_layers": 1})],
)
def test_a_sliding_window_rules_out_sharing_even_if_the_probe_fits_in_it(
    name: str, options: dict[str, Any], window: int
) -> None:
    """A block mask replaces the window, and positions in a shared row are not those of the window."""
    model = tiny_model(name, sliding_window=window, **options)
    forward, sharing, notes = probed(model)
    assert sharing == Sharing.NOTHING
    assert len(notes) == 1
    check(model, forward, sharing)


@pytest.mark.parametrize("cap", [None, 1.5, 30.0])
def test_gemma2_with_softcapped_logits_and_alternating_windows(cap: float | None) -> None:
    model = tiny_model("gemma2", sliding_window=20, final_logit_softcapping=cap)
    forward, sharing, _ = probed(model)
    assert sharing == Sharing.NOTHING
    check(model, forward, sharing)


def test_a_softcap_does_not_cost_the_chunks() -> None:
    model = tiny_model("gemma2", layer_types=["full_attention"] * 2, final_logit_softcapping=1.5)
    forward, sharing, notes = probed(model)
    assert (forward.chunked, sharing) == (True, Sharing.PROMPT)
    # Its attention has a softcap as well, which blocks have not.
    assert not takes_blocks(model)
    assert notes == ["this model's attention knows no blocks: completions are masked from each other"]
    check(model, forward, sharing)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_eager_attention_gives_the_same_or_is_not_shared(name: str) -> None:
    model = tiny_model(name, attn_implementation="eager")
    forward, sharing, _ = probed(model)
    assert not takes_blocks(model)  # it is what was asked for
    check(model, forward, sharing)


def test_the_gradient_of_a_row_taken_several_times_has_the_same_bits_every_time() -> None:
    """Plain indexing adds up with two threads in the order in which they come: 111 of 400 differed."""
    # The end of a prompt of 55 tokens, and what predicts the others of eight completions of 56.
    places = torch.cat([torch.tensor([54, *range(55 + 56 * c, 110 + 56 * c)]) for c in range(8)])
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(1, 503, 576, generator=generator, requires_grad=True)
    weight = torch.randn(len(places), 576, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (first, *others) = (
            torch.autograd.grad((rows_at(states, places) * weight).sum(), states)[0] for _ in range(60)
        )
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first, other) for other in others)
    torch.testing.assert_close(first[0, 54], weight[::56].sum(0))
