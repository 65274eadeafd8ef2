"""Training state: going on from a checkpoint is going on, bit for bit."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import plain_logprobs, random_ids, tiny_model, tiny_policy, tiny_tokenizer, with_lora

from rlreason.config.training import OptimConfig
from rlreason.errors import UserError
from rlreason.policy.checkpoint import load_training_state, save_training_state
from rlreason.policy.model import Policy
from rlreason.policy.optimizer import build_optimizer

OPTIM = OptimConfig(lr=1e-2, weight_decay=0.1)
STATE = {"stage": "grpo", "step": 3, "updates": 5}


def policy(
    *, lora: bool = False, seed: int = 0, name: str = "llama tied", path: Path | None = None
) -> Policy:
    """A policy with weights of `seed`, or with those saved at `path`, as a resumed run loads it."""
    from transformers import AutoModelForCausalLM

    model = tiny_model(name) if lora or path is None else AutoModelForCausalLM.from_pretrained(path)
    if lora:
        model = with_lora(model, seed=seed)
    return tiny_policy(model, tiny_tokenizer("{{ messages }}"))


def step(policy: Policy, optimizer: torch.optim.Optimizer, number: int) -> None:
    loss = -plain_logprobs(policy.model, random_ids(4, seed=number), random_ids(6, seed=number + 10)).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob("*")) if f.is_file()
    }


@pytest.mark.parametrize("lora", [False, True])
def test_two_steps_are_one_step_save_load_one_step(tmp_path: Path, lora: bool) -> None:
    straight = policy(lora=lora)
    optimizer = build_optimizer({"policy": (straight.trainable(), OPTIM)})
    step(straight, optimizer, 0)
    save_training_state(tmp_path / "saved", straight, optimizer, STATE)
    written = digests(tmp_path / "saved")
    step(straight, optimizer, 1)

    resumed = policy(lora=lora, seed=9, path=tmp_path / "saved")  # an adapter of its own, to be overwritten
    resumed_optimizer = build_optimizer({"policy": (resumed.trainable(), OPTIM)})
    assert load_training_state(tmp_path / "saved", resumed, resumed_optimizer) == STATE
    step(resumed, resumed_optimizer, 1)

    for name, parameter in straight.trainable().items():
        other = resumed.trainable()[name]
        assert torch.equal(parameter, other), name
        moments, again = optimizer.state[parameter], resumed_optimizer.state[other]
        assert moments.keys() == again.keys()
        assert all(torch.equal(moments[key], again[key]) for key in moments), name
        assert float(again["step"]) == 2
        assert again["step"].device == other.device
    assert digests(tmp_path / "saved") == written  # training on does not write into the checkpoint


def test_the_state_matters(tmp_path: Path) -> None:
    """Without the moments the second step is another one: the test above can fail."""
    straight = policy()
    optimizer = build_optimizer({"policy": (straight.trainable(), OPTIM)})
    step(straight, optimizer, 0)
    save_training_state(tmp_path / "saved", straight, optimizer, STATE)
    step(straight, optimizer, 1)
    forgetful = policy(path=tmp_path / "saved")
    step(forgetful, build_optimizer({"policy": (forgetful.trainable(), OPTIM)}), 1)
    names = straight.trainable()
    assert any(not torch.equal(names[name], other) for name, other in forgetful.trainable().items())


def test_nothing_is_pickled(tmp_path: Path) -> None:
    trained = policy(lora=True)
    optimizer = build_optimizer({"policy": (trained.trainable(), OPTIM)})
    step(trained, optimizer, 0)
    save_training_state(tmp_path / "saved", trained, optimizer, STATE)
    folder = tmp_path / "saved" / "trainer"
    assert {file.suffix for file in folder.iterdir()} == {".safetensors", ".json"}
    assert json.loads((folder / "state.json").read_text())["step"] == 3
    assert not [f for f in (tmp_path / "saved").rglob("*") if f.suffix in {".bin", ".pt", ".pth", ".pkl"}]


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_without_any_update_so_far_can_be_saved(tmp_path: Path, lora: bool) -> None:
    """All groups of the first steps may have been uninformative."""
    fresh = policy(lora=lora)
    save_training_state(
        tmp_path / "saved", fresh, build_optimizer({"policy": (fresh.trainable(), OPTIM)}), STATE
    )
    resumed = policy(lora=lora, seed=9, path=tmp_path / "saved")
    optimizer = build_optimizer({"policy": (resumed.trainable(), OPTIM)})
    assert load_training_state(tmp_path / "saved", resumed, optimizer) == STATE
    assert not optimizer.state
    for name, parameter in fresh.trainable().items():
        assert torch.equal(parameter, resumed.trainable()[name])


def test_weights_that_have_had_no_gradient_yet_do_not_stop_a_resume(tmp_path: Path) -> None:
    """The experts of a mixture that no token was routed to."""
    trained = policy(name="llama")
    optimizer = build_optimizer({"policy": (trained.trainable(), OPTIM)})
    (trained.model.model.embed_tokens.weight.sum() * 1.0).backward()
    optimizer.step()
    save_training_state(tmp_path / "saved", trained, optimizer, STATE)
    resumed = policy(path=tmp_path / "saved")
    again = build_optimizer({"policy": (resumed.trainable(), OPTIM)})
    load_training_state(tmp_path / "saved", resumed, again)
    assert len(again.state) == 1


@pytest.mark.parametrize("missing", ["state.json", "optimizer.safetensors", "adapter.safetensors"])
def test_a_missing_file_is_named_with_a_remedy(tmp_path: Path, missing: str) -> None:
    trained = policy(lora=True)
    optimizer = build_optimizer({"policy": (trained.trainable(), OPTIM)})
    step(trained, optimizer, 0)
    save_training_state(tmp_path / "step-000003", trained, optimizer, STATE)
    (tmp_path / "step-000003" / "trainer" / missing).unlink()
    with pytest.raises(UserError) as error:
        load_training_state(tmp_path / "step-000003", trained, optimizer)
    assert str(tmp_path / "step-000003" / "trainer") in str(error.value)
    assert "Delete the checkpoint step-000003" in str(error.value)


@pytest.mark.parametrize("torn", ["state.json", "optimizer.safetensors"])
def test_a_torn_file_is_named_with_a_remedy(tmp_path: Path, torn: str) -> None:
    trained = policy()
    optimizer = build_optimizer({"policy": (trained.trainable(), OPTIM)})
    step(trained, optimizer, 0)
    save_training_state(tmp_path / "step-000003", trained, optimizer, STATE)
    file = tmp_path / "step-000003" / "trainer" / torn
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(UserError, match="Delete the checkpoint step-000003"):
        load_training_state(tmp_path / "step-000003", trained, optimizer)


@pytest.mark.parametrize("other", [{"lora": True}, {"name": "qwen2"}])
def test_the_state_of_another_model_is_refused(tmp_path: Path, other: dict[str, Any]) -> None:
    trained = with_lora(tiny_model("llama"), targets=["q_proj"]) if other.get("lora") else tiny_model("qwen2")
    saved = tiny_policy(trained, tiny_tokenizer("{{ messages }}"))
    optimizer = build_optimizer({"policy": (saved.trainable(), OPTIM)})
    step(saved, optimizer, 0)
    save_training_state(tmp_path / "saved", saved, optimizer, STATE)
    different = policy(lora=other.get("lora", False), name="llama")
    with pytest.raises(UserError, match="other trainable weights"):
        load_training_state(
            tmp_path / "saved", different, build_optimizer({"policy": (different.trainable(), OPTIM)})
        )
