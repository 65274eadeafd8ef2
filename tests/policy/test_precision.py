from collections.abc import Callable
from typing import Any

import pytest
import torch

from rlreason.policy.precision import resolve_precision

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def answers(value: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: value


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_what_is_asked_for_is_not_probed(device: torch.device) -> None:
    assert resolve_precision("float32", device) == torch.float32
    assert resolve_precision("bfloat16", device) == torch.bfloat16


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),  # Arm
    ],
)
def test_auto_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", answers(capabilities))
    assert resolve_precision("auto", CPU) == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_asks_the_gpu(monkeypatch: pytest.MonkeyPatch, supported: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", answers(supported))
    assert resolve_precision("auto", CUDA) == expected


def test_auto_on_any_other_device_is_float32() -> None:
    assert resolve_precision("auto", torch.device("mps")) == torch.float32
