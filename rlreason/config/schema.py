"""The whole config of a run. This is the one place that lists what a user may write."""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from rlreason.config.base import Section, as_list
from rlreason.config.checks import cross_field_mistakes
from rlreason.config.data import PromptConfig, RewardConfig, TaskConfig, expand_rewards
from rlreason.config.model import ModelConfig
from rlreason.config.online import GrpoConfig, PpoConfig
from rlreason.config.training import (
    EvalConfig,
    LogConfig,
    PretrainConfig,
    RewardModelConfig,
    RolloutConfig,
    SftConfig,
)

StageName = Literal["pretrain", "sft", "reward_model", "grpo", "ppo"]

CROSS_FIELD = "cross_field"
"""Type of the pydantic error that carries the mistakes of `cross_field_mistakes` in its context."""

# Starts and ends with a letter or digit: no "..", no separators, no hidden folder, and none of the names
# that Windows would silently shorten.
_FOLDER_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def _folder_name(name: str) -> str:
    if not _FOLDER_NAME.fullmatch(name) or len(name) > 100:
        raise ValueError(
            "it names a folder: use at most 100 letters, digits, '-', '_' and '.', no sign at either end"
        )
    return name


def _each_once(stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
    if len(set(stages)) < len(stages):
        raise ValueError("name each stage once")
    return stages


class RunConfig(Section):
    """One training run, complete and checked."""

    name: Annotated[str, AfterValidator(_folder_name)] = Field(
        description="name of the run; its files go to output_dir/name"
    )
    output_dir: str = Field(default="runs", min_length=1, description="folder that holds the run directories")
    seed: int = Field(default=0, ge=0, description="all randomness of the run derives from it")
    threads: int | None = Field(default=None, ge=1, description="processor threads; null = one a core")
    stage: Annotated[
        tuple[StageName, ...],
        BeforeValidator(as_list, json_schema_input_type=StageName | list[StageName]),
        AfterValidator(_each_once),
    ] = Field(
        strict=False, min_length=1, description="what to do: a stage, or several in order as in [sft, grpo]"
    )
    model: ModelConfig = Field(
        default_factory=ModelConfig, description="which model to train and in which form"
    )
    task: TaskConfig = Field(description="where questions and gold answers come from")
    prompt: PromptConfig = Field(
        default_factory=PromptConfig, description="how a question is put to the model"
    )
    rewards: Annotated[
        dict[str, RewardConfig],
        BeforeValidator(expand_rewards, json_schema_input_type=str | dict[str, float | RewardConfig]),
    ] = Field(
        default={"accuracy": RewardConfig()},
        min_length=1,
        description="what an answer earns: a reward's name, or names with weights or the keys below",
    )
    rollout: RolloutConfig = Field(default_factory=RolloutConfig, description="how completions are sampled")
    pretrain: PretrainConfig = Field(
        default_factory=PretrainConfig, description="stage pretrain: predict the next token of raw text"
    )
    sft: SftConfig = Field(default_factory=SftConfig, description="stage sft: imitate worked solutions")
    reward_model: RewardModelConfig = Field(
        default_factory=RewardModelConfig, description="stage reward_model: learn from pairs what is better"
    )
    grpo: GrpoConfig = Field(default_factory=GrpoConfig, description="stage grpo: learn from the rewards")
    ppo: PpoConfig = Field(
        default_factory=PpoConfig, description="stage ppo: learn from the rewards, with a value function"
    )
    eval: EvalConfig = Field(default_factory=EvalConfig, description="what is measured on held-out questions")
    log: LogConfig = Field(default_factory=LogConfig, description="what is written and shown while training")

    @property
    def stages(self) -> tuple[StageName, ...]:
        """The stages in the order in which they run."""
        return self.stage

    @property
    def online_stage(self) -> Literal["grpo", "ppo"]:
        """The stage that learns from the model's own completions; grpo where there is none."""
        return "ppo" if "ppo" in self.stage else "grpo"

    @property
    def online(self) -> GrpoConfig | PpoConfig:
        """The section of that stage."""
        return self.ppo if self.online_stage == "ppo" else self.grpo

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        mistakes = tuple(cross_field_mistakes(self))
        if mistakes:
            text = "\n".join(mistake.text for mistake in mistakes)
            raise PydanticCustomError(CROSS_FIELD, "{text}", {"text": text, "mistakes": mistakes})
        return self
