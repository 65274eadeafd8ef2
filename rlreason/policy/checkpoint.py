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
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_STATE = "state.json"
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
    if policy.has_adapter:  # without one, the model beside it is what trains
        save_file(_weights(policy.trainable()), folder / _ADAPTER)
    if beside:
        save_file(_weights(beside), folder / _BESIDE)
    steps = _save_moments(folder, trainable, optimizer)
    text = json.dumps({**state, "optimizer_steps": steps}, indent=1)
    (folder / _STATE).write_text(text, encoding="utf-8")


def _save_moments(
    folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> dict[str, float]:
    """Write what AdamW holds; return its steps by parameter, 0 for one that has had no gradient."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    moments: dict[str, torch.Tensor] = {}
    steps = dict.fromkeys(parameters, 0.0)
    for parameter, entry in optimizer.state.items():
        name = names[id(parameter)]
        steps[name] = float(entry["step"])
        for moment in _MOMENTS:
            moments[f"{moment}/{name}"] = entry[moment].contiguous()
    save_file(moments, folder / _OPTIMIZER)
    return steps


def _load_moments(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    moments: Mapping[str, torch.Tensor],
    steps: Mapping[str, float],
) -> None:
    for name, parameter in parameters.items():
        if steps[name]:
            entry: dict[str, Any] = {
                moment: moments[f"{moment}/{name}"].to(parameter.device) for moment in _MOMENTS
            }
            optimizer.state[parameter] = {
                "step": torch.tensor(steps[name], device=parameter.device),
                **entry,
            }


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
        state = training_state(directory)
        weights = load_file(folder / _ADAPTER) if policy.has_adapter else {}
        if beside:
            weights |= load_file(folder / _BESIDE)
        moments = load_file(folder / _OPTIMIZER)
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
    _load_moments(parameters, optimizer, moments, steps)
    return state


def training_state(directory: Path) -> dict[str, Any]:
    """The numbers that `save_training_state` has saved in a checkpoint."""
    state: dict[str, Any] = json.loads((directory / _FOLDER / _STATE).read_text(encoding="utf-8"))
    return state


def save_parameters(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    beside: Mapping[str, torch.Tensor],
) -> None:
    """Write the weights that train, what the optimizer holds of them, and tensors `beside` (random states).

    For stages whose model can be made again from where it started, with nothing but these changed.
    """
    save_file(_weights(parameters), folder / _WEIGHTS)
    save_file({name: tensor.contiguous() for name, tensor in beside.items()}, folder / _BESIDE)
    steps = _save_moments(folder, parameters, optimizer)
    (folder / _STATE).write_text(json.dumps({**state, "optimizer_steps": steps}), encoding="utf-8")


@torch.no_grad()
def load_weights(folder: Path, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put saved weights back. Raises UserError if they are those of another model."""
    weights = load_file(folder / _WEIGHTS)
    if weights.keys() != parameters.keys():
        different = sorted(weights.keys() ^ parameters.keys())[:3]
        raise UserError(f"{folder}: saved from a model with other trainable weights (such as {different})")
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def load_optimizer(
    folder: Path, parameters: Mapping[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Put what the optimizer held back; return the saved `state` and the tensors `beside`."""
    state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    steps = state.pop("optimizer_steps")
    _load_moments(parameters, optimizer, load_file(folder / _OPTIMIZER), steps)
    return state, load_file(folder / _BESIDE)
