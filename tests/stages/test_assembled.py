"""What a stage of the loop is put together from, before anything is sampled."""

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from rlreason.config import load
from rlreason.policy import chat
from rlreason.policy.forward import probe_sequences
from rlreason.policy.packing import LEAST_BEGINNING, PassSize, Sharing, pack
from rlreason.preflight import examine
from rlreason.stages import loop_setup, policies
from rlreason.stages.loop_setup import OnlineSetup

Assemble = Callable[..., OnlineSetup]


class Assembled(Exception):
    """Carries what `check` has put together, in place of its trial."""

    def __init__(self, setup: OnlineSetup) -> None:
        self.setup = setup


@pytest.fixture
def assembled(write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Assemble:
    def stop(context: Any, setup: OnlineSetup, *rest: Any) -> None:
        raise Assembled(setup)

    monkeypatch.setattr(import_module("rlreason.preflight.examine"), "try_out", stop)

    def make(**changes: Any) -> OnlineSetup:
        with pytest.raises(Assembled) as caught:
            examine(load(write_config(**changes)))
        return caught.value.setup

    return make


@pytest.mark.parametrize("least", [None, "policy", "reference", "critic"])
def test_what_is_shared_is_what_all_models_allow(
    least: str | None, assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in (("policy", loop_setup), ("reference", policies)):

        def probe(policy: Any, forward: Any, own: Any = module.probe_forward, name: str = name) -> list[str]:
            notes: list[str] = own(policy, forward)
            if name == least:
                forward.sharing = Sharing.PROMPT
            return notes

        monkeypatch.setattr(module, "probe_forward", probe)
    if least == "critic":
        monkeypatch.setattr(policies, "probe_values", lambda *models: Sharing.PROMPT)
    setup = assembled(stage="ppo", ppo={"kl": {"coef": 0.1, "reference": "start"}})
    assert setup.updater.sharing == (Sharing.BEGINNING if least is None else Sharing.PROMPT)


def test_nothing_is_shared_where_the_config_says_so(assembled: Assemble) -> None:
    assert assembled(stage="grpo", grpo={"share_prompt": False}).updater.sharing == Sharing.NOTHING


def test_the_probe_reads_two_prompts_behind_what_they_begin_with(assembled: Assemble) -> None:
    policy = assembled(stage="grpo").policy
    sequences = probe_sequences(policy)
    (packed,) = pack(sequences, share=Sharing.BEGINNING, size=PassSize(4096, 4096), pad_id=policy.pad_id)
    assert packed.ids_NW.shape[0] == 1
    assert packed.blocks is not None
    assert packed.blocks.prompt_GP.shape[0] == 2


def test_memory_is_estimated_with_what_prompts_begin_with(
    assembled: Assemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the plan of a run and in `check`; the held-out questions are 60 tokens longer than all others."""
    told: list[Any] = []
    render = chat.render_all

    def longer(renderer: Any, examples: Any, **options: Any) -> Any:
        prompts, left_out = render(renderer, examples, **options)
        if len(examples) == 40:  # those to train on
            train[:] = [one.ids for one in prompts]
        else:
            prompts = [replace(one, ids=[3] * (max(map(len, train)) + 60)) for one in prompts]
        return prompts, left_out

    train: list[Any] = []
    for name in ("stages.loop_setup", "preflight.examine"):
        monkeypatch.setattr(import_module(f"rlreason.{name}"), "render_all", longer)
    for name, attribute in (("stages.plan", "estimate_online"), ("preflight.examine", "estimate_run")):
        module = import_module(f"rlreason.{name}")

        def spy(config: Any, shape: Any, prompts: Any, *rest: Any, own: Any, **more: Any) -> Any:
            told.append(prompts)
            return own(config, shape, prompts, *rest, **more)

        own = getattr(module, attribute)
        monkeypatch.setattr(module, attribute, lambda *a, own=own, **more: spy(*a, own=own, **more))
    assembled(stage="grpo", prompt={"system": "Add up what you are told to. Then say what comes out."})
    alike = 0
    while len({tuple(prompt[: alike + 1]) for prompt in train}) == 1:
        alike += 1
    assert alike >= LEAST_BEGINNING
    assert [one.common for one in told] == [alike, alike]
    assert [one.longest for one in told] == [max(map(len, train)) + 60] * 2
