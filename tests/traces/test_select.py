"""Rejection sampling: what is kept of a question's completions, and in which order."""

from rewards import RubricScore, Score, parse
from rlreason.traces.select import Candidate, Selection
from rlreason.types import Example

EXAMPLE = Example([{"role": "user", "content": "2+3?"}], "5")


def candidate(
    number: int,
    think: str = "2 + 3 = 5",
    *,
    value: float | None = 1.0,
    total: float | None = 1.0,
    tokens: int = 9,
    text: str = "",
    ended: bool = True,
    place: int = 0,
) -> Candidate:
    text = text or f"<think>\n{think}\n</think>\n<answer>5</answer>"
    score = RubricScore(total, {"accuracy": Score(value, "said")})
    return Candidate(EXAMPLE, text, parse(text), score, ended, tokens, place, number)


def numbers(found: list[Candidate]) -> list[int]:
    return [one.number for one in found]


def test_what_is_wrong_without_form_cut_off_or_badly_paid_is_not_kept() -> None:
    selection = Selection("accuracy", 0, min_reward=0.5)
    group = [
        candidate(0, "zero", value=0.0),
        candidate(1, "one", value=0.999),
        candidate(2, "two", value=None),
        candidate(3, text="5"),
        candidate(4, text="<think>\na\n</think>\n<answer>5</answer> So it is 5."),
        candidate(5, "five", ended=False),
        candidate(6, "six", total=0.4),
        candidate(7, "seven", total=None),
        candidate(8, "eight", total=0.5),
        candidate(9, "nine", value=1.5),
    ]
    assert sorted(numbers(selection.distinct(group))) == [8, 9]
    assert [selection.right(one) for one in group[:3]] == [False, False, False]
    # Without a bound, what the rubric abstains on is kept, behind everything else.
    unbounded = numbers(Selection("accuracy", 0).distinct(group))
    assert sorted(unbounded) == [6, 7, 8, 9]
    assert unbounded[-2:] == [6, 7]


def test_completions_that_differ_in_white_space_alone_are_one() -> None:
    group = [candidate(0, "a  b\nc"), candidate(1, "a b c"), candidate(2, "a b d")]
    assert len(Selection("accuracy", 0).distinct(group)) == 2


def test_of_equal_ones_the_best_paid_is_kept() -> None:
    group = [candidate(0, total=0.2), candidate(1, total=0.9), candidate(2, "other", total=0.5)]
    assert numbers(Selection("accuracy", 0).distinct(group)) == [1, 2]


def test_the_highest_total_comes_first_and_length_counts_only_on_request() -> None:
    group = [candidate(n, f"way {n}", total=n / 10, tokens=10 + n) for n in range(4)]
    assert numbers(Selection("accuracy", 0).distinct(group)) == [3, 2, 1, 0]
    assert numbers(Selection("accuracy", 0, shortest=True).distinct(group)) == [0, 1, 2, 3]


def test_between_equals_the_seed_draws_and_no_length_is_preferred() -> None:
    def first(place: int, seed: int) -> int:
        group = [candidate(n, f"way {n}", tokens=n, place=place) for n in range(4)]
        chosen = Selection("accuracy", seed).distinct(group)
        assert chosen == Selection("accuracy", seed).distinct(list(reversed(group)))
        return chosen[0].number

    drawn = [first(place, 0) for place in range(80)]
    assert set(drawn) == {0, 1, 2, 3}
    assert max(map(drawn.count, range(4))) < 40  # 20 each are expected, with a deviation of 3.9
    assert [first(place, 1) for place in range(80)] != drawn
