"""The sections `rollout`, `pretrain`, `sft`, `eval` and `log`: sampling, imitating, measuring, recording."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from rlreason.config.base import Section, as_list
from rlreason.config.model import Precision

DERIVATIONS = "derivations"
STYLES = ("guess", "ramble", "steps")
STAGES = ("pretrain", "sft", "reward_model", "grpo", "ppo")
ROLLOUTS = "rollouts"
"""In the order in which they make sense."""


class RolloutConfig(Section):
    """How completions are sampled."""

    engine: Literal["auto", "native", "transformers"] = Field(
        default="auto", description="native (fast, for many families) or transformers (any model)"
    )
    max_new_tokens: int = Field(
        default=256, ge=1, description="longest completion in tokens; longer ones are cut off"
    )
    temperature: float = Field(
        default=1.0, gt=0, description="sampling temperature; log-probs are taken at it too"
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="sample from the likeliest tokens that hold this much; 1 = all"
    )
    top_k: int = Field(default=0, ge=0, description="sample from this many likeliest tokens; 0 = all")
    min_p: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="leave out tokens below this share of the likeliest one; 0 = none",
    )
    max_sequences: int | None = Field(
        default=None,
        ge=1,
        description="completions sampled side by side; bounds memory; null = by the device",
    )
    precision: Precision = Field(
        default="auto", description="number format in sampling; auto = measured on this machine at the start"
    )


class OptimConfig(Section):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) and its learning-rate schedule."""

    lr: float = Field(default=1e-5, gt=0, description="peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="learning rate after warm-up; linear and cosine fall to 0"
    )
    warmup_steps: int = Field(default=0, ge=0, description="optimizer steps in which the rate rises from 0")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled weight decay")
    beta1: float = Field(default=0.9, ge=0, lt=1, description="decay of the mean of the gradients")
    beta2: float = Field(default=0.999, ge=0, lt=1, description="decay of the mean of their squares")
    eps: float = Field(default=1e-8, gt=0, description="added to the denominator of an update")
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="gradients of a larger norm are scaled down to it"
    )


class PretrainOptimConfig(OptimConfig):
    """With the high, falling learning rate of training from nothing (Brown et al. 2020, arXiv 2005.14165)."""

    lr: float = Field(default=1e-3, gt=0, description="peak learning rate")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="cosine", description="learning rate after warm-up; linear and cosine fall to 0"
    )
    warmup_steps: int = Field(default=20, ge=0, description="optimizer steps in which the rate rises from 0")
    weight_decay: float = Field(default=0.1, ge=0, description="decoupled weight decay")
    beta2: float = Field(default=0.95, ge=0, lt=1, description="decay of the mean of their squares")


class PretrainConfig(Section):
    """Next-token training on raw text: every token carries loss, but for the questions of derivations."""

    text: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(as_list, json_schema_input_type=str | list[str]),
    ] = Field(
        default=(DERIVATIONS,),
        strict=False,
        min_length=1,
        description="derivations (the task's questions, solved), or files: txt, md, jsonl, csv, parquet",
    )
    column: str = Field(default="text", min_length=1, description="column with the text in files of rows")
    held_out: float = Field(
        default=0.02, gt=0, lt=1, description="share of the files' documents to measure perplexity by"
    )
    epochs: int = Field(default=1, ge=1, description="passes over the documents")
    sequence_tokens: int = Field(
        default=512,
        ge=8,
        description="tokens of a packed sequence; documents see only themselves, longer ones are cut up",
    )
    batch_size: int = Field(default=8, ge=1, description="packed sequences in one optimizer step")
    optim: PretrainOptimConfig = Field(
        default_factory=PretrainOptimConfig, description="optimizer of this stage"
    )


class SftOptimConfig(OptimConfig):
    """As in GRPO, with the higher learning rate that imitation bears."""

    lr: float = Field(default=5e-5, gt=0, description="peak learning rate")


class SftConfig(Section):
    """Supervised fine-tuning on worked solutions, instructions or chats: the cold start."""

    traces: str = Field(
        default=DERIVATIONS,
        min_length=1,
        description="derivations (written by the task), or a file of worked solutions, instructions or chats",
    )
    styles: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default={}, description="shares of the ways to think: guess, ramble, steps; {} = steps only"
    )
    size: int = Field(
        default=320, ge=1, description="traces, or turns of the assistant, to train on, at most"
    )
    epochs: int = Field(default=1, ge=1, description="passes over the traces")
    batch_size: int = Field(default=8, ge=1, description="traces in one optimizer step")
    optim: SftOptimConfig = Field(default_factory=SftOptimConfig, description="optimizer of this stage")


class RewardModelOptimConfig(OptimConfig):
    """As in imitation."""

    lr: float = Field(default=2e-5, gt=0, description="peak learning rate")


class RewardModelConfig(Section):
    """A reward model learned from pairs (Bradley and Terry 1952; InstructGPT, arXiv 2203.02155, eq. 1)."""

    pairs: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(as_list, json_schema_input_type=str | list[str]),
    ] = Field(
        default=(ROLLOUTS,),
        strict=False,
        min_length=1,
        description="rollouts (sampled here, ranked by the rewards), or files with prompt, chosen, rejected",
    )
    questions: int = Field(default=200, ge=1, description="training questions to sample for rollouts")
    samples: int = Field(default=8, ge=2, description="completions of each of these questions")
    pairs_per_question: int = Field(
        default=4, ge=1, description="pairs made of a question's completions, at most"
    )
    held_out: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="share of a file's prompts kept for measuring, beside those that ask a held-out question",
    )
    max_tokens: int = Field(default=1024, ge=1, description="longest conversation; longer pairs are left out")
    center: float = Field(
        default=0.01, ge=0, description="weight of a pull of the scores towards 0 (arXiv 2312.09244)"
    )
    epochs: int = Field(default=1, ge=1, description="passes over the pairs")
    batch_size: int = Field(default=8, ge=1, description="pairs in one optimizer step")
    optim: RewardModelOptimConfig = Field(
        default_factory=RewardModelOptimConfig, description="optimizer of this stage"
    )


class EvalConfig(Section):
    """What is measured on questions that are never trained on."""

    reward: str = Field(
        default="accuracy", min_length=1, description="reward that says whether an answer is right"
    )
    questions: int = Field(default=200, ge=1, description="held-out questions")
    samples: int = Field(default=1, ge=1, description="completions of each question")
    temperature: float = Field(default=1.0, ge=0, description="sampling temperature; 0 = greedy")
    every: int = Field(default=0, ge=0, description="evaluate every so many steps; 0 = before and after only")
    each_stage: bool = Field(
        default=False,
        description="measure after each of the earlier stages as well, for a table of all",
    )
    pass_at: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(1,), strict=False, min_length=1, description="each k of pass@k to report, such as [1, 4]"
    )


class LogConfig(Section):
    """What is written and shown while training."""

    sample_every: int = Field(
        default=5, ge=0, description="show a sample with its scores every so many steps; 0 = never"
    )
    checkpoint_every: int = Field(
        default=20,
        ge=0,
        description="save every so many steps of grpo and ppo; 0 = only at the end and at a new best",
    )
    stage_checkpoint_every: int = Field(
        default=50,
        ge=0,
        description="the same of pretrain, sft and reward_model, whose steps are shorter; 0 = if interrupted",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="newest checkpoints to keep, beside the best by held-out accuracy"
    )
    trackers: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...],
        BeforeValidator(as_list, json_schema_input_type=str | list[str]),
    ] = Field(
        default=(),
        strict=False,
        description="accelerate's trackers to send numbers to: tensorboard, wandb, trackio, mlflow, ...",
    )
    project: str = Field(
        default="rlreason", min_length=1, description="project of the trackers; the run in it is called name"
    )
    price_per_hour: float | None = Field(
        default=None, ge=0, description="price of an hour of this machine, for the cost; null = none is told"
    )
    track_samples: bool = Field(
        default=False, description="send the shown samples to the trackers as well: questions and completions"
    )
