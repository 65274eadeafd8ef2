"""Sampling from tiny models with the native engine, for the tests of `rollout`."""

from typing import Any

import pytest
import torch
from tiny import EOS, PAD, plain_logprobs, random_ids
from torch import Tensor

from rlreason.rollout import Request
from rlreason.rollout.native import NativeEngine
from rlreason.seeds import derive_seed
from rlreason.types import Rollout

# More requests than slots, rows that end at different times: (prompt length, completions) of each request.
CROWD = [(5, 3), (9, 1), (2, 2), (7, 1), (1, 2)]


def native(model: Any, *, eos_ids: tuple[int, ...] = (EOS,), **options: Any) -> NativeEngine:
    settings: dict[str, Any] = {"max_sequences": 16, "dtype": torch.float32, **options}
    return NativeEngine(model, eos_ids=eos_ids, **settings)


def requests(shape: list[tuple[int, int]]) -> list[Request]:
    return [
        Request(
            random_ids(length, seed=100 + number), tuple(derive_seed("test", number, k) for k in range(count))
        )
        for number, (length, count) in enumerate(shape)
    ]


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def assert_same(one: list[Rollout], other: list[Rollout], *, within: float = 1e-5) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a.prompt_ids, a.completion_ids, a.finish_reason) == (
            b.prompt_ids,
            b.completion_ids,
            b.finish_reason,
        )
        assert a.logprobs == pytest.approx(b.logprobs, abs=within)


def attention(query_HD: Tensor, keys_KND: Tensor, values_KND: Tensor, scale: float) -> Tensor:
    """Of one query a head over N positions of fewer key-value heads, in float64, (H, D)."""
    out = []
    for head, query in enumerate(query_HD.double()):
        kv = head // (len(query_HD) // len(keys_KND))
        weights = torch.softmax(keys_KND[kv].double() @ query * scale, 0)
        out.append(weights @ values_KND[kv].double())
    return torch.stack(out)


def greedy_by_generate(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """What transformers samples greedily behind a prompt."""
    whole = model.generate(
        torch.tensor([prompt]), max_new_tokens=tokens, do_sample=False, eos_token_id=EOS, pad_token_id=PAD
    )
    ids: list[int] = whole[0, len(prompt) :].tolist()
    return ids


def check_logprobs(model: Any, rollouts: list[Rollout], temperature: float = 1.0) -> None:
    for rollout in rollouts:
        with torch.no_grad():
            expected = plain_logprobs(model, rollout.prompt_ids, rollout.completion_ids, temperature)
        torch.testing.assert_close(torch.tensor(rollout.logprobs), expected, rtol=0, atol=1e-4)
