"""The critic's values: those of a plain forward pass, from the right token on, for each kind of critic."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import PAD, random_ids, tiny_model, tiny_policy, tiny_tokenizer, with_lora
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from rlreason.config.model import LoraConfig, ModelConfig
from rlreason.errors import UserError
from rlreason.policy.blocks import switch
from rlreason.policy.critic import ActorCritic, Critic, critic_from, load_critic, probe_values, shared_critic
from rlreason.policy.forward import CompletionLogprobs
from rlreason.policy.model import Policy
from rlreason.policy.packing import Completion, PassSize, Sharing, pack

BEGINNING = random_ids(16, seed=0)
PROMPTS = [[*BEGINNING, *random_ids(5, seed=1)], [*BEGINNING, *random_ids(9, seed=2)]]
SEQUENCES = [
    Completion(0, PROMPTS[0], random_ids(6, seed=3)),
    Completion(0, PROMPTS[0], random_ids(3, seed=4)),
    Completion(1, PROMPTS[1], random_ids(1, seed=5)),
]


def llama_policy() -> Policy:
    return tiny_policy(tiny_model("llama"), tiny_tokenizer())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A causal model with its tokenizer, as a stage leaves it."""
    llama_policy().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def reward_model(saved: Path, tmp_path: Path) -> Path:
    """A reward model of the same tokens, with a head of its own."""
    policy = llama_policy()
    config = AutoConfig.from_pretrained(saved, num_labels=1)
    torch.manual_seed(5)
    model = AutoModelForSequenceClassification.from_config(config)
    model.score.weight.data.normal_()
    model.save_pretrained(tmp_path / "judge")
    policy.tokenizer.save_pretrained(tmp_path / "judge")
    return tmp_path / "judge"


def joined(critic: Critic, policy: Any) -> ActorCritic:
    return ActorCritic(CompletionLogprobs(policy), critic, policy)


def random_head(critic: Critic) -> Critic:
    nn.init.normal_(critic.head.weight, generator=torch.Generator().manual_seed(9))
    nn.init.constant_(critic.head.bias, 0.25)
    return critic


def plain_values(trunk: Any, head: nn.Linear, sequence: Completion) -> Tensor:
    """Value t is that of the prompt and the first t tokens: each prefix read by itself."""
    found = []
    for t in range(len(sequence.completion_ids)):
        ids = torch.tensor([[*sequence.prompt_ids, *sequence.completion_ids[:t]]])
        found.append(head(trunk(ids).last_hidden_state[0, -1])[0])
    return torch.stack(found)


def check(actor_critic: ActorCritic, trunk: Any, *, share: Sharing) -> None:
    _check(actor_critic, trunk, share=share)
    if share:
        for model in {id(m): m for m in (trunk, actor_critic.actor.trunk)}.values():
            switch(model, on=True)
        _check(actor_critic, trunk, share=Sharing.BEGINNING)


@torch.no_grad()
def _check(actor_critic: ActorCritic, trunk: Any, *, share: Sharing) -> None:
    head = actor_critic.critic.head
    for packed in pack(SEQUENCES, share=share, size=PassSize(400, 400), pad_id=PAD):
        logprobs_CT, entropy_CT, values_CT = actor_critic(packed, 1.0)
        torch.testing.assert_close(values_CT, actor_critic.values(packed))
        expected_CT, _ = actor_critic.actor(packed, 1.0)
        torch.testing.assert_close(logprobs_CT, expected_CT)
        for row, index in enumerate(packed.order):
            length = len(SEQUENCES[index].completion_ids)
            expected = plain_values(trunk, head, SEQUENCES[index])
            torch.testing.assert_close(values_CT[row, :length], expected, rtol=1e-4, atol=1e-4)
            assert not values_CT[row, length:].any()
        assert entropy_CT.shape == values_CT.shape


@pytest.mark.parametrize("share", list(Sharing))
def test_values_of_a_model_of_its_own(saved: Path, share: Sharing) -> None:
    policy = llama_policy()
    critic = random_head(load_critic(ModelConfig(), saved, policy))
    check(joined(critic, policy), critic.trunk.base_model, share=share)


@pytest.mark.parametrize("share", list(Sharing))
def test_values_on_the_policys_hidden_states(share: Sharing) -> None:
    policy = tiny_policy(tiny_model("qwen2"))
    critic = random_head(shared_critic(policy, CompletionLogprobs(policy)))
    check(joined(critic, policy), policy.model.base_model, share=share)
    assert critic.trainable().keys() == {"critic.head.weight", "critic.head.bias"}


def test_values_of_a_model_made_in_this_run() -> None:
    policy = llama_policy()
    critic = random_head(critic_from(tiny_model("llama")))
    check(joined(critic, policy), critic.trunk.base_model, share=Sharing.BEGINNING)


def test_first_values_are_zero(saved: Path) -> None:
    policy = llama_policy()
    (packed,) = pack(SEQUENCES, share=Sharing.PROMPT, size=PassSize(400, 400), pad_id=PAD)
    assert not joined(load_critic(ModelConfig(), saved, policy), policy).values(packed).any()


def test_a_reward_model_brings_its_head(reward_model: Path) -> None:
    policy = llama_policy()
    critic = load_critic(ModelConfig(), reward_model, policy)
    whole = AutoModelForSequenceClassification.from_pretrained(reward_model)
    ids = torch.tensor([[*PROMPTS[0], *SEQUENCES[0].completion_ids]])
    with torch.no_grad():
        expected = whole(ids).logits[0, 0]  # of the last token
        # The value before a further token is that of all that stands before it: the score of the whole text.
        longer = Completion(0, PROMPTS[0], [*SEQUENCES[0].completion_ids, 7])
        (packed,) = pack([longer], share=Sharing.NOTHING, size=PassSize(400, 400), pad_id=PAD)
        values_CT = joined(critic, policy).values(packed)
    torch.testing.assert_close(values_CT[0, -1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("deviation", "divisor"), [(4.0, 4.0), (0.01, 1.0)])
def test_a_reward_models_head_starts_on_the_scale_of_its_reward(
    reward_model: Path, deviation: float, divisor: float
) -> None:
    """Half of (output - 3) / 4, which is what `learned` pays at weight 0.5; nothing is blown up."""
    policy = llama_policy()
    (packed,) = pack(SEQUENCES[2:], share=Sharing.NOTHING, size=PassSize(400, 400), pad_id=PAD)
    raw = joined(load_critic(ModelConfig(), reward_model, policy), policy).values(packed)
    config = AutoConfig.from_pretrained(reward_model)
    config.reward_mean, config.reward_std = 3.0, deviation
    config.save_pretrained(reward_model)
    found = joined(load_critic(ModelConfig(), reward_model, policy, scale=0.5), policy).values(packed)
    torch.testing.assert_close(found, 0.5 * (raw - 3) / divisor)


@pytest.mark.parametrize(("outputs", "message"), [(2, "several outputs"), (1, "no finite numbers")])
def test_what_gives_no_score_is_refused(saved: Path, tmp_path: Path, outputs: int, message: str) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(saved, num_labels=outputs)
    model.score.weight.data.fill_(torch.nan if outputs == 1 else 1.0)
    model.save_pretrained(tmp_path / "judge")
    llama_policy().tokenizer.save_pretrained(tmp_path / "judge")
    with pytest.raises(UserError, match=message):
        load_critic(ModelConfig(), tmp_path / "judge", llama_policy())


def test_an_adapter_trains_with_the_head_alone(saved: Path) -> None:
    policy = tiny_policy(with_lora(tiny_model("llama")), tiny_tokenizer())
    critic = random_head(load_critic(ModelConfig(lora=LoraConfig(rank=2)), saved, policy))
    names = critic.trainable().keys()
    assert {"critic.head.weight", "critic.head.bias"} < names
    assert all("lora_" in name or "head" in name for name in names)
    check(joined(critic, policy), critic.trunk.get_base_model().base_model, share=Sharing.BEGINNING)


def test_prompts_are_shared_where_that_changes_nothing(saved: Path) -> None:
    policy = llama_policy()
    critic = load_critic(ModelConfig(), saved, policy)
    assert probe_values(joined(critic, policy), policy) == Sharing.BEGINNING
    assert not critic.head.weight.any()  # the probe leaves the head as it was
    critic.trunk.config.sliding_window = 4
    assert probe_values(joined(critic, policy), policy) == Sharing.NOTHING


def test_a_trunk_that_mixes_completions_shares_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = llama_policy()
    critic = load_critic(ModelConfig(), saved, policy)
    own = critic.trunk.base_model.forward

    def without_mask(*arguments: Any, **named: Any) -> Any:
        return own(*arguments, **{**named, "attention_mask": None})

    monkeypatch.setattr(critic.trunk.base_model, "forward", without_mask)
    assert probe_values(joined(critic, policy), policy) == Sharing.NOTHING


def test_other_tokens_are_refused(tmp_path: Path) -> None:
    other = llama_policy()
    other.tokenizer.add_tokens(["further"])
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match=r"ppo\.critic\.start: .*other.* reads other tokens than the policy"):
        load_critic(ModelConfig(), tmp_path / "other", llama_policy())


def test_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ppo\.critic\.start: no tokenizer at .*nothing"):
        load_critic(ModelConfig(), tmp_path / "nothing", llama_policy())
    policy = llama_policy()
    policy.tokenizer.save_pretrained(tmp_path / "words")
    with pytest.raises(UserError, match=r"ppo\.critic\.start: no scalar model can be made of .*words"):
        load_critic(ModelConfig(), tmp_path / "words", policy)
