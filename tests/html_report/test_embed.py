"""JSON in a page: no text in it can end its script element, and it reads back as it was."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlreason.html_report.embed import embedded


@pytest.mark.parametrize(
    "text",
    [
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "]]>",
        "&lt;",
        "\u2028\u2029",
        "\x7f\x9b",
        'quote " and \\ and \n',
    ],
)
def test_what_could_end_the_element_is_escaped(text: str) -> None:
    out = embedded({"text": text})
    assert not re.search("[<>&\u2028\u2029\x00-\x1f\x7f-\x9f]", out)
    assert json.loads(out) == {"text": text}


@given(st.text(st.characters(), max_size=50))
def test_any_text_reads_back_and_can_be_written(text: str) -> None:
    out = embedded([text])
    assert json.loads(out) == [text]
    assert not set(out) & set("<>&\u2028\u2029")
    out.encode()


def test_a_lone_surrogate_can_be_written() -> None:
    assert embedded(["\ud800"]).encode() == b'["\\ud800"]'


def test_no_number_that_json_lacks_gets_in() -> None:
    with pytest.raises(ValueError, match="JSON"):
        embedded([float("nan")])
