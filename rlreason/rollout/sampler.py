"""Drawing one token a row from logits: temperature, top-k, top-p, min-p, and its log-probability.

Shapes: S rows, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rlreason.rollout.engine import Sampling

# Sizes of the blocks in which a draw is looked for: the first by which the vocabulary can be divided.
_BLOCKS = (256, 128)


def sample_tokens(logits_SV: Tensor, uniform_S: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw one token a row by inverting the cumulative distribution at `uniform_S` in [0, 1).

    One uniform number a token makes a row's draw depend on its own seed alone, whatever shares the batch.
    Returns `(tokens_S, logprobs_S)`; the log-probs are those of the full distribution at the sampler's
    temperature, before any cut, which is what the trainer can recompute.
    """
    logits_SV = logits_SV.float()
    if sampling.temperature == 0:
        tokens_S = logits_SV.argmax(-1)
        return tokens_S, _gather(torch.log_softmax(logits_SV, -1), tokens_S)
    if sampling.temperature != 1:
        logits_SV = logits_SV / sampling.temperature
    full_SV = torch.softmax(logits_SV, -1)
    probs_SV = _cut(full_SV, sampling)
    tokens_S = _invert(probs_SV, uniform_S)
    # Rounding can push a threshold onto the total, or on a GPU lift a sum over its neighbour's where there is
    # no mass: fall back to the likeliest token, never to a cut one.
    missed_S = _gather(probs_SV, tokens_S) == 0
    if probs_SV.device.type != "cpu" or missed_S.any():  # elsewhere to ask is to wait
        tokens_S = torch.where(missed_S, probs_SV.argmax(-1), tokens_S)
    return tokens_S, _gather(full_SV, tokens_S).log()


def _invert(probs_SV: Tensor, uniform_S: Tensor) -> Tensor:
    """The first token at which the cumulative mass exceeds the share `uniform_S` of all that is left.

    In two levels, blocks and then the tokens of one block: sums over blocks are a fraction of the work of
    cumulative sums over the vocabulary.
    """
    rows, vocabulary = probs_SV.shape
    size = next((size for size in _BLOCKS if vocabulary % size == 0), 0)
    if not size:  # else nothing is copied
        size = _BLOCKS[0]
        probs_SV = F.pad(probs_SV, (0, -vocabulary % size))
    blocks_SKB = probs_SV.view(rows, -1, size)
    upto_SK = blocks_SKB.sum(-1).cumsum(-1)
    threshold_S1 = uniform_S.unsqueeze(-1) * upto_SK[:, -1:]
    block_S1 = torch.searchsorted(upto_SK, threshold_S1, right=True).clamp_(max=upto_SK.shape[1] - 1)
    before_S1 = F.pad(upto_SK, (1, 0)).gather(1, block_S1)
    inside_SB = blocks_SKB[torch.arange(rows, device=probs_SV.device), block_S1[:, 0]].cumsum(-1)
    place_S1 = torch.searchsorted(inside_SB, threshold_S1 - before_S1, right=True).clamp_(max=size - 1)
    return (block_S1 * size + place_S1).squeeze(-1).clamp_(max=vocabulary - 1)


def _gather(values_SV: Tensor, tokens_S: Tensor) -> Tensor:
    return values_SV.gather(-1, tokens_S.unsqueeze(-1)).squeeze(-1)


def _cut(probs_SV: Tensor, sampling: Sampling) -> Tensor:
    """Zero what top-k, min-p and top-p (nucleus, arXiv 1904.09751) leave out; the likeliest token stays."""
    if 0 < sampling.top_k < probs_SV.shape[-1]:
        kth_S1 = probs_SV.topk(sampling.top_k, -1).values[:, -1:]
        probs_SV = probs_SV.masked_fill(probs_SV < kth_S1, 0.0)
    if sampling.min_p > 0:
        floor_S1 = sampling.min_p * probs_SV.amax(-1, keepdim=True)
        probs_SV = probs_SV.masked_fill(probs_SV < floor_S1, 0.0)
    if sampling.top_p < 1:
        probs_SV = probs_SV / probs_SV.sum(-1, keepdim=True)
        ordered_SV, order_SV = probs_SV.sort(-1, descending=True)
        # A token is kept while the mass before it is below top_p.
        outside_SV = ordered_SV.cumsum(-1) - ordered_SV >= sampling.top_p
        probs_SV = probs_SV.masked_fill(outside_SV.scatter(-1, order_SV, outside_SV), 0.0)
    return probs_SV
