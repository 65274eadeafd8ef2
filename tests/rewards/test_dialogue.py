"""How values travel between tests and program."""

import json
from collections import deque
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.dialogue import NO_VALUE, decode, encode

plain_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.datetimes()
    | st.dates()
    | st.times(),
    lambda part: st.lists(part) | st.tuples(part, part) | st.dictionaries(st.text() | st.integers(), part),
    max_leaves=10,
)


def refuse(item: Any) -> Any:
    raise AssertionError(item)


def sent(value: Any) -> Any:
    return decode(json.loads(json.dumps(encode(value, refuse))), refuse)


@given(plain_data)
def test_plain_data_comes_back_as_it_went(value: Any) -> None:
    back = sent(value)
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize(
    "value",
    [
        {1, 2}, frozenset({1}), deque([1, "a"]), range(2, 9, 3), bytearray(b"x"), Decimal("1.50"), "\ud800",
        date(2024, 2, 29), datetime(2024, 2, 29, 1, 2, 3, 4), time(5, 6), pytest.param(10**5000, id="long"),
    ],
)  # fmt: skip
def test_other_data_comes_back_as_it_went(value: Any) -> None:
    back = sent(value)
    assert (back, type(back)) == (value, type(value))


def test_what_a_subclass_says_of_itself_is_left_behind() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    assert type(sent(Liar(7))) is int
    assert sent([Liar(7)]) != [8]


@pytest.mark.parametrize(
    "message",
    [
        {}, {"a": 1, "b": 2}, {"no": 1}, {"int": 5}, {"int": "x"}, {"bytes": 3}, {"bytes": "zz"},
        {"tuple": 3}, {"set": [[]]}, {"dict": [[1]]}, {"dict": [[[], 1]]}, {"dict": 3}, {"complex": 3},
        {"complex": [1, 2, 3]}, {"slice": [1, 2, 3, 4]}, {"range": [1, 2, 0]}, {"range": ["x"]},
        {"Fraction": "1/0"}, {"Fraction": []}, {"Decimal": "x"}, {"Decimal": {}}, {"date": "x"},
        {"datetime": 3}, {"time": None}, {"deque": None},
    ],
)  # fmt: skip
def test_what_is_no_value_is_an_error_of_a_known_kind(message: Any) -> None:
    with pytest.raises(NO_VALUE):
        decode(message, refuse)
