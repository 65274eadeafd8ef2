"""The trainer's view of completions: their log-probabilities under the policy, with gradient.

Shapes: N rows, W row width, C completions, T completion tokens, H hidden size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rlreason.algorithms import token_logprobs
from rlreason.policy.adapter import causal_lm_of
from rlreason.policy.blocks import switch, takes_blocks
from rlreason.policy.model import Policy
from rlreason.policy.packing import LEAST_BEGINNING, Completion, Packed, PassSize, Sharing, pack

# Packed and chunked log-probs that are off by more than that in float32 are not used; nor chunked ones that
# are off by more on the mean in half precision, where only a scale that was not known is looked for.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 0.05


class CompletionLogprobs(nn.Module):
    """Maps a packed micro-batch to the log-probs of its completion tokens.

    A module of its own, because DDP and FSDP hook the forward of what accelerate wraps. The decoder runs
    without its head; the head is applied to completion tokens only, chunk by chunk, so that no N x W x
    vocabulary tensor exists. A model whose logits are more than head times hidden state (found by
    `probe_forward`) gets them from its own forward instead.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.model = policy.model
        self.chunked = True
        self.sharing = Sharing.NOTHING  # until `probe_forward`
        self._autocast = policy.autocast

    @property
    def trunk(self) -> Any:
        """The decoder without its head."""
        return causal_lm_of(self.model).base_model

    def forward(self, packed: Packed, temperature: float) -> tuple[Tensor, Tensor]:
        """Return `(logprobs_CT, entropy_CT)` at `temperature`, 0 where `mask_CT` is 0. Natural logs."""
        logprobs_CT, entropy_CT, _ = self.with_states(packed, temperature)
        return logprobs_CT, entropy_CT

    def with_states(self, packed: Packed, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, and what the head was applied to, one row for each 1 of the mask, in its order.

        Those are the hidden states from which each token was predicted; logits where `chunked` is False.
        """
        causal_lm = causal_lm_of(self.model)
        inputs = inputs_of(packed, causal_lm)
        head: Any
        with self._autocast():
            if self.chunked:
                hidden_NWH = causal_lm.base_model(**inputs).last_hidden_state
                states, head = rows_at(hidden_NWH, packed.source_F), causal_lm.get_output_embeddings()
                if type(head) is nn.Linear and head.bias is None:
                    head = head.weight  # without an adapter or a hook, the product itself can be chunked
                text = _text_config(self.model)
                softcap = getattr(text, "final_logit_softcapping", None)
                temperature = temperature / _logit_scale(text)
            else:
                states, head = rows_at(causal_lm(**inputs).logits, packed.source_F), nn.Identity()
                softcap = None  # the model has applied it
            logprobs_F, entropy_F = token_logprobs(
                states, head, packed.targets_F, temperature=temperature, softcap=softcap
            )
        return packed.spread(logprobs_F), packed.spread(entropy_F.detach()), states


def rows_at(states_NWX: Tensor, places: Tensor) -> Tensor:
    """Rows of the flattened first two dimensions.

    A prompt's end is taken once for each of its completions. After plain indexing their gradients are added
    in the order in which threads come; after `index_select`, on a processor, in one order, to the same bits
    each time.
    """
    return states_NWX.flatten(0, 1).index_select(0, places)


def inputs_of(packed: Packed, model: Any) -> dict[str, Any]:
    """The arguments of a decoder's forward pass over packed rows, as this model takes them."""
    inputs = {"input_ids": packed.ids_NW, "use_cache": False}
    if packed.part_NW is None:
        # Padding is behind the tokens, none of which looks there. Without a mask of it attention is the
        # causal one that has the quickest kernels.
        return inputs
    inputs["position_ids"] = packed.positions_NW
    if packed.blocks is not None and takes_blocks(model):
        return {**inputs, "attention_mask": packed.blocks.unread_mask, "blocks": packed.blocks}
    return {**inputs, "attention_mask": packed.attention_N1WW}


def probe_sequences(policy: Policy) -> list[Completion]:
    """Random tokens to try a layout on: two completions of a prompt, and one of another that begins alike.

    The last is shorter, so that its row is padded where each has one of its own.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = policy.model.get_input_embeddings().weight.shape[0]

    def draw(count: int) -> list[int]:
        drawn: list[int] = torch.randint(0, vocabulary, (count,), generator=generator).tolist()
        return drawn

    beginning = draw(LEAST_BEGINNING)
    one, other = beginning + draw(4), beginning + draw(4)
    return [Completion(0, one, draw(8)), Completion(0, one, draw(8)), Completion(1, other, draw(5))]


@torch.no_grad()
def probe_forward(policy: Policy, forward: CompletionLogprobs) -> list[str]:
    """Find out what this model allows, on random tokens.

    Sets `forward.chunked`, by comparing with the model's own logits of the same rows, and
    `forward.sharing`, by comparing with a plain forward pass of `model(ids).logits`; in float32, under
    flash attention the first alone and in half precision. Returns a note for each shortcut that is not
    taken.
    """
    causal_lm, text = causal_lm_of(policy.model), _text_config(policy.model)
    flash = text._attn_implementation == "flash_attention_2"  # it computes in half precision only
    precision = partial(policy.autocast, None if flash else torch.float32)
    sequences = probe_sequences(policy)

    def logprobs(share: Sharing = Sharing.NOTHING, *, chunked: bool | None = None) -> Tensor:
        forward.chunked = forward.chunked if chunked is None else chunked
        (packed,) = pack(sequences, share=share, size=PassSize(4096, 4096), pad_id=policy.pad_id)
        found_CT, _ = forward(packed.to(policy.device), 1.0)
        return found_CT[[packed.order.index(place) for place in range(len(sequences))]]

    notes = []
    autocast, forward._autocast = forward._autocast, precision
    training = policy.model.training
    policy.model.eval()  # in training some models draw noise, also where dropout is off
    try:
        own = logprobs(chunked=False)
        if not allows(lambda: _near(logprobs(chunked=True), own, half=flash)):
            forward.chunked = False
            notes.append(
                "this model's logits are not its head times its hidden state: full logits are computed"
            )
        if flash:
            forward.sharing = Sharing.NOTHING
            return [*notes, "flash attention takes no block mask: each completion repeats its prompt"]
        plain = pad_sequence([_plain_logprobs(policy, one) for one in sequences], batch_first=True)
        if not _near(own, plain):
            gap = float((own - plain).abs().max())
            notes.append(
                f"warning: in a batch, padded at the end, this model gives other log-probs, by {gap:.2g} nats"
            )
        forward.sharing, note = _probe_sharing(causal_lm, lambda share: _near(logprobs(share), plain))
    finally:
        forward._autocast = autocast
        policy.model.train(training)
    return notes + note


def _probe_sharing(causal_lm: Any, right: Callable[[Sharing], bool]) -> tuple[Sharing, list[str]]:
    """What may be computed once, given whether a way of sharing gives the right results; and a note."""
    text = causal_lm.config.get_text_config()
    if is_windowed(text):
        # The probe may well fit into the window, beyond which a block mask would take its place.
        return Sharing.NOTHING, [
            "this model has layers that do not attend to all before them: each completion repeats its prompt"
        ]
    if not allows(lambda: right(Sharing.PROMPT)):
        return Sharing.NOTHING, [
            "this model's attention takes no block mask: each completion repeats its prompt"
        ]
    if try_blocks(causal_lm, lambda: right(Sharing.BEGINNING)):
        return Sharing.BEGINNING, []
    asked = text._attn_implementation != "sdpa"  # another one, by the config
    note = "this model's attention knows no blocks: completions are masked from each other"
    return Sharing.PROMPT, [] if asked else [note]


def _near(found_CT: Tensor, wanted_CT: Tensor, *, half: bool = False) -> bool:
    """Whether log-probs agree. In half precision single logits may be rounded the other way."""
    gaps_CT = (found_CT - wanted_CT).abs()
    return float(gaps_CT.mean()) < _HALF_TOLERANCE if half else float(gaps_CT.max()) < _TOLERANCE


REFUSALS = (RuntimeError, ValueError, TypeError, IndexError)
"""What models have been seen to raise that do not take what they are given."""


def allows(right: Callable[[], bool]) -> bool:
    """Whether a pass that is tried gives what it should. One that a model refuses does not."""
    try:
        return right()
    except torch.OutOfMemoryError:
        raise
    except REFUSALS:
        return False


def try_blocks(causal_lm: Any, right: Callable[[], bool]) -> bool:
    """Let attention leave out what no token sees, if the results are then right; returns whether it does."""
    if causal_lm.config.get_text_config()._attn_implementation != "sdpa":
        return False
    switch(causal_lm, on=True)
    try:
        kept = takes_blocks(causal_lm) and right()
    except Exception:  # whatever a model does with an argument that it does not know
        kept = False
    if not kept:
        switch(causal_lm, on=False)
    return kept


def _text_config(model: Any) -> Any:
    return causal_lm_of(model).config.get_text_config()


def _logit_scale(config: Any) -> float:
    """What a model multiplies its logits by, where its config says so in one of the known ways; else 1.

    Others are found by the probe. One with a softcap, which comes behind the scale, is left to it too.
    """
    if getattr(config, "final_logit_softcapping", None) is not None:
        return 1.0
    scale: Any = 1.0
    for name in ("logit_scale", "lm_head_multiplier", "logits_scaling"):  # Cohere; Falcon-H1; Granite
        scale = getattr(config, name, None) or scale
    # Of the two that have this name, one divides.
    divides = hasattr(config, "logits_scaling") and config.model_type != "hyperclovax"
    if not isinstance(scale, int | float) or scale <= 0:
        return 1.0
    return 1.0 / scale if divides else float(scale)


def is_windowed(config: Any) -> bool:
    """Whether some layer attends to the last few positions only, or to its own chunk of them."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    if hasattr(config, "attention_layers"):  # GPT-Neo, whose masks are as long as its positions in any layer
        return True
    return getattr(config, "sliding_window", None) is not None


def _plain_logprobs(policy: Policy, sequence: Completion) -> Tensor:
    prompt, completion = sequence.prompt_ids, sequence.completion_ids
    ids = torch.tensor([[*prompt, *completion]], device=policy.device)
    logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    targets = torch.tensor(completion, device=policy.device)
    return torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0]
