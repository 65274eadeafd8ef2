import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rlreason.algorithms import logit_bytes, logprobs_from_logits, token_logprobs
from rlreason.algorithms import logprobs as logprobs_module
from rlreason.algorithms.logprobs import tokens_at_once

N, H, V = 11, 4, 7
SHAPES = [(1.0, None), (0.7, None), (1.3, 2.0)]  # temperature, softcap


def problem(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, H, generator=generator, dtype=dtype).requires_grad_()
    weight = torch.randn(V, H, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(V, generator=generator, dtype=dtype).requires_grad_()
    return hidden, weight, bias, torch.randint(V, (N,), generator=generator)


def plain(
    logits: Tensor, targets: Tensor, temperature: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """The whole logits at once, through torch's own functions."""
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    distribution = torch.distributions.Categorical(logits=logits / temperature)
    return distribution.log_prob(targets), distribution.entropy()


@pytest.mark.parametrize(("temperature", "softcap"), SHAPES)
@pytest.mark.parametrize("chunk", [1, 3, 11, 512])
def test_value_and_gradient_equal_the_plain_ones(
    chunk: int, temperature: float, softcap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs_module, "_CPU_BLOCK_ELEMENTS", 2 * V)  # several blocks a chunk
    hidden, weight, bias, targets = problem()
    weights = torch.arange(N, dtype=torch.float64) - 3
    expected, entropy = plain(hidden @ weight.t() + bias, targets, temperature, softcap)
    expected_grads = torch.autograd.grad((expected * weights).sum(), [hidden, weight, bias])

    actual, actual_entropy = token_logprobs(
        hidden, weight, targets, temperature=temperature, chunk=chunk, bias=bias, softcap=softcap
    )
    actual_grads = torch.autograd.grad((actual * weights).sum(), [hidden, weight, bias])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual_entropy, entropy, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual_grads, expected_grads, rtol=0, atol=1e-12)
    assert not actual_entropy.requires_grad


@pytest.mark.parametrize(("temperature", "softcap"), SHAPES)
def test_gradcheck(temperature: float, softcap: float | None) -> None:
    hidden, weight, bias, targets = problem()

    def score(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        options: dict[str, Any] = {"temperature": temperature, "softcap": softcap, "chunk": 4}
        return token_logprobs(hidden, weight, targets, bias=bias, **options)[0]

    assert torch.autograd.gradcheck(score, (hidden, weight, bias))
    frozen = weight.detach(), bias.detach()
    assert torch.autograd.gradcheck(lambda hidden: score(hidden, *frozen), (hidden,))
    assert torch.autograd.gradcheck(lambda weight: score(hidden.detach(), weight, frozen[1]), (weight,))
    assert torch.autograd.gradcheck(lambda bias: score(hidden.detach(), frozen[0], bias), (bias,))
    logits = torch.randn(N, V, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: logprobs_from_logits(x, targets, temperature=temperature, softcap=softcap)[0], (logits,)
    )


class LoraHead(nn.Module):
    """A frozen layer and a trainable low-rank update, as an adapter on the output layer has it."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight.detach()
        generator = torch.Generator().manual_seed(1)
        self.a = nn.Parameter(torch.randn(2, H, generator=generator, dtype=weight.dtype))
        self.b = nn.Parameter(torch.randn(V, 2, generator=generator, dtype=weight.dtype))

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden @ self.weight.t() + hidden @ self.a.t() @ self.b.t()


@pytest.mark.parametrize(("temperature", "softcap"), SHAPES)
def test_callable_head_trains_what_it_closes_over(temperature: float, softcap: float | None) -> None:
    hidden, weight, _, targets = problem()
    head = LoraHead(weight)
    weights = torch.arange(N, dtype=torch.float64) - 3
    expected, entropy = plain(head(hidden), targets, temperature, softcap)
    expected_grads = torch.autograd.grad((expected * weights).sum(), [hidden, head.a, head.b])

    actual, actual_entropy = token_logprobs(
        hidden, head, targets, temperature=temperature, chunk=3, softcap=softcap
    )
    actual_grads = torch.autograd.grad((actual * weights).sum(), [hidden, head.a, head.b])
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual_entropy, entropy, rtol=0, atol=1e-12)
    torch.testing.assert_close(actual_grads, expected_grads, rtol=0, atol=1e-12)


def test_tied_embedding_gets_the_gradient_of_both_its_uses() -> None:
    _, weight, _, targets = problem()

    def gradient(chunked: bool) -> Tensor:
        hidden = weight[targets.roll(1)].tanh()
        if chunked:
            logprobs = token_logprobs(hidden, weight, targets, chunk=4)[0]
        else:
            logprobs = plain(hidden @ weight.t(), targets, 1.0, None)[0]
        return torch.autograd.grad(logprobs.sum(), weight)[0]

    torch.testing.assert_close(gradient(True), gradient(False), rtol=0, atol=1e-12)


def test_entropy_and_logprob_by_hand() -> None:
    # logits 0 and ln 3: p = 1/4 and 3/4; entropy = ln 4 / 4 + 3/4 ln(4/3) = 0.5623351446
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0]], dtype=torch.float64)
    logprobs, entropy = logprobs_from_logits(logits, torch.tensor([1, 0]))
    expected = torch.tensor([math.log(3 / 4), math.log(1 / 2)], dtype=torch.float64)
    torch.testing.assert_close(logprobs, expected)
    expected = torch.tensor([0.5623351446188083, math.log(2)], dtype=torch.float64)
    torch.testing.assert_close(entropy, expected)


def test_logits_are_left_as_they_are() -> None:
    logits = torch.randn(5, V).requires_grad_()
    before = logits.detach().clone()
    logprobs, _ = logprobs_from_logits(logits, torch.zeros(5, dtype=torch.long), temperature=2.0, softcap=3.0)
    logprobs.sum().backward()
    assert torch.equal(logits, before)


def test_large_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1000.0, 0.0, -1000.0]], requires_grad=True)
    logprobs, entropy = logprobs_from_logits(logits.expand(2, 3), torch.tensor([0, 2]))
    torch.testing.assert_close(logprobs, torch.tensor([0.0, -2000.0]))
    torch.testing.assert_close(entropy, torch.zeros(2))
    logprobs.sum().backward()
    # slopes of rows: (1 - 1, 0, 0) and (-1, 0, 1)
    torch.testing.assert_close(logits.grad, torch.tensor([[-1.0, 0.0, 1.0]]))


@pytest.mark.parametrize("kind", ["weight", "frozen", "callable"])
def test_bfloat16_autocast_rounds_only_the_product(kind: str) -> None:
    hidden, weight, _, targets = problem(torch.float32)
    head: Any = {"weight": weight, "frozen": weight.detach(), "callable": lambda x: x @ weight.t()}[kind]
    rounded = hidden.bfloat16().float() @ weight.bfloat16().float().t()
    expected = plain(rounded.bfloat16().float(), targets, 0.7, None)[0]
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, entropy = token_logprobs(hidden.bfloat16(), head, targets, temperature=0.7, chunk=3)
    assert logprobs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)
    logprobs.sum().backward()
    exact = torch.autograd.grad(plain(hidden @ weight.t(), targets, 0.7, None)[0].sum(), hidden)[0]
    torch.testing.assert_close(hidden.grad, exact, rtol=0, atol=0.1)  # 8 bits of mantissa


def test_a_float32_weight_outside_autocast_gives_a_float32_head() -> None:
    hidden, weight, _, targets = problem(torch.float32)
    expected = plain(hidden.bfloat16().float() @ weight.t(), targets, 1.0, None)[0]
    actual = token_logprobs(hidden.bfloat16(), weight, targets)[0]
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


def test_the_gradient_of_a_bfloat16_weight_does_not_forget_later_chunks() -> None:
    """A bfloat16 sum of 1,024 equal terms stops growing at 256 of them."""
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    token_logprobs(hidden, weight, torch.zeros(1024, dtype=torch.long), chunk=1)[0].sum().backward()
    # p = 1/2, so each token adds 1 - 1/2 to the first row and -1/2 to the second
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [512.0, -512.0]


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("kind", ["weight", "frozen", "callable"])
def test_the_logits_of_all_tokens_are_never_held(kind: str) -> None:
    tokens, vocabulary, chunk = 64, 50, 4
    hidden = torch.randn(tokens, 2, requires_grad=True)
    weight = torch.randn(vocabulary, 2, requires_grad=True)
    head: Any = {"weight": weight, "frozen": weight.detach(), "callable": lambda x: x @ weight.t()}[kind]
    with LargestTensor() as largest:
        logprobs, _ = token_logprobs(hidden, head, torch.randint(vocabulary, (tokens,)), chunk=chunk)
        logprobs.sum().backward()
    assert hidden.grad is not None
    assert largest.elements == chunk * vocabulary


class HeldLogits(TorchDispatchMode):
    """Counts the products over the vocabulary, and the most logits that live at a time."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.products = self.most = 0
        self._alive: list[weakref.ref[torch.UntypedStorage]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.addmm_.default):
            self.products += 1
            if result.shape[-1] == self.vocabulary:
                self._alive.append(weakref.ref(result.untyped_storage()))
        alive = {ref: storage for ref in self._alive if (storage := ref()) is not None}
        self.most = max(self.most, len(alive))
        return result


@pytest.mark.parametrize(("tokens", "chunk", "products"), [(8, 8, 3), (8, 4, 7), (9, 4, 11), (8, 100, 3)])
def test_the_logits_of_the_last_chunk_are_kept_and_no_others(tokens: int, chunk: int, products: int) -> None:
    """Four products a chunk, the logits twice and two gradients, less one for the chunk that is kept."""
    hidden, weight = torch.randn(tokens, 2, requires_grad=True), torch.randn(50, 2, requires_grad=True)
    with HeldLogits(50) as held:
        logprobs, _ = token_logprobs(hidden, weight, torch.randint(50, (tokens,)), chunk=chunk)
        logprobs.sum().backward()
    assert held.products == products
    assert held.most == 1


def test_a_second_backward_pass_computes_the_kept_logits_anew() -> None:
    hidden, weight, _, targets = problem()
    logprobs, _ = token_logprobs(hidden, weight, targets, chunk=4)
    first = torch.autograd.grad(logprobs.sum(), [hidden, weight], retain_graph=True)
    second = torch.autograd.grad(logprobs.sum(), [hidden, weight])
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("kind", ["weight", "callable"])
def test_no_gradient_and_no_tokens(kind: str) -> None:
    hidden, weight, _, targets = problem()
    head: Any = weight if kind == "weight" else LoraHead(weight)
    with torch.no_grad():
        logprobs, _ = token_logprobs(hidden, head, targets, chunk=3)
    assert not logprobs.requires_grad
    logprobs, entropy = token_logprobs(hidden[:0], head, targets[:0])
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()


def test_same_input_same_bits() -> None:
    hidden, weight, _, targets = problem(torch.float32)

    def run() -> tuple[Tensor, ...]:
        logprobs, entropy = token_logprobs(hidden, weight, targets, chunk=3)
        return logprobs, entropy, *torch.autograd.grad(logprobs.sum(), [hidden, weight])

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_wrong_input_is_refused() -> None:
    hidden, weight, bias, targets = problem()
    with pytest.raises(ValueError, match="flatten"):
        token_logprobs(hidden[None], weight, targets)
    with pytest.raises(ValueError, match="flatten"):
        token_logprobs(hidden, weight, targets[:-1])
    with pytest.raises(ValueError, match=r"\(V, 4\)"):
        token_logprobs(hidden, weight.t(), targets)
    with pytest.raises(ValueError, match="bias"):
        token_logprobs(hidden, lambda x: x, targets, bias=bias)
    with pytest.raises(ValueError, match="above 0"):
        token_logprobs(hidden, weight, targets, temperature=0.0)
    with pytest.raises(ValueError, match="chunk"):
        token_logprobs(hidden, weight, targets, chunk=0)


def test_chunks_by_the_device() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [tokens_at_once(vocabulary, cpu) for vocabulary in (100, 49_152, 151_936)] == [768] * 3
    assert [tokens_at_once(vocabulary, gpu) for vocabulary in (49_152, 151_936, 300_000)] == [2730, 883, 768]
    # 800 tokens of 49,152 logits: 768 in float32 and three blocks of 2^20; all in half precision, 3 of 2^24.
    assert logit_bytes(800, 49_152, torch.float32, cpu) == 4 * 768 * 49_152 + 12 * 2**20
    assert logit_bytes(800, 49_152, torch.bfloat16, gpu) == 2 * 800 * 49_152 + 12 * 2**24
    assert logit_bytes(3, 100, torch.float32, gpu) == 4 * 300 + 12 * 300
