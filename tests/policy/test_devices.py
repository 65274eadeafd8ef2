"""The same on a processor, with the suite, and on a GPU, with `-m gpu`."""

from typing import Any

import pytest
import torch
from groups import GROUPS, begun
from tiny import PAD, tiny_model, tiny_policy

from rlreason.algorithms import token_logprobs
from rlreason.policy.blocks import block_attention
from rlreason.policy.forward import CompletionLogprobs, probe_forward
from rlreason.policy.packing import Completion, PassSize, Sharing, pack
from rlreason.policy.precision import leave_cudnn_attention_out


def test_gradients_under_a_mask_are_finite_where_all_scores_are_low(device: torch.device) -> None:
    """Scores of about -120 in rows of 192 keys: kernels of cuDNN, which come first on Hopper, give NaN."""
    leave_cudnn_attention_out()
    prompt, length, heads, size = 64, 128, 2, 64
    sequences = [Completion(0, range(prompt), range(length)) for _ in range(4)]
    (packed,) = pack(sequences, share=Sharing.PROMPT, size=PassSize(2048, 2048), pad_id=0)
    packed = packed.to(device)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn((3, 1, heads, packed.ids_NW.shape[1], size), generator=generator)
    drawn[:2] *= 0.1
    drawn[0, ..., 0], drawn[1, ..., 0] = 1.0, -120 * size**0.5
    inputs = [part.to(device, torch.bfloat16).requires_grad_() for part in drawn]
    module: Any = torch.nn.Module()
    module.num_key_value_groups = 1
    assert packed.blocks is not None
    seen = packed.blocks.unread_mask
    found, _ = block_attention(module, *inputs, seen, blocks=packed.blocks, scaling=size**-0.5)
    weight = torch.randn(found.shape, generator=generator).to(found)
    gradients = torch.autograd.grad((found * weight).sum(), inputs)
    assert packed.attention_N1WW is not None
    query, key, value = (part.double().detach().requires_grad_() for part in inputs)
    scores = (query @ key.transpose(-1, -2) * size**-0.5).masked_fill(~packed.attention_N1WW, -torch.inf)
    exact = (scores.softmax(-1) @ value).transpose(1, 2)
    expected = torch.autograd.grad((exact * weight).sum(), [query, key, value])
    torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=0.05)
    for name, one, other in zip("qkv", gradients, expected, strict=True):
        assert torch.isfinite(one).all(), name
        # Of queries and keys the first number is 1 and -960, whose rounding would drown the others.
        a, b = (part[..., 1:].double().flatten() for part in (one, other))
        assert float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.99, name


@pytest.mark.parametrize("share", [Sharing.NOTHING, Sharing.PROMPT, Sharing.BEGINNING])
def test_packed_rows_in_half_precision_are_near_float32(share: Sharing, device: torch.device) -> None:
    model = tiny_model("llama").to(device)
    policy = tiny_policy(model, dtype=torch.bfloat16)
    forward = CompletionLogprobs(policy)
    assert probe_forward(policy, forward) == []
    assert forward.sharing == Sharing.BEGINNING
    sequences = begun(GROUPS)
    batches = pack(sequences, share=share, size=PassSize(200, 200), pad_id=PAD)
    gaps = []
    for batch in batches:
        found, _ = forward(batch.to(device), 1.0)
        assert found.device.type == device.type
        found.sum().backward()
        for row, index in zip(found.detach().float().cpu(), batch.order, strict=True):
            one = sequences[index]
            ids = torch.tensor([[*one.prompt_ids, *one.completion_ids]], device=device)
            with torch.no_grad():
                logits = model(ids).logits[0, len(one.prompt_ids) - 1 : -1].cpu()
            exact = logits.log_softmax(-1).gather(1, torch.tensor(one.completion_ids)[:, None])[:, 0]
            gaps.append((row[: len(exact)] - exact).abs())
    assert 0 < float(torch.cat(gaps).mean()) < 0.05
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_logprobs_in_chunks(device: torch.device) -> None:
    """Four chunks of 250 tokens, against all logits at once in float64."""
    tokens, vocabulary = 1000, 5000
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, 8, generator=generator) for rows in (tokens, vocabulary))
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    scale = torch.randn(tokens, generator=generator) / 30
    inputs = [part.to(device).requires_grad_() for part in (hidden, weight)]
    logprobs, _ = token_logprobs(*inputs, targets.to(device), temperature=0.7, chunk=300)
    found = [logprobs, *torch.autograd.grad((logprobs * scale.to(device)).sum(), inputs)]
    exact = [part.double().requires_grad_() for part in (hidden, weight)]
    plain = ((exact[0] @ exact[1].t()) / 0.7).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    expected = [plain, *torch.autograd.grad((plain * scale).sum(), exact)]
    near = {"cpu": 1e-5, "cuda": 1e-3}[device.type]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu().double(), other, rtol=near, atol=near)
