"""Our rewards of length and repetition against TRL 1.16's, at every length and on random token ids."""

import random

import pytest
from trl.rewards import (
    get_cosine_scaled_reward,
    get_repetition_penalty_reward,
    get_soft_overlong_punishment,
)

from rewards import REWARDS, SPECS

IDS = [list(range(length)) for length in range(14)]
TEXTS = ["text"] * len(IDS)


@pytest.mark.parametrize(("longest", "cache"), [(10, 4), (10, 10), (1, 1), (12, 5)])
def test_overlong(longest: int, cache: int) -> None:
    ours = REWARDS["length_overlong"].with_options(max_tokens=longest, cache_tokens=cache)
    theirs = get_soft_overlong_punishment(max_completion_len=longest, soft_punish_cache=cache)
    assert ours(completions=TEXTS, completion_ids=IDS) == pytest.approx(theirs(completion_ids=IDS))


@pytest.mark.parametrize("ngram", [1, 2, 3, 5])
def test_repetition(ngram: int) -> None:
    draw = random.Random(0)
    ids = [[draw.randrange(4) for _ in range(length)] for length in range(60)]
    ours = REWARDS["repetition"].with_options(ngram=ngram, max_penalty=-0.5)
    theirs = get_repetition_penalty_reward(ngram_size=ngram, max_penalty=-0.5)
    assert ours(completions=["text"] * 60, completion_ids=ids) == pytest.approx(theirs(completion_ids=ids))


@pytest.mark.parametrize("answer", ["4", "5"])
def test_cosine(answer: str) -> None:
    """Below the limit: beyond it TRL stays at the long end, and we give `exceeded`, as the paper does."""
    values = {"right_short": 1.0, "right_long": 0.5, "wrong_short": -1.0, "wrong_long": -0.5}
    ours = REWARDS["length_cosine"].with_options(max_tokens=len(IDS), exceeded=-1.5, **values)
    theirs = get_cosine_scaled_reward(max_len=len(IDS))
    text = SPECS["think_answer"].render("r", rf"\boxed{{{answer}}}")
    said = [[{"role": "assistant", "content": text}]] * len(IDS)
    mine = ours(completions=[text] * len(IDS), completion_ids=IDS, answer=["4"] * len(IDS))
    assert mine == pytest.approx(theirs(said, ["4"] * len(IDS), IDS))
    beyond = [list(range(len(IDS)))]
    assert ours(completions=[text], completion_ids=beyond, answer=["4"]) == [-1.5]
