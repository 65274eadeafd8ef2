"""While passes are computed nothing is read from the device, which would be to wait for it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from micro import lines
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import masking_utils

from rlreason.stages.update import Updater

Train = Callable[..., Path]

aten = torch.ops.aten
READS = {
    aten._local_scalar_dense.default,  # float(), int(), bool(), item()
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
}
METHODS = ("tolist", "cpu", "numpy")
"""These read the memory of a processor, unseen by what sees operations."""


class NothingRead(TorchDispatchMode):
    """Refuses operations whose result the host has to know: a number, or how many elements are true."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        picks = function in (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
        leaves = tree_leaves(args[1]) if picks else []
        by_mask = any(torch.is_tensor(leaf) and leaf.dtype == torch.bool for leaf in leaves)
        if function in READS or by_mask:
            raise AssertionError(f"{function} waits for the device")
        return function(*args, **(kwargs or {}))


@contextmanager
def nothing_read() -> Iterator[None]:
    def refuse(self: torch.Tensor, *args: Any, **options: Any) -> Any:
        raise AssertionError("a copy to the host waits for the device")

    with pytest.MonkeyPatch.context() as patch, NothingRead():
        for name in METHODS:
            patch.setattr(torch.Tensor, name, refuse)
        yield


def watched(own: Any) -> Any:
    def call(*args: Any, **options: Any) -> Any:
        with nothing_read():
            return own(*args, **options)

    return call


@pytest.mark.parametrize(
    ("stage", "settings"),
    [
        ("grpo", {}),
        ("grpo", {"share_prompt": False}),
        ("grpo", {"epochs": 2, "kl": {"coef": 0.1}}),
        ("ppo", {"critic": {"kind": "separate"}}),
        ("ppo", {"critic": {"kind": "shared"}}),
    ],
)
def test_between_the_passes_of_an_update_nothing_is_read(
    stage: str, settings: dict[str, Any], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At the start of a pass over plain rows transformers looks once whether they are packed by positions.
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    monkeypatch.setattr(Updater, "_loss", watched(Updater._loss))
    monkeypatch.setattr(Accelerator, "backward", watched(Accelerator.backward))
    run = train(stage=stage, **{stage: {"steps": 1, "micro_batch_tokens": 200, **settings}})
    (step,) = [line for line in lines(run / "metrics.jsonl") if line["stage"] == stage and "reward" in line]
    assert step["loss"] != 0
    assert step["skipped_updates"] == 0


def test_what_waits_is_refused() -> None:
    """The test above sees each of them."""
    values, mask = torch.ones(3), torch.tensor([True, False, True])
    waits: list[Callable[[], Any]] = [
        lambda: float(values.sum()),
        lambda: bool(mask.any()),
        lambda: values[mask],
        lambda: mask.nonzero(),
        lambda: values.tolist(),
        lambda: values.cpu(),
        lambda: values.numpy(),
        lambda: torch.equal(values, values),
    ]
    for wait in waits:
        with pytest.raises(AssertionError, match="waits for the device"), nothing_read():
            wait()
