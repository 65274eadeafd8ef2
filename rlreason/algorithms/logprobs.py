"""Log-probabilities of given tokens, without ever holding the logits of all of them.

Shape letters: N tokens, H hidden size, V vocabulary.

The logits of a batch are by far the largest tensor of an update (8,192 tokens of a 49,152-word vocabulary
are 1.6 GB in float32, several times over with autograd's copies). They are computed chunk by chunk, reduced
to two numbers a token, and computed again in the backward pass, but for the last chunk's. Softmax and
reductions are in float32 whatever the precision of the matrix product.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]

LEAST_CHUNK = 768
"""Tokens whose logits are in memory at a time, at least: as many as a pass of a processor has, so that none
are computed twice."""

# The passes over the logits run on blocks of so many numbers. On a CPU they stay in the cache then: with a
# 49,152-word vocabulary and a bfloat16 product it halves the time of the forward pass. On a GPU it bounds
# memory, 4 bytes each and up to three at a time.
_CPU_BLOCK_ELEMENTS, _GPU_BLOCK_ELEMENTS = 2**20, 2**24


class _Options(NamedTuple):
    temperature: float
    softcap: float | None
    chunk: int
    compute_dtype: torch.dtype  # of the matrix products
    slopes_in_forward: bool  # only the hidden states need a gradient
    backward: bool  # a backward pass is to come, and computes the slopes


def token_logprobs(
    hidden_NH: Tensor,
    head: Tensor | Head,
    targets_N: Tensor,
    *,
    temperature: float = 1.0,
    chunk: int | None = None,
    bias: Tensor | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Return `log p(target)` and the entropy of the next-token distribution, both (N,) and in nats.

    `head` is the weight (V, H) of the output layer, a tied embedding included, or a callable from hidden
    states (n, H) to logits (n, V): a module with an adapter, a sharded layer. `logits = head(hidden)`, then
    `softcap * tanh(logits / softcap)` when a cap is given (Gemma 2, arXiv 2408.00118, section 2), then the
    division by the sampler's `temperature`.

    A weight is multiplied in the autocast precision where autocast is on, else in its own, so calling this
    outside autocast with a float32 weight gives a float32 head under a bfloat16 body. Results are float32
    (float64 for float64 input). Log-probabilities carry gradients to the hidden states, the weight, the bias
    and whatever a callable closes over; the entropy is a measurement and carries none. At most `chunk`
    tokens have their logits in memory at a time, by default `tokens_at_once`, or 768 of a callable. Logits
    must be finite.

    Raises ValueError for mismatched shapes, a temperature or softcap not above 0, a chunk below 1, or a bias
    beside a callable head.
    """
    _check(hidden_NH, head, targets_N, temperature=temperature, chunk=chunk, bias=bias, softcap=softcap)
    if not isinstance(head, Tensor):
        return _through_callable(hidden_NH, head, targets_N, temperature, chunk or LEAST_CHUNK, softcap)
    chunk = chunk or tokens_at_once(head.shape[0], hidden_NH.device)
    device = hidden_NH.device.type
    autocast = torch.is_autocast_enabled(device)
    head_needs_gradient = head.requires_grad or (bias is not None and bias.requires_grad)
    options = _Options(
        temperature=temperature,
        softcap=softcap,
        chunk=_even(len(targets_N), chunk),
        compute_dtype=torch.get_autocast_dtype(device) if autocast else head.dtype,
        slopes_in_forward=torch.is_grad_enabled() and hidden_NH.requires_grad and not head_needs_gradient,
        backward=torch.is_grad_enabled() and head_needs_gradient,
    )
    logprobs_N, entropy_N = _HeadLogprobs.apply(hidden_NH, head, bias, targets_N, options)
    return logprobs_N, entropy_N


def tokens_at_once(vocabulary: int, device: torch.device) -> int:
    """How many tokens have their logits in memory at a time.

    Each chunk adds to a gradient as large as the head, which on a GPU takes as long as a quarter of the
    products of 512 tokens: there it is as many as have 2^27 logits, if that is more.
    """
    return max(LEAST_CHUNK, 2**27 // vocabulary) if device.type == "cuda" else LEAST_CHUNK


def logit_bytes(tokens: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> int:
    """What `token_logprobs` takes for logits of so many tokens: those of a chunk, and passes over blocks."""
    logits = min(tokens, tokens_at_once(vocabulary, device)) * vocabulary
    return logits * dtype.itemsize + 3 * 4 * min(logits, _block_elements(device))


def _even(tokens: int, chunk: int) -> int:
    """The size of as many chunks, of about as many tokens each."""
    return math.ceil(tokens / max(1, math.ceil(tokens / chunk))) or 1


def logprobs_from_logits(
    logits_NV: Tensor, targets_N: Tensor, *, temperature: float = 1.0, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return `log p(target)` and the entropy, (N,) each and in nats, of logits that are already there.

    As in `token_logprobs`, the softmax is float32 and only the log-probabilities carry a gradient.
    """
    logprobs_N, entropy_N = _LogitLogprobs.apply(logits_NV, targets_N, temperature, softcap)
    return logprobs_N, entropy_N


def _through_callable(
    hidden_NH: Tensor, head: Head, targets_N: Tensor, temperature: float, chunk: int, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Recompute through torch's checkpoint: what the callable closes over is unknown, autograd finds it."""

    def score(hidden_nH: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
        return logprobs_from_logits(head(hidden_nH), targets_n, temperature=temperature, softcap=softcap)

    parts = []
    for hidden_nH, targets_n in zip(hidden_NH.split(chunk), targets_N.split(chunk), strict=True):
        if torch.is_grad_enabled():
            parts.append(checkpoint(score, hidden_nH, targets_n, use_reentrant=False))
        else:
            parts.append(score(hidden_nH, targets_n))
    return torch.cat([logprobs for logprobs, _ in parts]), torch.cat([entropy for _, entropy in parts])


def _check(
    hidden_NH: Tensor,
    head: Tensor | Head,
    targets_N: Tensor,
    *,
    temperature: float,
    chunk: int | None,
    bias: Tensor | None,
    softcap: float | None,
) -> None:
    if hidden_NH.dim() != 2 or targets_N.shape != hidden_NH.shape[:1]:
        raise ValueError(
            f"hidden must be (N, H) and targets (N,), got {tuple(hidden_NH.shape)} and "
            f"{tuple(targets_N.shape)}; flatten both to the tokens that are to be scored"
        )
    if temperature <= 0 or (softcap is not None and softcap <= 0):
        raise ValueError(f"temperature and softcap must be above 0, got {temperature} and {softcap}")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 token, got {chunk}")
    if isinstance(head, Tensor):
        if head.dim() != 2 or head.shape[1] != hidden_NH.shape[1]:
            raise ValueError(
                f"the head's weight must be (V, {hidden_NH.shape[1]}), got {tuple(head.shape)}; "
                "pass a callable for any other kind of head"
            )
    elif bias is not None:
        raise ValueError("bias goes with a head given as a weight; a callable adds its own")


# --- the arithmetic of a block of rows -----------------------------------------------------------------


def _wide(dtype: torch.dtype) -> torch.dtype:
    """float32, or float64 where the input is."""
    return torch.promote_types(dtype, torch.float32)


def _block_elements(device: torch.device) -> int:
    return _CPU_BLOCK_ELEMENTS if device.type == "cpu" else _GPU_BLOCK_ELEMENTS


def _blocks(logits_NV: Tensor) -> Iterator[slice]:
    rows, vocabulary = logits_NV.shape
    step = max(1, _block_elements(logits_NV.device) // vocabulary)
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _shape_(logits_NV: Tensor, temperature: float, softcap: float | None) -> Tensor:
    """Softcap and temperature, in place."""
    if softcap is not None:
        logits_NV.div_(softcap).tanh_().mul_(softcap)
    if temperature != 1.0:
        logits_NV.div_(temperature)
    return logits_NV


def _score(
    logits_NV: Tensor, targets_N: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return log-probability, entropy and log-normaliser of each row, (N,) each; the logits stay as they are.

    With z the logits less their maximum and s = sum exp z: log p(y) = z_y - log s, and the entropy
    -sum p log p = log s - sum(z exp z) / s. One exponential serves both.
    """
    rows, wide = logits_NV.shape[0], _wide(logits_NV.dtype)
    logprobs_N, entropy_N, normaliser_N = logits_NV.new_empty((3, rows), dtype=wide).unbind()
    for block in _blocks(logits_NV):
        z = _shape_(logits_NV[block].to(wide, copy=True), temperature, softcap)
        peak = z.amax(-1, keepdim=True)
        z.sub_(peak)
        exp_z = z.exp()
        total = exp_z.sum(-1)
        log_total = total.log()
        logprobs_N[block] = z.gather(1, targets_N[block, None]).squeeze(1) - log_total
        entropy_N[block] = log_total - torch.linalg.vecdot(exp_z, z) / total
        normaliser_N[block] = peak.squeeze(1) + log_total
    return logprobs_N, entropy_N, normaliser_N


def _write_slopes_(
    logits_NV: Tensor,
    targets_N: Tensor,
    normaliser_N: Tensor,
    grad_N: Tensor | None,
    temperature: float,
    softcap: float | None,
) -> None:
    """Overwrite the logits x by the gradient of `sum_n grad_n log p(target_n)` (None: grad 1 everywhere).

    d log p(y) / d z_v = [v = y] - p_v for the shaped logits z, and d z / d x = (1 - tanh^2(x / cap)) / T.
    """
    for block in _blocks(logits_NV):
        x, targets = logits_NV[block], targets_N[block, None]
        slope = _shape_(x.to(normaliser_N.dtype, copy=True), temperature, softcap)
        bend = None if softcap is None else 1 - (slope * (temperature / softcap)).square_()
        slope.sub_(normaliser_N[block, None]).exp_().neg_()
        slope.scatter_add_(1, targets, torch.ones_like(targets, dtype=slope.dtype))
        if bend is not None:
            slope.mul_(bend)
        factor = 1 / temperature if grad_N is None else grad_N[block, None] / temperature
        x.copy_(slope.mul_(factor))


# --- autograd ------------------------------------------------------------------------------------------


class _LogitLogprobs(torch.autograd.Function):
    """Two numbers a row of logits; one buffer in the backward pass where plain autograd makes four."""

    @staticmethod
    def forward(
        ctx: Any, logits_NV: Tensor, targets_N: Tensor, temperature: float, softcap: float | None
    ) -> tuple[Tensor, Tensor]:
        logprobs_N, entropy_N, normaliser_N = _score(logits_NV, targets_N, temperature, softcap)
        ctx.save_for_backward(logits_NV, targets_N, normaliser_N)
        ctx.shape = temperature, softcap
        ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
        logits_NV, targets_N, normaliser_N = ctx.saved_tensors
        slopes_NV = logits_NV.clone()
        _write_slopes_(slopes_NV, targets_N, normaliser_N, grad_N, *ctx.shape)
        return slopes_NV, None, None, None


def _cast(
    dtype: torch.dtype, hidden_NH: Tensor, weight_VH: Tensor, bias_V: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return hidden_NH.to(dtype), weight_VH.to(dtype), None if bias_V is None else bias_V.to(dtype)


def _project(hidden_nH: Tensor, weight_VH: Tensor, bias_V: Tensor | None) -> Tensor:
    if bias_V is None:
        return hidden_nH @ weight_VH.t()
    return torch.addmm(bias_V, hidden_nH, weight_VH.t())


class _HeadLogprobs(torch.autograd.Function):
    """A linear head and the log-probabilities of its targets, chunk by chunk.

    The backward pass computes the logits again, unless the head is frozen (LoRA): then the slopes
    d log p / d hidden, (N, H), are ready after the forward pass and one of three products is saved. The last
    chunk's logits are kept: the head is last in a policy's forward pass and first in its backward pass, which
    would take as much memory for them at once. (A separate critic comes between.)
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        options: _Options,
    ) -> tuple[Tensor, Tensor]:
        shape = options.temperature, options.softcap
        scores: list[tuple[Tensor, Tensor, Tensor]] = []
        slopes: list[Tensor] = []
        with torch.autocast(hidden_NH.device.type, enabled=False):
            hidden, weight, bias = _cast(options.compute_dtype, hidden_NH, weight_VH, bias_V)
            for hidden_nH, targets_n in zip(
                hidden.split(options.chunk), targets_N.split(options.chunk), strict=True
            ):
                ctx.last_nV = None
                logits_nV = _project(hidden_nH, weight, bias)
                scores.append(_score(logits_nV, targets_n, *shape))
                if options.slopes_in_forward:
                    _write_slopes_(logits_nV, targets_n, scores[-1][2], None, *shape)
                    slopes.append(logits_nV @ weight)
                ctx.last_nV = logits_nV if options.backward else None
                del logits_nV  # freed before the next is computed
        logprobs_N, entropy_N, normaliser_N = (torch.cat(parts) for parts in zip(*scores, strict=True))
        slopes_NH = torch.cat(slopes) if options.slopes_in_forward else None
        ctx.options = options
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N, normaliser_N, slopes_NH)
        ctx.mark_non_differentiable(entropy_N)
        return logprobs_N, entropy_N

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_N: Tensor, _: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        hidden_NH, weight_VH, bias_V, targets_N, normaliser_N, slopes_NH = ctx.saved_tensors
        options: _Options = ctx.options
        if slopes_NH is not None:
            return (slopes_NH * grad_N[:, None]).to(hidden_NH.dtype), None, None, None, None
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden_NH) if needs_hidden else None
        # Sums over chunks are kept in float32: a bfloat16 sum would forget the later chunks.
        grad_weight = torch.zeros_like(weight_VH, dtype=_wide(weight_VH.dtype)) if needs_weight else None
        grad_bias = torch.zeros_like(bias_V, dtype=_wide(bias_V.dtype)) if needs_bias else None
        with torch.autocast(hidden_NH.device.type, enabled=False):
            hidden, weight, bias = _cast(options.compute_dtype, hidden_NH, weight_VH, bias_V)
            # They are overwritten, so a second backward pass through a retained graph computes them anew.
            logits_nV, ctx.last_nV = ctx.last_nV, None
            for start in reversed(range(0, len(targets_N), options.chunk)):
                chunk = slice(start, start + options.chunk)
                if logits_nV is None:
                    logits_nV = _project(hidden[chunk], weight, bias)
                _write_slopes_(
                    logits_nV,
                    targets_N[chunk],
                    normaliser_N[chunk],
                    grad_N[chunk],
                    options.temperature,
                    options.softcap,
                )
                if grad_hidden is not None:
                    grad_hidden[chunk] = logits_nV @ weight
                if grad_weight is not None:
                    _add_product_(grad_weight, logits_nV.t(), hidden[chunk])
                if grad_bias is not None:
                    grad_bias += logits_nV.sum(0, dtype=grad_bias.dtype)
                logits_nV = None
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight_VH.dtype),
            None if grad_bias is None else grad_bias.to(bias_V.dtype),
            None,
            None,
        )


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right
