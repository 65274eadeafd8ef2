"""Groups of completions of random tokens, for what packs them."""

from dataclasses import replace

from hypothesis import strategies as st
from tiny import random_ids

from rlreason.policy.packing import Completion

Shape = list[tuple[int, list[int]]]
"""Of each group the length of its prompt, and those of its completions."""


def completions(shape: Shape) -> list[Completion]:
    return [
        Completion(group, random_ids(length, seed=group), random_ids(tokens, seed=50 + 10 * group + number))
        for group, (length, lengths) in enumerate(shape)
        for number, tokens in enumerate(lengths)
    ]


GROUPS = completions([(6, [4, 1, 7, 3]), (11, [2, 5]), (3, [6])])
BEGINNING = random_ids(17, seed=9)


def begun(sequences: list[Completion]) -> list[Completion]:
    """The same, all prompts behind the same tokens."""
    return [replace(one, prompt_ids=[*BEGINNING, *one.prompt_ids]) for one in sequences]


def shapes(
    *, prompt: st.SearchStrategy[int], tokens: int, completions: int, groups: int
) -> st.SearchStrategy[Shape]:
    """Up to so many groups, of up to so many completions of up to so many tokens."""
    lengths = st.lists(st.integers(1, tokens), min_size=1, max_size=completions)
    return st.lists(st.tuples(prompt, lengths), min_size=1, max_size=groups)
