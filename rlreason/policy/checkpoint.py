"""What a training stage needs to go on: the weights that train, the optimizer, and where it was.

Safetensors and JSON only: nothing is ever unpickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rlreason.errors import UserError
from rlreason.policy.model import Policy

_FOLDER = "trainer"
_ADAPTER = "adapter.safetensors"
_BESIDE = "beside.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq")


def save_training_state(
    directory: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    beside: Mapping[str, nn.Parameter] | None = None,
) -> None:
    """Write the loadable model to `directory`, and the training state beside it in `trainer/`.

    `beside` are parameters that train with the policy and are none of its own: a critic's.
    """
    policy.save(directory)
    folder = directory / _FOLDER
    folder.mkdir()
    beside = beside or {}
    trainable = {**policy.trainable(), **beside}
    names = {id(parameter): name for name, parameter in trainable.items()}
    if policy.has_adapter:  # without one, the model beside it is what trains
        save_file(_weights(policy.trainable()), folder / _ADAPTER)
    if beside:
        save_file(_weights(beside), folder / _BESIDE)
    moments: dict[str, torch.Tensor] = {}
    steps = dict.fromkeys(trainable, 0.0)  # 0: no gradient so far, so the optimizer holds nothing
    for parameter, entry in optimizer.state.items():
        name = names[id(parameter)]
        steps[name] = float(entry["step"])
        for moment in _MOMENTS:
            moments[f"{moment}/{name}"] = entry[moment].contiguous()
    save_file(moments, folder / "optimizer.safetensors")
    text = json.dumps({**state, "optimizer_steps": steps}, indent=1)
    (folder / "state.json").write_text(text, encoding="utf-8")


def _weights(parameters: Mapping[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().contiguous() for name, parameter in parameters.items()}


def load_training_state(
    directory: Path,
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    beside: Mapping[str, nn.Parameter] | None = None,
) -> dict[str, Any]:
    """Put a saved state back into `policy`, `optimizer` and what is `beside`, and return its `state`.

    `policy` was loaded from `directory`, or, where it has an adapter, from the model the stage started from.
    Raises UserError naming the file if one is missing or does not fit the model.
    """
    folder = directory / _FOLDER
    beside = beside or {}
    try:
        state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        weights = load_file(folder / _ADAPTER) if policy.has_adapter else {}
        if beside:
            weights |= load_file(folder / _BESIDE)
        moments = load_file(folder / "optimizer.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder} cannot be read ({error}). Delete the checkpoint {directory.name} to go on from the "
            "one before."
        ) from error
    parameters = {**policy.trainable(), **beside}
    steps = state.pop("optimizer_steps")
    if steps.keys() != parameters.keys():
        different = sorted(steps.keys() ^ parameters.keys())[:3]
        raise UserError(f"{folder}: saved from a model with other trainable weights (such as {different})")
    for name, parameter in parameters.items():
        if name in weights:
            parameter.data.copy_(weights[name])
        if steps[name]:
            entry: dict[str, Any] = {
                moment: moments[f"{moment}/{name}"].to(parameter.device) for moment in _MOMENTS
            }
            optimizer.state[parameter] = {
                "step": torch.tensor(steps[name], device=parameter.device),
                **entry,
            }
    return state
