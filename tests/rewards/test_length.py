"""length_cosine and length_overlong: the equations by hand, their order, and what they refuse."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import REWARDS, SPECS, Rubric, Term

RIGHT = "<think>r</think><answer>4</answer>"
WRONG = "<think>r</think><answer>5</answer>"


def ids(tokens: int) -> list[int]:
    return list(range(tokens))


def cosine(text: str, tokens: int, answer: str = "4", **options: Any) -> float | None:
    reward = REWARDS["length_cosine"].with_options(**{"max_tokens": 4, **options})
    return reward(completions=[text], answer=[answer], completion_ids=[ids(tokens)])[0]


def overlong(tokens: int, **options: Any) -> float | None:
    reward = REWARDS["length_overlong"].with_options(**options)
    return reward(completions=["text"], completion_ids=[ids(tokens)])[0]


# cos(pi / 4) = 0.70710678, so that 1 + cos is 1.70710678 after a quarter and 0.29289322 after three.
# right: 1 + (2 - 1) / 2 * (1 + cos), wrong: 0 + (-10 - 0) / 2 * (1 + cos)
@pytest.mark.parametrize(
    ("text", "values"),
    [
        (RIGHT, [2.0, 1.85355339, 1.5, 1.14644661, -10.0, -10.0]),
        (WRONG, [-10.0, -8.53553391, -5.0, -1.46446609, -10.0, -10.0]),
        ("no form", [-10.0, -8.53553391, -5.0, -1.46446609, -10.0, -10.0]),
        ("", [-10.0, -8.53553391, -5.0, -1.46446609, -10.0, -10.0]),
    ],
)
def test_cosine_at_each_length(text: str, values: list[float]) -> None:
    assert [cosine(text, tokens) for tokens in range(6)] == pytest.approx(values, abs=1e-8)


def test_cosine_with_values_of_ones_own() -> None:
    # Halfway the cosine is 0, and the value the mean of the two ends.
    options = {"right_short": 1.0, "right_long": 0.5, "wrong_short": -1.0, "wrong_long": -0.5}
    assert cosine(RIGHT, 2, **options) == pytest.approx(0.75)
    assert cosine(WRONG, 2, **options) == pytest.approx(-0.75)
    assert cosine(RIGHT, 4, exceeded=-0.5, **options) == -0.5


def test_cosine_abstains_where_the_gold_answer_cannot_be_read() -> None:
    assert cosine(RIGHT, 1, answer="\\badlatex{") is None
    assert cosine(RIGHT, 9, answer="\\badlatex{") is None


def test_cosine_reads_the_answer_as_accuracy_does() -> None:
    reward = REWARDS["length_cosine"].with_options(max_tokens=4).with_spec(SPECS["think_boxed"])
    columns = {"answer": ["4", "B"], "answer_type": [None, "choice"], "completion_ids": [ids(2)] * 2}
    assert reward(
        completions=["<think>r</think>\\boxed{4.0}", "<think>r</think>\\boxed{(b)}"], **columns
    ) == [
        1.5,
        1.5,
    ]


lengths = st.integers(0, 300)
three_lengths = st.lists(lengths, min_size=3, max_size=3, unique=True).map(sorted)


@settings(deadline=None)
@given(three=three_lengths)
def test_cosine_prefers_right_to_wrong_and_falls_and_rises(three: list[int]) -> None:
    short, long, longest = three
    right, longer_right, wrong, longer_wrong = (
        cosine(text, tokens, max_tokens=longest) for text in (RIGHT, WRONG) for tokens in (short, long)
    )
    assert right is not None
    assert longer_right is not None
    assert wrong is not None
    assert longer_wrong is not None
    assert 2.0 >= right > longer_right >= 1.0
    assert -10.0 <= wrong < longer_wrong <= 0.0


# Of 10 tokens with a cache of 4, 6 are free; then it is a quarter for each token.
@pytest.mark.parametrize(
    ("tokens", "value"), [(0, 0), (6, 0), (7, -0.25), (8, -0.5), (9, -0.75), (10, -1), (11, -1), (999, -1)]
)
def test_overlong_by_hand(tokens: int, value: float) -> None:
    assert overlong(tokens, max_tokens=10, cache_tokens=4) == value


def test_overlong_with_the_lengths_of_the_paper() -> None:
    # 16,384 tokens are free, and the buffer of 4,096 is a fifth of 20,480: (16384 - 18432) / 4096 = -0.5.
    assert [overlong(tokens, max_tokens=20480) for tokens in (16384, 18432, 20480, 20481)] == [
        0,
        -0.5,
        -1,
        -1,
    ]


def test_overlong_gives_no_negative_zero() -> None:
    value = overlong(1, max_tokens=10)
    assert math.copysign(1.0, value or 0.0) == 1.0


@given(longest=st.integers(1, 300), share=st.floats(0, 1), both=st.tuples(lengths, lengths).map(sorted))
def test_overlong_is_a_penalty_that_grows(longest: int, share: float, both: list[int]) -> None:
    short, long = both
    options = {"max_tokens": longest, "cache_tokens": max(1, int(share * longest))}
    first, second = overlong(short, **options), overlong(long, **options)
    assert first is not None
    assert second is not None
    assert -1.0 <= second <= first <= 0.0


def test_ids_may_be_tensors_or_arrays() -> None:
    torch = pytest.importorskip("torch")
    reward = REWARDS["length_overlong"].with_options(max_tokens=4, cache_tokens=4)
    assert reward(completions=["a", "b"], completion_ids=torch.tensor([[1, 2], [3, 4]])) == [-0.5, -0.5]
    assert reward(completions=["a"], completion_ids=[(1, 2)]) == [-0.5]


@pytest.mark.parametrize("name", ["length_cosine", "length_overlong", "repetition"])
def test_a_missing_column_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' needs the column 'completion_ids'"):
        REWARDS[name](completions=[RIGHT], answer=["4"])


@pytest.mark.parametrize("name", ["length_cosine", "length_overlong", "repetition"])
@pytest.mark.parametrize("cell", [None, "abc", 7, {"a": 1}])
def test_a_cell_without_ids_is_an_error(name: str, cell: Any) -> None:
    with pytest.raises(ValueError, match=f"'{name}' counts tokens: give the column 'completion_ids'"):
        REWARDS[name](completions=[RIGHT], answer=["4"], completion_ids=[cell])


@pytest.mark.parametrize("name", ["length_cosine", "length_overlong"])
@pytest.mark.parametrize("value", [None, 0, -1, True, 1.5, "8"])
def test_the_limit_must_be_given(name: str, value: Any) -> None:
    with pytest.raises(
        ValueError, match=rf"'max_tokens'.* not {value!r}: set rewards.{name}.args.max_tokens"
    ):
        REWARDS[name].with_options(max_tokens=value)(completions=[RIGHT], answer=["4"], completion_ids=[[1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"wrong_long": 0.5}, "wrong_long=0.5, exceeded=-10.0, being wrong or too long could earn more"),
        ({"exceeded": 0.1}, "exceeded=0.1, being wrong or too long could earn more"),
        ({"right_long": -1.0}, "right_long=-1.0, .*none of the last three may be"),
        (
            {"wrong_short": math.nan},
            "wrong_short=nan must be a finite number: set rewards.length_cosine.args",
        ),
        ({"right_short": math.inf}, "right_short=inf must be a finite number"),
        ({"exceeded": "-1"}, "exceeded='-1' must be a finite number"),
    ],
)
def test_cosine_refuses_values_that_pay_for_being_wrong(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cosine(RIGHT, 1, **options)


def test_overlong_refuses_a_cache_that_is_too_large() -> None:
    with pytest.raises(ValueError, match="cache_tokens=5 is more than max_tokens=4: give less"):
        overlong(1, max_tokens=4, cache_tokens=5)
    with pytest.raises(ValueError, match="'cache_tokens', a whole number above 0, not 0"):
        overlong(1, max_tokens=4, cache_tokens=0)


def test_an_option_that_is_missing_fails_in_a_rubric_with_the_remedy() -> None:
    rubric = Rubric([Term("length_overlong", REWARDS["length_overlong"])])
    (score,) = rubric.score([RIGHT], columns={"completion_ids": [[1]]})
    assert score.total is None
    assert score.parts["length_overlong"].failed
    assert "set rewards.length_overlong.args.max_tokens" in score.parts["length_overlong"].reason
