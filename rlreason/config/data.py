"""The sections `task`, `prompt` and `rewards`: the questions, how they are asked, what an answer earns."""

import math
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from rlreason.config.base import Section


class ColumnsConfig(Section):
    """Where a file or data set keeps its questions and gold answers."""

    prompt: str = Field(
        default="prompt", min_length=1, description="column with the question: text or chat messages"
    )
    answer: str = Field(default="answer", min_length=1, description="column with the gold answer")


class TaskConfig(Section):
    """Where prompts and gold answers come from."""

    source: Literal["reasoning_gym", "file", "dataset"] = Field(
        default="reasoning_gym",
        description="reasoning_gym (generated), file (JSONL, CSV, Parquet) or dataset (hub)",
    )
    name: str = Field(min_length=1, description="generator (such as chain_sum), file path, or data set name")
    params: dict[str, JsonValue] = Field(
        default={}, description="parameters of the reasoning_gym generator, such as {min_terms: 3}"
    )
    subset: str | None = Field(
        default=None, min_length=1, description="part of a data set; null = its default"
    )
    split: str = Field(default="train", min_length=1, description="split of a data set to train on")
    eval_name: str | None = Field(
        default=None,
        min_length=1,
        description="file or data set with held-out questions; null = set some of the training ones aside",
    )
    eval_split: str | None = Field(
        default=None,
        min_length=1,
        description="split of a data set with held-out questions; null = as eval_name",
    )
    columns: ColumnsConfig = Field(
        default_factory=ColumnsConfig, description="names of the columns of a file or data set"
    )
    answer_type: Literal["math", "number", "choice", "exact", "set"] | None = Field(
        default=None, description="how accuracy compares; a column of this name goes before it; null = math"
    )
    train_size: int = Field(default=2000, ge=1, description="questions to generate, or at most to read")
    max_unreadable: float = Field(
        default=0.0, ge=0, lt=1, description="share of gold answers that may be unreadable; they are left out"
    )


class PromptConfig(Section):
    """How a question is put to the model."""

    format: Literal["think_answer", "think_text", "think_boxed", "think_hash"] = Field(
        default="think_answer",
        description="form of the answer behind <think>...</think>: tags, all the text, a box, a line ####",
    )
    system: str | None = Field(
        default="auto", description="auto = made from the format; null = none; or your own system prompt"
    )
    max_tokens: int = Field(
        default=256, ge=1, description="longest prompt in tokens; longer ones are left out and counted"
    )


def _bounds(value: object) -> object:
    """Accept null or [low, high]. Each entry of a pydantic tuple would have its own error."""
    if value is None:
        return None
    if isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value)):
        low, high = map(float, value)
        if -math.inf < low < high < math.inf:
            return (low, high)
    raise ValueError("give two numbers, the lower one first, such as [-1, 1]")


Bounds = tuple[float, float] | None


class RewardConfig(Section):
    """One term of the rubric: total = sum of weight * value over the terms whose gate is open."""

    weight: float = Field(default=1.0, description="factor of this reward; 0 = record it, count nothing")
    gate: str | None = Field(
        default=None, min_length=1, description="reward that must give full marks for this one to count"
    )
    clip: Annotated[Bounds, BeforeValidator(_bounds, json_schema_input_type=Bounds)] = Field(
        default=None, description="bounds [low, high] of what is weighted; null = none"
    )
    seconds: float = Field(
        default=10.0, gt=0, description="longest time for a completion in a worker process; then it earns 0"
    )
    max_errors: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="share of a step's completions on which it may fail before the run stops",
    )
    args: dict[str, JsonValue] = Field(default={}, description="arguments that the reward takes, by name")


def expand_rewards(value: Any) -> Any:
    """Write the short forms of `rewards` out in full; full forms and mistakes pass unchanged.

    `accuracy` becomes `{accuracy: {}}` and `{accuracy: 2}` becomes `{accuracy: {weight: 2}}`.
    """
    if isinstance(value, str):
        return {value: {}}
    if not isinstance(value, dict):
        return value
    return {name: {"weight": term} if _is_number(term) else term for name, term in value.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
