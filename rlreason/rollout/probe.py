"""Whether the native engine computes what the model does: asked of both, once, before it is used."""

import torch

from rlreason.policy.model import Policy
from rlreason.rollout.engine import Request, Sampling
from rlreason.rollout.native import NativeEngine

# In float32 the engine's log-probs are those of a plain forward pass to this share of their spread (of 1 nat
# where that is more), or it is not used. Rounding stays below a tenth of it.
_TOLERANCE = 1e-3
_PROMPTS, _COMPLETIONS, _TOKENS = (8, 3), 2, 5


def disagreement(policy: Policy) -> str | None:
    """Return how the native engine differs from the model's own forward pass, or None if it does not.

    Both in float32, on a few completions of random prompts. For models that have the name of a known family
    and are not built like it.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary = policy.model.get_input_embeddings().weight.shape[0]
    prompts = [torch.randint(0, vocabulary, (length,), generator=generator).tolist() for length in _PROMPTS]
    requests = [Request(prompt, tuple(range(_COMPLETIONS))) for prompt in prompts]
    was_training = policy.model.training
    policy.model.eval()
    try:
        engine = NativeEngine(policy.model, eos_ids=(), max_sequences=3, dtype=torch.float32)
        groups = engine.generate(requests, Sampling(_TOKENS))
        for rollout in (rollout for group in groups for rollout in group):
            sampled = torch.tensor(rollout.logprobs, device=policy.device)
            plain, spread = _plain(policy, rollout.prompt_ids, rollout.completion_ids)
            gap = float((sampled - plain).abs().max())
            if not gap <= _TOLERANCE * min(1.0, spread):
                return f"the native engine is {gap:.1g} nats off this model's own log-probs"
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # weights of other shapes than the family's
        return f"the native engine fails on it: {str(error).splitlines()[0]}"
    finally:
        policy.model.train(was_training)
    return None


@torch.no_grad()
def _plain(policy: Policy, prompt: list[int], completion: list[int]) -> tuple[torch.Tensor, float]:
    """Log-probs of a completion by the model itself, and the deviation of log-probs over the vocabulary."""
    ids = torch.tensor([prompt + completion], device=policy.device)
    logits = policy.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float()
    logprobs = torch.log_softmax(logits, -1)
    targets = torch.tensor(completion, device=policy.device)
    return logprobs.gather(-1, targets[:, None])[:, 0], float(logprobs.std(-1).mean())
