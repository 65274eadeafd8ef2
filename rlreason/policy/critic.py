"""The critic: what prompt and completion so far can be expected to earn, before each token of a completion.

Shapes: N rows, W row width, C completions, T completion tokens, H hidden size.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlreason.config.model import ModelConfig
from rlreason.errors import UserError
from rlreason.policy.adapter import causal_lm_of, with_adapter
from rlreason.policy.forward import (
    CompletionLogprobs,
    allows,
    inputs_of,
    is_windowed,
    probe_sequences,
    rows_at,
    try_blocks,
)
from rlreason.policy.model import Policy, switch_dropout_off
from rlreason.policy.packing import Packed, PassSize, Sharing, pack
from rlreason.policy.scalar import check_same_tokens, load_scalar_model

# In float32, values of packed rows agree with those of single ones to this, or prompts are not shared.
_PROBE_TOLERANCE = 1e-3
FIELD = "ppo.critic.start"
_OUTPUT = {
    "reward_mean": 0.0,
    "reward_std": 1.0,
}  # in the config of a reward model, with what stands for none


class Critic(nn.Module):
    """A scalar head on hidden states: of a model of its own (`trunk`), or of the policy's where it is None.

    The head starts at 0, unless the trunk is a reward model, which brings its own: the first values are then
    0, and the first advantages the rewards themselves.
    """

    def __init__(self, trunk: Any, head: nn.Linear) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head

    def forward(self, states: Tensor) -> Tensor:
        """Values of hidden states, (..., H) to (...), in float32."""
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states.float()).squeeze(-1)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The critic's own parameters that train, by name."""
        return {f"critic.{name}": p for name, p in self.named_parameters() if p.requires_grad}


class ActorCritic(nn.Module):
    """Policy and critic in one module, so that one wrapper of accelerate exchanges the gradients of both.

    `sharing` is what both may compute once for several completions: the policy's, until what `probe_values`
    finds of the critic is known.
    """

    def __init__(self, actor: CompletionLogprobs, critic: Critic, policy: Policy) -> None:
        super().__init__()
        self.actor = actor
        self.critic = critic
        self.sharing = actor.sharing
        self._autocast = policy.autocast

    def forward(self, packed: Packed, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return `(logprobs_CT, entropy_CT, values_CT)`, 0 where `mask_CT` is 0."""
        if self.critic.trunk is None:
            logprobs_CT, entropy_CT, states = self.actor.with_states(packed, temperature)
            return logprobs_CT, entropy_CT, packed.spread(self.critic(states))
        logprobs_CT, entropy_CT = self.actor(packed, temperature)
        return logprobs_CT, entropy_CT, self.values(packed)

    def values(self, packed: Packed) -> Tensor:
        """The values alone, (C, T): that of prompt and completion before each token."""
        with self._autocast():
            own = self.critic.trunk
            trunk = self.actor.trunk if own is None else causal_lm_of(own).base_model
            hidden_NWH = trunk(**inputs_of(packed, trunk)).last_hidden_state
        return packed.spread(self.critic(rows_at(hidden_NWH, packed.source_F)))


def shared_critic(policy: Policy, forward: CompletionLogprobs) -> Critic:
    """A critic on the policy's own hidden states. Raises UserError for a model that does not give them."""
    if not forward.chunked:
        raise UserError(
            "ppo.critic.kind: shared needs the hidden states from which the model's head makes its logits, "
            "and this model's are made in another way; use separate"
        )
    size = causal_lm_of(policy.model).config.get_text_config().hidden_size
    return Critic(None, _zero_head(size)).to(policy.device)


def critic_from(model: Any) -> Critic:
    """A critic on a causal language model, which is the critic's from now on and loses its head."""
    model.set_output_embeddings(nn.Identity())
    return Critic(model, _zero_head(model.config.get_text_config().hidden_size))


def load_critic(config: ModelConfig, path: str | Path, policy: Policy, *, scale: float = 1.0) -> Critic:
    """A critic of its own, from a reward model (head and all) or any other model at `path`.

    The head of a reward model starts as `scale` times what the reward `learned` makes of its output: centred
    and divided by the deviation that its config names. A deviation below 1 divides nothing: it is that of
    whole texts, and would blow up what the head says of unfinished ones, which it has never seen.

    Raises UserError if there is no model, or one that reads other tokens than the policy.
    """
    check_same_tokens(config, path, policy.tokenizer, FIELD)
    model, has_head = load_scalar_model(config, path, FIELD)
    head = _zero_head(model.config.get_text_config().hidden_size)
    if has_head:
        mean, std = (float(getattr(model.config, name, default)) for name, default in _OUTPUT.items())
        factor = scale / max(std, 1.0)
        head.weight.data.copy_(model.score.weight.data * factor)
        head.bias.data.fill_(-mean * factor)
    model.score = nn.Identity()
    if config.lora is not None:
        model = with_adapter(model, config.lora, task_type=None)
    switch_dropout_off(model)
    return Critic(model, head).to(policy.device).train()


def _zero_head(size: int) -> nn.Linear:
    head = nn.Linear(size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


@torch.no_grad()
def probe_values(actor_critic: ActorCritic, policy: Policy) -> Sharing:
    """What the critic may read once for several completions: the values are then the same."""
    trunk = actor_critic.critic.trunk
    if trunk is None:
        return Sharing.BEGINNING  # the policy's own trunk has been probed
    config = trunk.config.get_text_config()
    if is_windowed(config) or getattr(config, "_attn_implementation", "") == "flash_attention_2":
        return Sharing.NOTHING
    sequences = probe_sequences(policy)
    head = actor_critic.critic.head
    saved = head.weight.data.clone()
    head.weight.data.normal_(generator=torch.Generator(head.weight.device).manual_seed(0))
    autocast, actor_critic._autocast = actor_critic._autocast, partial(policy.autocast, torch.float32)

    def values(share: Sharing) -> Tensor:
        (packed,) = pack(sequences, share=share, size=PassSize(4096, 4096), pad_id=policy.pad_id)
        values_CT = actor_critic.values(packed.to(policy.device))
        return values_CT[torch.tensor(packed.order).argsort()]

    try:
        alone = values(Sharing.NOTHING)

        def right(share: Sharing) -> bool:
            gap = (alone - values(share)).abs().max()
            return bool(gap < _PROBE_TOLERANCE * float(alone.abs().max() + 1))

        if not allows(lambda: right(Sharing.PROMPT)):
            return Sharing.NOTHING
        in_blocks = try_blocks(causal_lm_of(trunk), lambda: right(Sharing.BEGINNING))
        return Sharing.BEGINNING if in_blocks else Sharing.PROMPT
    finally:
        head.weight.data.copy_(saved)
        actor_critic._autocast = autocast
