"""What the stage sft reads: the forms of rows, what becomes of each, and which are refused."""

import json
from pathlib import Path

import pandas
import pytest

from rlreason.errors import UserError
from rlreason.tasks import Turn, load_traces
from rlreason.types import Example

U, A, S = "user", "assistant", "system"


def said(*turns):
    """Messages out of (role, content) pairs."""
    return [{"role": role, "content": content} for role, content in turns]


def found_in(path, exclude=()):
    return load_traces(path, exclude=exclude).found


def turn(*prompt, completion, reasoning=""):
    return Turn(tuple(said(*prompt)), completion, reasoning)


@pytest.mark.parametrize("think", ["think", "reasoning", "derivation"])
@pytest.mark.parametrize("asked", ["prompt", "question"])
def test_worked_solutions(asked, think, jsonl):
    rows = [
        {asked: "2+3?", think: " 2 + 3 = 5\n", "answer": 5, "source": "me"},
        {asked: said((U, "2+4?")), think: "2 + 4 = 6", "answer": "6"},
    ]
    first, second = found_in(jsonl(rows))
    assert (first.think, first.answer, first.style) == ("2 + 3 = 5", "5", "file")
    assert first.example == Example(said((U, "2+3?")), "5", {"source": "me"})
    assert second.example.question == "2+4?"


def test_instructions_with_and_without_input(jsonl):
    rows = [
        {"instruction": "Add.", "input": "2 and 3", "output": "5\n", "id": 7},
        {"instruction": "Say hi.", "input": "", "output": "Hi."},
        {"instruction": "Say ho.", "output": "<think>\neasy\n</think>\nHo."},
    ]
    assert found_in(jsonl(rows)) == [
        turn((U, "Add.\n\n2 and 3"), completion="5"),
        turn((U, "Say hi."), completion="Hi."),
        turn((U, "Say ho."), completion="<think>\neasy\n</think>\nHo."),
    ]


def test_every_turn_of_the_assistant_in_messages_is_one_behind_what_came_before(jsonl):
    chat = [(S, "Be kind."), (U, "Hi"), (A, "Hello"), (U, "2+3?"), (A, "5")]
    assert found_in(jsonl([{"messages": said(*chat), "prompt": "Hi", "id": 1}])) == [
        turn(*chat[:2], completion="Hello"),
        turn(*chat[:4], completion="5"),
    ]


def test_only_the_completion_is_imitated_of_prompt_and_completion(jsonl):
    shot = [(U, "1+1?"), (A, "2"), (U, "2+3?")]
    longer = [(A, "5"), (U, "Sure?"), (A, "Yes")]
    rows = [
        {"prompt": "2+3?", "completion": "5"},
        {"prompt": said(*shot), "completion": said((A, "5"))},
        {"prompt": said(*shot), "completion": said(*longer)},
        {"prompt": said(*shot), "completion": "5"},
    ]
    assert found_in(jsonl(rows)) == [
        turn((U, "2+3?"), completion="5"),
        turn(*shot, completion="5"),
        turn(*shot, completion="5"),
        turn(*shot, *longer[:2], completion="Yes"),
        turn(*shot, completion="5"),
    ]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_that_messages_keep_apart_stays_with_its_turn(key, jsonl):
    answer = {"role": A, "content": "5", key: " 2 + 3 = 5 "}
    chat = [*said((U, "2+3?")), answer, *said((U, "Sure?")), {"role": A, "content": "Yes", key: None}]
    assert found_in(jsonl([{"messages": chat}])) == [
        turn((U, "2+3?"), completion="5", reasoning="2 + 3 = 5"),
        turn((U, "2+3?"), (A, "5"), (U, "Sure?"), completion="Yes"),
    ]


def test_other_kinds_of_files(tmp_path: Path):
    table = tmp_path / "rows.csv"
    table.write_text('instruction,input,output\n"Add.","2, 3",5\nSay hi.,,Hi.\n')
    expected = [turn((U, "Add.\n\n2, 3"), completion="5"), turn((U, "Say hi."), completion="Hi.")]
    assert found_in(table) == expected
    rows = [{"messages": [{**m, "reasoning": None} for m in said((U, "2+3?"), (A, "5"))]}]
    pandas.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    assert found_in(tmp_path / "rows.parquet") == [turn((U, "2+3?"), completion="5")]


@pytest.mark.parametrize(
    "rows",
    [
        [{"prompt": q, "think": "t", "answer": "1"} for q in ("a?", "B?  ", "c?")],
        [{"instruction": q, "output": "1"} for q in ("a?", " b?", "c?")],
        [{"prompt": q, "completion": "1"} for q in ("a?", "b?", "c?")],
        [{"messages": said((S, "Be kind."), (U, q), (A, "1"))} for q in ("a?", "b?", "c?")],
        # Of a conversation that asks it, first or later, nothing is left.
        [{"messages": said((U, q), (A, "1"), (U, "Sure?"), (A, "Yes"))} for q in ("b?", "B?")]
        + [{"messages": said((U, "Hi"), (A, "Hello"), (U, "b?"), (A, "1"))}]
        + [{"messages": said((U, q), (A, "1"))} for q in ("a?", "c?")],
        [{"prompt": said((U, q), (A, "1"), (U, "Sure?")), "completion": "Yes"} for q in ("a?", "b?", "c?")],
    ],
)
def test_held_out_questions_are_left_out_in_every_form(rows, jsonl):
    found = found_in(jsonl(rows), exclude=[Example(said((S, "?"), (U, "b?")), "1")])
    users = [[m["content"] for m in one.example.prompt if m["role"] == U] for one in found]
    assert [own[0] for own in users] == ["a?", "c?"]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "Solve this problem.", "input": "What is  2 + 3", "output": "5"},
        {"prompt": "Question: what is 2 + 3\nAnswer:", "completion": "5"},
        {"question": "Think first. What is 2 + 3", "think": "t", "answer": "5"},
        {"messages": said((U, "What is 1 + 1? 2. What is 2 + 3"), (A, "5"))},
    ],
)
def test_a_held_out_question_among_other_words_is_left_out_and_counted(row, jsonl):
    held_out = Example(said((U, "What is 2 + 3")), "5")
    assert load_traces(jsonl([row, row]), exclude=[held_out]) == ([], 2)
    other = json.loads(json.dumps(row).replace("2 + 3", "2 + 30"))  # the same letters, another question
    assert len(load_traces(jsonl([other]), exclude=[held_out]).found) == 1


def test_a_held_out_instruction_is_found_with_its_input(jsonl):
    rows = [{"instruction": "Add.", "input": i, "output": "5"} for i in ("2 and 3", "1 and 4")]
    (left,) = found_in(jsonl(rows), exclude=[Example(said((U, "Add. 2 and 3")), "5")])
    assert left.prompt[0]["content"] == "Add.\n\n1 and 4"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "a", "answer": "1"}], r"columns 'prompt', 'answer', .* 'think' is missing"),
        ([{"question": "a", "think": "t"}], r"'answer' is missing\. Accepted are: prompt \(or question\)"),
        ([{"ask": "a", "think": "t", "answer": 1}], "'ask', 'think', 'answer', .* 'prompt' is missing"),
        ([{"instruction": "a", "input": "b"}], r"of \[instruction, output.*\], 'output' is missing"),
        ([{"text": "a"}], r"'text', which are none that is known.*; messages; prompt and completion"),
        ([{"messages": said((U, "a"), (A, "b"))}, {"prompt": "a", "completion": "b"}],
         r"fit \[messages\] and \[prompt and completion\].*two files"),
        ([{"prompt": "a", "think": "t", "reasoning": "t", "answer": "1"}], "think and reasoning mean the"),
        ([{"prompt": "a", "question": "b", "think": "t", "answer": "1"}], "prompt and question mean the"),
        ([{"prompt": "a", "think": "t", "answer": ""}], r"the gold answer .* in 1 of 1 rows \(row 1\)"),
        ([{"prompt": "a", "think": " ", "answer": 1}], r"the reasoning .* in 1 of 1 rows \(row 1\)"),
        ([{"prompt": "a", "derivation": 3, "answer": 1}], r"'derivation'\) is empty or no text in 1 of 1"),
        ([{"instruction": "a", "output": "b"}, {"instruction": "a", "output": " "}], "row 2: output is ' '"),
        ([{"instruction": "a", "output": "b"}, {"instruction": "a"}], "row 2: output is empty"),
        ([{"instruction": "a", "input": 3, "output": "b"}], "row 1: input is 3, and no text"),
        ([{"messages": "hi"}], "row 1: messages is 'hi', and no list of messages"),
        ([{"messages": []}], "row 1: messages is"),
        ([{"messages": said((U, "a"))}], "row 1: messages ends with a message of the user"),
        ([{"messages": said((A, "a"))}], "a message of the assistant that follows none of the user's"),
        ([{"messages": said((U, "a"), (A, "b"), (A, "c"))}], "follows none of the user's"),
        ([{"messages": said(("tool", "a"), (A, "b"))}], "no message {role, content} of system, user"),
        ([{"messages": said((U, "a"), (A, ""))}], "the content in messages is empty"),
        ([{"messages": [*said((U, "a")), {"role": A, "content": "b", "tool_calls": [1]}]}], "call of a tool"),
        ([{"messages": [*said((U, "a")), {"role": A, "content": "b", "thinking": "x", "reasoning": "y"}]}],
         "two different ones"),
        ([{"prompt": "a", "completion": None}], "row 1: completion is None, and no list"),
        ([{"prompt": "a", "completion": said((U, "b"))}], "completion ends with a message of the user"),
        ([{"text": 1, **{f"c{n}": 1 for n in range(20)}}], r"'c10', \.\.\., which"),
    ],
)  # fmt: skip
def test_unusable_rows_are_refused(rows, message, jsonl):
    with pytest.raises(UserError, match=message):
        found_in(jsonl(rows))


def test_the_first_unusable_rows_are_named_and_the_others_counted(jsonl):
    rows = [{"messages": said((U, "a"))} for _ in range(8)]
    with pytest.raises(UserError, match=r"row 1: .*; row 5: .*; and 3 more\. Correct") as error:
        found_in(jsonl(rows))
    assert "row 6" not in str(error.value)


def test_a_row_of_jsonl_may_leave_out_what_is_optional(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"instruction": "a", "input": None, "output": "b"}) + "\n")
    assert found_in(path) == [turn((U, "a"), completion="b")]
