"""Files of preference pairs: what is read, and what is refused with its row."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rlreason.errors import UserError
from rlreason.tasks import Pair, load_pairs


def saved(path: Path, *rows: Any) -> list[str]:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return [str(path)]


USER = ({"role": "user", "content": "2 + 2?"},)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {
            "prompt": [{"role": "user", "content": "2 + 2?"}],
            "chosen": [{"role": "assistant", "content": "4"}],
            "rejected": [{"role": "assistant", "content": "5"}],
        },
        {
            "chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
            "rejected": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "5"}],
        },
        {
            "prompt": "2 + 2?",
            "chosen": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
            "rejected": "5",
        },
        {"prompt": "2 + 2?", "ranked": ["4", "5"]},
        {"prompt": "2 + 2?", "ranked": [{"role": "assistant", "content": "4"}, "5"]},
    ],
)
def test_the_formats_of_a_pair(tmp_path: Path, row: dict[str, Any]) -> None:
    assert load_pairs(saved(tmp_path / "pairs.jsonl", row)) == [Pair(USER, "4", "5")]


def test_every_two_of_ranked_completions_are_a_pair(tmp_path: Path) -> None:
    pairs = load_pairs(saved(tmp_path / "pairs.jsonl", {"prompt": "2 + 2?", "ranked": ["a", "b", "c"]}))
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]


def test_a_margin_is_read_from_any_file(tmp_path: Path) -> None:
    rows = saved(tmp_path / "a.jsonl", {"prompt": "p", "chosen": "a", "rejected": "b", "margin": 0.5})
    (tmp_path / "b.csv").write_text("prompt,chosen,rejected,margin\np,a,b,2\nq,a,b,\n", encoding="utf-8")
    assert [pair.margin for pair in load_pairs([*rows, str(tmp_path / "b.csv")])] == [0.5, 2.0, None]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same: 'a'"),
        ({"prompt": "p", "chosen": " ", "rejected": "a"}, "chosen is empty"),
        ({"prompt": "p", "chosen": "a", "rejected": ""}, "rejected is empty"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt is empty"),
        ({"prompt": "p", "chosen": "a"}, "it has no rejected"),
        ({"chosen": "a", "rejected": "b"}, "it has no prompt"),
        ({"prompt": "p", "ranked": ["a"]}, "ranked holds 1 completion, and a pair needs two"),
        ({"prompt": "p", "ranked": ["a", "a"]}, "the same"),
        (
            {"prompt": "p", "chosen": "a", "rejected": "b", "margin": "much"},
            "margin 'much' is no finite number",
        ),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": math.nan}, "margin nan is no finite"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": "inf"}, "margin 'inf' is no finite"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": [1]}, "margin [1] is no finite"),
        ({"prompt": "p", "chosen": "a", "rejected": "b", "margin": True}, "margin True is no finite"),
        ({"prompt": "p", "chosen": "a ", "rejected": " a"}, "the same"),
        ({"prompt": ["p"], "chosen": "a", "rejected": "b"}, "prompt holds 'p', and no message"),
        ({"prompt": [{"content": "p"}], "chosen": "a", "rejected": "b"}, "prompt holds {'content': 'p'}"),
        (
            {"prompt": "p", "chosen": [{"role": "user", "content": "a"}], "rejected": "b"},
            "the last message of chosen is by 'user' and not by the assistant",
        ),
        (
            {
                "prompt": "p",
                "chosen": "a",
                "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
            },
            "rejected has 1 messages before the last, and they are not the prompt",
        ),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt is 3, and no list"),
        ({"prompt": "p", "chosen": [{"role": "assistant"}], "rejected": "b"}, "chosen holds"),
        (
            {
                "chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}],
                "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"}],
            },
            "there is no prompt",
        ),
    ],
)
def test_what_is_no_pair_is_refused_with_its_row(tmp_path: Path, row: Any, message: str) -> None:
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    with pytest.raises(UserError) as caught:
        load_pairs(saved(tmp_path / "pairs.jsonl", good, row))
    assert "reward_model.pairs:" in str(caught.value)
    assert "row 2: " in str(caught.value)
    assert message in str(caught.value)


def test_many_mistakes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="and 5 more"):
        load_pairs(saved(tmp_path / "pairs.jsonl", *[{"prompt": "p", "chosen": "a", "rejected": "a"}] * 10))
