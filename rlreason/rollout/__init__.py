"""Sampling completions: one protocol, several engines."""

from functools import partial

from rlreason.config.training import RolloutConfig
from rlreason.errors import UserError
from rlreason.policy.adapter import causal_lm_of
from rlreason.policy.model import Policy
from rlreason.policy.precision import resolve_precision
from rlreason.rollout.engine import Engine, Request, Sampling, Told
from rlreason.rollout.families import unsupported
from rlreason.rollout.native import NativeEngine
from rlreason.rollout.probe import disagreement
from rlreason.rollout.slots import sequences_at_once
from rlreason.rollout.transformers_engine import TransformersEngine

__all__ = ["Engine", "Request", "Sampling", "Told", "build_engine", "sampling_of", "sequences_at_once"]


def sampling_of(config: RolloutConfig, *, temperature: float | None = None) -> Sampling:
    """The sampling that the config asks for, at another temperature if one is given."""
    chosen = config.temperature if temperature is None else temperature
    return Sampling(config.max_new_tokens, chosen, config.top_p, config.top_k, config.min_p)


def build_engine(policy: Policy, config: RolloutConfig) -> tuple[Engine, str]:
    """Return the engine of `config` for `policy`, and a line that says which and why.

    `auto` takes the native engine for the families it knows, if a probe finds that it computes what the model
    does, else transformers. Raises UserError if `native` is asked for and cannot run the model.
    """
    reason = unsupported(causal_lm_of(policy.model))
    if config.engine != "transformers" and reason is None:
        reason = disagreement(policy)
    dtype = resolve_precision(config.precision, policy.device)
    if config.engine == "native" and reason is not None:
        raise UserError(
            f"rollout.engine: 'native' cannot run this model ({reason}); use 'auto' or 'transformers'"
        )
    precision = str(dtype).removeprefix("torch.")
    at_once = sequences_at_once(config.max_sequences, policy.device)
    if config.engine != "transformers" and reason is None:
        native = NativeEngine(policy.model, eos_ids=policy.eos_ids, max_sequences=at_once, dtype=dtype)
        return native, f"native, {precision}"
    general = TransformersEngine(
        policy.model,
        eos_ids=policy.eos_ids,
        pad_id=policy.pad_id,
        max_sequences=at_once,
        autocast=partial(policy.autocast, dtype),
    )
    why = "as configured" if config.engine == "transformers" else reason
    return general, f"transformers generate, {precision} ({why})"
