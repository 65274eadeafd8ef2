"""Whether the native engine computes what the model does: asked of both before it is used, and on the way."""

from dataclasses import replace

import torch
from torch import Tensor

from rlreason.policy.model import Policy
from rlreason.rollout.engine import Engine, Request, Sampling
from rlreason.rollout.native import NativeEngine

# In float32 the engine's log-probs are those of a plain forward pass to this share of their spread over the
# vocabulary (of 1 nat where that is more), or it is not used. Rounding stays below a tenth of it.
_TOLERANCE = 1e-3


def disagreement(policy: Policy) -> str | None:
    """Return how the native engine differs from the model's own forward pass, or None if it does not.

    Both in float32, on two completions of each of two random prompts, with prefixes copied and, where the
    device holds them once, shared. For models that have the name of a known family and are not built like it.
    """
    requests = _requests(policy)
    was_training = policy.model.training
    policy.model.eval()
    try:
        engine = NativeEngine(policy.model, eos_ids=(), max_sequences=2, dtype=torch.float32)
        groups = engine.generate(requests, Sampling(max_new_tokens=4))
        if engine.pace.least_spared is not None:
            engine.pace = replace(engine.pace, least_spared=1)
            groups += engine.generate(requests, Sampling(max_new_tokens=4))
            requests = requests * 2
        gaps, spread = [], 1.0
        for request, group in zip(requests, groups, strict=True):
            sampled = torch.tensor([rollout.logprobs for rollout in group], device=policy.device)
            completions = [rollout.completion_ids for rollout in group]
            plain, own_spread = _plain(policy, request.prompt_ids, completions)
            gaps.append((sampled - plain).abs())
            spread = min(spread, own_spread)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # weights of other shapes than the family's
        return f"the native engine fails on it: {str(error).splitlines()[0]}"
    finally:
        policy.model.train(was_training)
    gap = float(torch.stack(gaps).max())  # NaN where one is
    if gap <= _TOLERANCE * spread:
        return None
    return f"the native engine is {gap:.1g} nats off this model's own log-probs"


def stale(engine: Engine, policy: Policy) -> str | None:
    """Return how the engine differs from one that has just been made of the policy, or None if it does not.

    Both in the engine's own precision, so that one weight that was not taken over shows in the last bit. With
    an adapter, which is the identity until it has been trained, the model itself is asked once more too.
    """
    if not isinstance(engine, NativeEngine):
        return None  # it samples from the weights that train
    requests, sampling = _requests(policy), Sampling(max_new_tokens=4)
    if engine.generate(requests, sampling) != engine.twin().generate(requests, sampling):
        return "on a probe it does not sample, or not with the same log-probs, what a fresh copy samples"
    return disagreement(policy) if policy.has_adapter else None


def _requests(policy: Policy) -> list[Request]:
    """Two completions of each of two prompts, which begin with enough of the same for that to be shared."""
    generator = torch.Generator().manual_seed(0)
    vocabulary = policy.model.get_input_embeddings().weight.shape[0]
    drawn: list[int] = torch.randint(0, vocabulary, (22,), generator=generator).tolist()
    common, first, second = drawn[:16], drawn[16:18], drawn[18:]
    return [Request([*common, *own], (0, 1)) for own in (first, second)]


@torch.no_grad()
def _plain(policy: Policy, prompt: list[int], completions: list[list[int]]) -> tuple[Tensor, float]:
    """Log-probs of each completion by the model itself, and their deviation over the vocabulary."""
    ids = torch.tensor([prompt + completion for completion in completions], device=policy.device)
    logits = policy.model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1].float()
    logprobs = torch.log_softmax(logits, -1)
    targets = ids[:, len(prompt) :, None]
    return logprobs.gather(-1, targets)[..., 0], float(logprobs.std(-1).mean())
