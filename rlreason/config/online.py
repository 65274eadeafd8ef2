"""The sections `grpo` and `ppo`: learning from the model's own completions by what they earn."""

from typing import Literal

from pydantic import Field

from rlreason.config.base import Section
from rlreason.config.training import OptimConfig


class KlConfig(Section):
    """Penalty for moving away from a reference model.

    A cheap estimate is recorded even where coef is 0, unless reference is none.
    """

    coef: float = Field(default=0.0, ge=0, description="weight of the penalty; 0 = none")
    estimator: Literal["k1", "k2", "k3"] = Field(
        default="k3", description="estimator of the divergence (Schulman's note on approximating KL)"
    )
    where: Literal["loss", "reward", "tokens"] = Field(
        default="loss",
        description="take the penalty in the loss, from the reward, or from each token's advantage",
    )
    correction: bool = Field(
        default=False, description="weigh the penalty in the loss by the importance ratio (arXiv 2512.02556)"
    )
    reference: str = Field(
        default="start",
        min_length=1,
        description="start (the model before the stage), adapter_off, the path or name of a model, or none",
    )


class OnlineConfig(Section):
    """What the stages share that sample, score and learn from what they sampled."""

    steps: int = Field(default=100, ge=1, description="times to sample, score and update")
    prompts_per_step: int = Field(default=8, ge=1, description="different questions in a step")
    epochs: int = Field(default=1, ge=1, description="passes over the completions of a step")
    minibatches: int = Field(
        default=1, ge=1, description="optimizer steps in a pass; divides prompts_per_step"
    )
    micro_batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens in one forward and backward pass; bounds memory, changes no result; "
        "null = by the device",
    )
    clip_low: float = Field(
        default=0.2, gt=0, le=1, description="the ratio is clipped below 1 - clip_low; cispo does not"
    )
    clip_high: float = Field(default=0.2, gt=0, description="the ratio is clipped above 1 + clip_high")
    dual_clip: float | None = Field(
        default=None, gt=1, description="bound on the ratio where the advantage is negative; null = none"
    )
    mask_truncated: bool = Field(
        default=False, description="leave completions that were cut off out of the loss and the baseline"
    )
    overlong_buffer: int = Field(
        default=0, ge=0, description="tokens before the limit in which a penalty grows (DAPO); 0 = off"
    )
    overlong_weight: float = Field(default=1.0, ge=0, description="penalty at the length limit")
    sampler_correction: float | None = Field(
        default=2.0,
        ge=1,
        description="cap of the sampler-to-trainer importance weights; null = no correction",
    )
    share_prompt: bool = Field(
        default=True,
        description="compute once what completions, and prompts of a row, begin with; changes no result",
    )
    stop_after_uninformative: int = Field(
        default=20, ge=0, description="stop after this many steps in a row without any signal; 0 = never"
    )
    optim: OptimConfig = Field(default_factory=OptimConfig, description="optimizer of this stage")


class GrpoConfig(OnlineConfig):
    """Group-relative policy optimisation and its relatives. A loss is named after its paper, see docs."""

    group_size: int = Field(
        default=8,
        ge=1,
        description="completions of each question; 2 or more where baseline compares them with each other",
    )
    loss: Literal["dr_grpo", "grpo", "dapo", "bnpo", "cispo"] = Field(
        default="dr_grpo", description="policy loss and what it is divided by"
    )
    ratio: Literal["token", "sequence"] = Field(
        default="token", description="importance ratio of a token, or of the whole completion (GSPO)"
    )
    advantage_scale: Literal["none", "group", "batch"] = Field(
        default="none",
        description="divide advantages by the standard deviation of the group, the batch, or not",
    )
    combine: Literal["sum", "gdpo"] = Field(
        default="sum",
        description="compare the sums of the rewards, or normalise each reward in its group first (GDPO)",
    )
    baseline: Literal["mean", "leave_one_out", "batch", "greedy"] = Field(
        default="mean",
        description="subtract the mean of the group, its others (RLOO), the step, or a greedy reward (ReMax)",
    )
    dynamic_sampling: int = Field(
        default=0,
        ge=0,
        description="extra rounds to replace groups whose rewards are all equal (DAPO); 0 = off",
    )
    down_sample: int | None = Field(
        default=None,
        ge=2,
        description="learn from so many completions of a question, of most varied reward (PODS); null = all",
    )
    kl: KlConfig = Field(
        default_factory=KlConfig, description="penalty for moving away from a reference model"
    )

    @property
    def learned_size(self) -> int:
        """Completions of each question that the update takes, at most."""
        return self.down_sample or self.group_size


class PpoKlConfig(Section):
    """Penalty on every token for moving away from a reference model, taken from its reward.

    Ziegler et al. 2019, arXiv 1909.08593, section 2.2, which also gives the controller of the coefficient.
    """

    coef: float = Field(default=0.05, ge=0, description="weight of the penalty; 0 = none")
    estimator: Literal["k1", "k2", "k3"] = Field(
        default="k1", description="estimator of the divergence (Schulman's note on approximating KL)"
    )
    target: float | None = Field(
        default=None,
        gt=0,
        description="KL of a whole completion in nats that coef is adapted to hold; null = coef is fixed",
    )
    horizon: int = Field(
        default=10_000, ge=1, description="completions in which an adapted coef may change by a fifth"
    )
    reference: str = Field(
        default="start",
        min_length=1,
        description="start (the model before the stage), adapter_off, the path or name of a model, or none",
    )

    @property
    def where(self) -> Literal["reward"]:
        return "reward"

    @property
    def correction(self) -> bool:
        return False


class CriticOptimConfig(OptimConfig):
    """As the policy's, with the higher learning rate that a value function bears and needs."""

    lr: float = Field(default=5e-5, gt=0, description="peak learning rate")


class CriticConfig(Section):
    """The value function: what a completion can be expected to earn from each of its tokens on."""

    kind: Literal["separate", "shared"] = Field(
        default="separate", description="a model of its own, or one more output of the policy's hidden states"
    )
    start: str = Field(
        default="auto",
        min_length=1,
        description="auto (the reward model if this run has one, else the model before the stage), or a path",
    )
    clip: float | None = Field(
        default=0.2, gt=0, description="values move at most this far from those before the step; null = any"
    )
    coef: float = Field(default=0.5, gt=0, description="weight of the value loss beside the policy loss")
    warmup_steps: int = Field(
        default=0, ge=0, description="first steps in which only the values are learned, not the policy"
    )
    optim: CriticOptimConfig = Field(
        default_factory=CriticOptimConfig, description="optimizer of the values' own parameters"
    )


class PpoConfig(OnlineConfig):
    """Proximal policy optimisation (arXiv 1707.06347) with a learned value function as its baseline."""

    group_size: int = Field(default=1, ge=1, description="completions of each question")
    gamma: float = Field(default=1.0, gt=0, le=1, description="discount of a reward for each token")
    gae_lambda: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="weight of looking further ahead; 1 = the whole rest, 0 = one token",
    )
    whiten_advantages: bool = Field(
        default=True, description="scale the advantages of a step to mean 0 and deviation 1, over its tokens"
    )
    whiten_rewards: bool = Field(
        default=False, description="scale the rewards of a step's tokens to deviation 1, their mean kept"
    )
    truncation_penalty: float = Field(
        default=0.0, ge=0, description="taken from the reward of completions that were cut off"
    )
    kl: PpoKlConfig = Field(
        default_factory=PpoKlConfig, description="penalty for moving away from a reference model"
    )
    critic: CriticConfig = Field(default_factory=CriticConfig, description="the value function")

    @property
    def learned_size(self) -> int:
        """Completions of each question that the update takes."""
        return self.group_size

    @property
    def loss(self) -> Literal["bnpo"]:
        """The mean over the tokens of an optimizer step, as everywhere in PPO."""
        return "bnpo"

    @property
    def ratio(self) -> Literal["token"]:
        return "token"
