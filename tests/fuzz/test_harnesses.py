"""The fuzzing harnesses work: oracles pass what is right and catch what is wrong. Fuzzing is run by hand."""

import importlib.util
import random
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def harness(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PARSE, ACCURACY = harness("fuzz_parse"), harness("fuzz_accuracy")
GOLDS: list[tuple[str, str, Any, list[str]]] = ACCURACY.GOLDS


@pytest.mark.parametrize("module", [PARSE, ACCURACY], ids=["parse", "accuracy"])
def test_any_bytes_can_be_tried(module: ModuleType) -> None:
    generator = random.Random(7)
    for _ in range(300):
        module.check(generator.randbytes(generator.randrange(40)))


@pytest.mark.parametrize("name", PARSE.SPECS)
def test_the_plain_reading_of_a_form_finds_what_was_rendered(name: str) -> None:
    spec = PARSE.SPECS[name]
    text = spec.render("2 + 2 = 4", "{4}")
    assert PARSE.kept(text, spec) == ("2 + 2 = 4", "{4}")
    for broken in (f"so {text}", text.replace("</think>", ""), f"{text}<think>", text.replace("4}", ""), "4"):
        kept = PARSE.kept(broken, spec)
        assert kept is None or name in ("think_text", "think_hash", "think_answer"), broken
        assert kept != ("2 + 2 = 4", "{4}")


def test_a_wrong_parser_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    parse = PARSE.parse

    def forgiving(text: str, prefill: str = "", spec: Any = None) -> Any:
        return parse(text.replace("<think><think>", "<think>"), prefill, spec)

    monkeypatch.setattr(PARSE, "parse", forgiving)
    doubled = bytes([0, 0x80, 0x80]) + b"r"  # <think><think>r
    with pytest.raises(AssertionError):
        PARSE.check(doubled)


@pytest.mark.parametrize("row", range(len(GOLDS)), ids=lambda row: GOLDS[row][0])
def test_what_is_right_earns_and_no_oracle_objects(row: int) -> None:
    gold, kind, different, right = GOLDS[row]
    assert [answer for answer in right if ACCURACY.score(answer, gold, kind) != 1.0] == []
    assert [answer for answer in right if different(answer)] == []


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        (0, ["41", "-42", "4 2 1", "42 or 43", "not 42", "42, 43", "420", "21 + 22", "4.2"]),
        (1, ["5", "-4", "-5 or 5"]),
        (2, ["100", "1,000,000"]),
        (3, ["5", "2", "25%"]),
        (6, ["A", "A or B", "B C", "not B", ""]),
        (7, ["York", "New York or Boston", ""]),
        (8, ["{1}", "1, 2, 3", "1, 1, 2", "12"]),
    ],
)
def test_an_oracle_knows_another_value(row: int, answers: list[str]) -> None:
    assert [answer for answer in answers if not GOLDS[row][2](answer)] == []


def test_expressions_are_told_apart_by_their_values() -> None:
    gold = dict(ACCURACY.EXPRESSIONS)["2x + 1"]
    # Bytes: 9 adds or subtracts what 2 (x), 0 1 (the number 1) and so on spell, and 1 behind them adds.
    text, same = ACCURACY.expression(iter([9, 9, 2, 2, 1, 0, 1, 1]))
    assert text == "((x + x) + 1)"
    assert not ACCURACY.apart(gold, same)
    text, other = ACCURACY.expression(iter([9, 2, 0, 1, 0]))
    assert text == "(x - (1))"
    assert ACCURACY.apart(gold, other)
