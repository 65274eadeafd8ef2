"""What a later stage could not use is refused before the first one trains."""

from pathlib import Path
from typing import Any

import pytest
from micro import MICRO, merged

from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.policy.scratch import scratch_tokenizer
from rlreason.stages.preflight import check_sources


def config(**changes: Any) -> RunConfig:
    return RunConfig.model_validate(merged(MICRO, changes))


def saved_tokenizer(folder: Path, *, template: bool) -> str:
    tokenizer = scratch_tokenizer(["a b 1 2"])
    if not template:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("field", ["model.scratch.tokenizer", "model.path"])
def test_a_tokenizer_without_a_chat_template_is_refused_before_pretraining(
    tmp_path: Path, field: str
) -> None:
    def check(*, template: bool, stages: list[str], each_stage: bool = False) -> None:
        path = saved_tokenizer(tmp_path / str(template), template=template)
        model = {"scratch": {"tokenizer": path}} if "scratch" in field else {"scratch": ..., "path": path}
        pretrain = {"sequence_tokens": 64}
        made = config(stage=stages, model=model, pretrain=pretrain, eval={"each_stage": each_stage})
        check_sources(made, [], reward_model_done=False)

    message = f"{field}: its tokenizer has no chat template"
    with pytest.raises(UserError, match=message):
        check(template=False, stages=["pretrain", "grpo"])
    with pytest.raises(UserError, match=message):
        check(template=False, stages=["pretrain"], each_stage=True)
    check(template=False, stages=["pretrain"])  # nobody asks it anything
    check(template=True, stages=["pretrain", "grpo"])


def test_a_critic_that_reads_other_tokens_than_a_named_tokenizer_is_refused(tmp_path: Path) -> None:
    path = saved_tokenizer(tmp_path, template=True)
    critic = {"start": "embedded"}
    made = config(stage=["sft", "ppo"], model={"scratch": {"tokenizer": path}}, ppo={"critic": critic})
    with pytest.raises(UserError, match=r"ppo\.critic\.start: "):
        check_sources(made, [], reward_model_done=False)
