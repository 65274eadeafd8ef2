"""Loading the policy that a stage starts from, and the reference it is held against."""

from dataclasses import replace

from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.policy.adapter import causal_lm_of
from rlreason.policy.architecture import check_scratch
from rlreason.policy.blocks import switch, takes_blocks
from rlreason.policy.chat import Renderer
from rlreason.policy.critic import ActorCritic, critic_from, load_critic, probe_values, shared_critic
from rlreason.policy.forward import CompletionLogprobs, probe_forward
from rlreason.policy.model import Policy, load_policy
from rlreason.rollout.families import unsupported
from rlreason.scoring import LEARNED
from rlreason.seeds import derive_seed
from rlreason.stages.context import RunContext


def check_new_model(config: RunConfig) -> None:
    """Refuse, before anything is trained, a `model.scratch` that a later stage could do nothing with."""
    if config.model.scratch is None:
        return
    scalar, critic = None, config.ppo.critic
    if "reward_model" in config.stages:
        scalar = "stage: reward_model"
    elif "ppo" in config.stages[1:] and critic.kind == "separate" and critic.start == "auto":
        scalar = "ppo.critic.kind: separate"
    model = check_scratch(config.model, scalar=scalar)
    reason = unsupported(model)
    if config.rollout.engine == "native" and reason is not None:
        raise UserError(
            f"rollout.engine: native cannot run what model.scratch makes ({reason}); use auto or transformers"
        )


def load_stage_policy(
    context: RunContext, *, texts: list[str] | None = None, dropout: bool = False
) -> Policy:
    """The policy that a stage starts from: the last stage's model, or what the config names.

    The tokenizer of a model made from nothing covers `texts`, the questions and the system prompt.
    """
    import torch

    config = context.config
    tags = Renderer.tags(config.prompt.format)

    def scratch_texts() -> list[str]:
        system = Renderer.system_text(config.prompt.format, config.prompt.system)
        questions = [example.question for example in context.data.train]
        return [*(texts or []), *questions, system or ""]

    torch.manual_seed(derive_seed("weights", config.seed))
    policy = load_policy(
        config.model,
        path=context.start,
        device=context.accelerator.device,
        scratch_texts=scratch_texts,
        tags=tags,
        dropout=dropout,
    )
    if context.start is None and config.model.scratch is not None:
        _check_shared_critic(config, policy)
    return policy


def _check_shared_critic(config: RunConfig, policy: Policy) -> None:
    """Raise UserError before a new model is trained if `ppo` could not read its hidden states later."""
    if "ppo" in config.stages and config.ppo.critic.kind == "shared":
        forward = CompletionLogprobs(policy)
        probe_forward(policy, forward)
        shared_critic(policy, forward)
        if takes_blocks(causal_lm_of(policy.model)):
            switch(causal_lm_of(policy.model), on=False)  # each stage finds out for itself


def load_reference(context: RunContext, policy: Policy) -> CompletionLogprobs | None:
    """The frozen reference of `kl.reference`; None for `none`, and for `adapter_off`: the policy itself.

    With an adapter, `start` is that too: the adapter starts as the identity. Otherwise `start` is a copy of
    the model that the stage began with, also in a resumed run.
    """
    kind = context.config.online.kl.reference
    if kind in ("none", "adapter_off") or (kind == "start" and policy.has_adapter):
        return None
    path = context.start if kind == "start" else kind
    plain = context.config.model.model_copy(update={"lora": None, "gradient_checkpointing": False})
    frozen = load_policy(plain, path=path, device=policy.device) if path is not None else None
    if frozen is None:
        frozen = load_stage_policy(
            replace(context, config=context.config.model_copy(update={"model": plain}))
        )
    sizes = [p.model.get_input_embeddings().weight.shape[0] for p in (policy, frozen)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"{context.config.online_stage}.kl.reference: {kind!r} has a vocabulary of {sizes[1]} tokens and "
            f"the policy one of {sizes[0]}; take a reference of the same family"
        )
    frozen.model.requires_grad_(False)
    reference = CompletionLogprobs(frozen)
    probe_forward(frozen, reference)  # it may be of another architecture, with logits of its own making
    return reference


def load_stage_critic(context: RunContext, policy: Policy, forward: CompletionLogprobs) -> ActorCritic | None:
    """Policy and critic of stage `ppo` in one module, None in `grpo`. Of the two it shares what both allow.

    A critic of its own starts from the reward model of the run, if it has one, else from the model before the
    stage, or from what `ppo.critic.start` names.
    """
    config = context.config
    if config.online_stage != "ppo":
        return None
    settings = config.ppo.critic
    path = settings.start if settings.start != "auto" else context.reward_model or context.start
    if settings.kind == "shared":
        critic = shared_critic(policy, forward)
    elif path is None and config.model.scratch is not None:
        critic = critic_from(load_stage_policy(context).model).to(policy.device)
    else:
        paid = config.rewards.get(LEARNED)
        scale = paid.weight if paid is not None and paid.weight else 1.0
        critic = load_critic(config.model, path or config.model.path, policy, scale=scale)
    joined = ActorCritic(forward, critic, policy)
    joined.sharing = min(forward.sharing, probe_values(joined, policy))
    return joined
