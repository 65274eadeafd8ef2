import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreason.rollout import Sampling
from rlreason.rollout.sampler import sample_tokens

# Tokens 1, 3, 4, 2, 0 in order of probability: what a cut leaves out lies between and around what it keeps.
PROBS = [0.05, 0.4, 0.1, 0.3, 0.15]
LOGITS = torch.tensor(PROBS).log()
# The smallest and the largest number that torch.rand gives, and a grid between them.
GRID = torch.cat([torch.tensor([0.0, 1 - 2**-24]), torch.linspace(0, 1 - 2**-24, 999)])


def drawn(sampling: Sampling, uniforms: torch.Tensor = GRID) -> list[int]:
    tokens, _ = sample_tokens(LOGITS.expand(len(uniforms), -1), uniforms, sampling)
    return tokens.tolist()


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 1}, {1}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 5}, {0, 1, 2, 3, 4}),
        ({"top_k": 50}, {0, 1, 2, 3, 4}),
        ({"top_p": 0.3}, {1}),  # the likeliest stays although it alone is more
        ({"top_p": 0.6}, {1, 3}),  # mass before them: 0, 0.4; before the next 0.7
        ({"top_p": 0.75}, {1, 3, 4}),  # before the third 0.7 < 0.75, before the fourth 0.85
        ({"min_p": 0.3}, {1, 3, 4}),  # floor 0.3 * 0.4 = 0.12
        ({"min_p": 0.9}, {1}),
        ({"min_p": 0.3, "top_p": 0.8}, {1, 3}),  # of 0.85 left: 0.47, 0.35, 0.18; before the third 0.82
        ({"top_k": 3, "min_p": 0.5}, {1, 3}),  # floor 0.2
    ],
)
def test_a_cut_token_is_never_drawn_and_a_kept_one_is(cut: dict[str, float], kept: set[int]) -> None:
    assert set(drawn(Sampling(max_new_tokens=1, **cut))) == kept  # type: ignore[arg-type]


def test_what_is_left_after_a_cut_keeps_its_odds() -> None:
    # top-k 2 leaves 0.4 and 0.3: token 1 below 4 / 7 = 0.5714 of the uniforms, token 3 above.
    uniforms = torch.tensor([0.0, 0.57, 0.572, 0.999])
    assert drawn(Sampling(max_new_tokens=1, top_k=2), uniforms) == [1, 1, 3, 3]


def test_the_cumulative_distribution_is_inverted() -> None:
    # In token order the mass ends at 0.05, 0.45, 0.55, 0.85, 1.
    uniforms = torch.tensor([0.0, 0.04, 0.06, 0.44, 0.46, 0.54, 0.56, 0.84, 0.86, 0.999])
    assert drawn(Sampling(max_new_tokens=1), uniforms) == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("vocabulary", [1, 2, 255, 256, 257, 700, 1024])
def test_large_vocabularies_are_inverted_in_token_order(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = torch.randn(50, vocabulary, generator=generator) * 3
    uniforms = torch.rand(50, generator=generator)
    tokens, _ = sample_tokens(logits, uniforms, Sampling(1))
    mass = logits.double().softmax(-1).cumsum(-1)
    for token, uniform, row in zip(tokens.tolist(), uniforms.tolist(), mass.tolist(), strict=True):
        assert row[token] > uniform - 1e-6
        assert token == 0 or row[token - 1] <= uniform + 1e-6


def test_temperature_zero_takes_the_likeliest_whatever_the_uniform() -> None:
    tokens, logprobs = sample_tokens(LOGITS.expand(2, -1), torch.tensor([0.0, 0.999]), Sampling(1, 0.0))
    assert tokens.tolist() == [1, 1]
    torch.testing.assert_close(logprobs, torch.tensor([math.log(0.4)] * 2), rtol=0, atol=1e-6)


def test_logprobs_are_those_of_the_temperature_before_any_cut() -> None:
    # At temperature 2 the odds are the roots: sqrt(0.4) / sum of roots
    # = 0.632456 / (0.223607 + 0.632456 + 0.316228 + 0.547723 + 0.387298) = 0.632456 / 2.107312 = 0.300124.
    tokens, logprobs = sample_tokens(
        LOGITS[None], torch.tensor([0.3]), Sampling(1, temperature=2.0, top_k=1, top_p=0.5, min_p=0.5)
    )
    assert tokens.tolist() == [1]
    assert float(logprobs) == pytest.approx(math.log(0.300124), abs=1e-5)


def test_drawn_tokens_follow_the_distribution() -> None:
    count = 20_000
    uniforms = torch.rand(count, generator=torch.Generator().manual_seed(0))
    tokens, _ = sample_tokens(LOGITS.expand(count, -1), uniforms, Sampling(1))
    observed = torch.bincount(tokens, minlength=5).double()
    expected = torch.tensor(PROBS, dtype=torch.float64) * count
    statistic = float(((observed - expected) ** 2 / expected).sum())
    assert statistic < 18.467  # chi-square table: 4 degrees of freedom, p = 0.001


def test_a_row_does_not_depend_on_the_rows_beside_it() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 50, generator=generator) * 3
    uniforms = torch.rand(6, generator=generator)
    sampling = Sampling(1, temperature=0.8, top_p=0.9)
    together, _ = sample_tokens(logits, uniforms, sampling)
    alone = [int(sample_tokens(logits[i : i + 1], uniforms[i : i + 1], sampling)[0]) for i in range(6)]
    assert together.tolist() == alone


def kept_by_hand(probs: list[float], top_k: int, top_p: float, min_p: float) -> set[int]:
    """The cuts in plain Python: top-k, then min-p, then top-p of what is left."""
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    kept = order[:top_k] if top_k else order
    kept = [i for i in kept if probs[i] >= min_p * probs[order[0]]]
    total, before, nucleus = sum(probs[i] for i in kept), 0.0, []
    for i in kept:
        if before < top_p * total * (1 + 1e-6):  # on the border rounding decides: either is right
            nucleus.append(i)
        before += probs[i]
    return set(nucleus)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    uniform=st.floats(0, 1 - 2**-24, width=32),
    top_k=st.integers(0, 12),
    top_p=st.floats(0.05, 1.0),
    min_p=st.floats(0, 0.9),
)
def test_only_what_all_cuts_keep_is_drawn(
    seed: int, uniform: float, top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed)) * 2
    sampling = Sampling(1, top_k=top_k, top_p=top_p, min_p=min_p * 0.999)
    tokens, _ = sample_tokens(logits, torch.tensor([uniform]), sampling)
    allowed = kept_by_hand(logits.double().softmax(-1)[0].tolist(), top_k, top_p, min_p * 0.998)
    assert int(tokens) in allowed


def test_a_uniform_at_the_very_end_draws_no_token_of_zero_mass() -> None:
    # The last tokens have no mass at all: a threshold rounded up to the total must not land on them.
    logits = torch.cat(
        [torch.randn(1000, generator=torch.Generator().manual_seed(2)), torch.full((24,), -1e4)]
    )
    tokens, _ = sample_tokens(logits[None], torch.tensor([1 - 2**-24]), Sampling(1))
    assert int(tokens) < 1000
