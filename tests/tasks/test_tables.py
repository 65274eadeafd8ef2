from decimal import Decimal

import datasets
import pandas
import pytest

from rlreason.config.data import TaskConfig
from rlreason.errors import UserError
from rlreason.tasks import load_tasks
from rlreason.tasks.examples import gold_text, prompt_messages
from rlreason.tasks.tables import read_file


def load(task, eval_questions=1):
    return load_tasks(task, seed=0, eval_questions=eval_questions)


def everything(data):
    return {example.question: example.answer for example in [*data.train, *data.held_out]}


ROWS = [
    {"question": "1+1?", "answer": "2", "level": "easy"},
    {"question": "é+é?", "answer": "2é", "level": "odd"},
    {"question": 'a\nb, "c"?', "answer": "007", "level": "hard"},
]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_three_kinds_of_files_hold_the_same_questions(kind, tmp_path, table):
    path = tmp_path / f"rows.{kind}"
    frame = pandas.DataFrame(ROWS)
    if kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif kind == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    data = load(table(str(path)))
    assert everything(data) == {row["question"]: row["answer"] for row in ROWS}
    levels = {example.question: example.metadata for example in [*data.train, *data.held_out]}
    assert levels == {row["question"]: {"level": row["level"]} for row in ROWS}


def test_whole_numbers_that_pandas_made_floats_are_whole(tmp_path, table):
    path = tmp_path / "rows.parquet"
    pandas.DataFrame({"question": ["a", "b", "c"], "answer": [42.0, -7.0, 0.5]}).to_parquet(path)
    assert everything(load(table(str(path)))) == {"a": "42", "b": "-7", "c": "0.5"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (" 42 ", "42"),
        ("42.0", "42.0"),  # as its owner wrote it
        (42, "42"),
        (42.0, "42"),
        (1e20, "100000000000000000000"),
        (-0.25, "-0.25"),
        (Decimal("3.00"), "3"),
        (Decimal("3.10"), "3.10"),
        (True, "True"),
        ("", None),
        (" \n", None),
        (None, None),
        (float("nan"), None),
        (float("inf"), None),
        ([1], None),
        ({"a": 1}, None),
    ],
)
def test_gold_answers_as_text(value, text):
    assert gold_text(value) == text


def test_prompts_are_text_or_messages_that_end_with_the_user():
    user, assistant = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}
    assert prompt_messages("hi") == [user]
    assert prompt_messages([user, assistant, user]) == [user, assistant, user]
    assert prompt_messages([{**user, "name": None}]) == [user]
    for bad in (
        "",
        " ",
        None,
        3,
        [],
        ["hi"],
        [user, assistant],
        [{"role": "user"}],
        [{**user, "role": "me"}],
    ):
        assert prompt_messages(bad) is None


def test_a_missing_column_names_file_column_and_those_present(jsonl, table):
    path = jsonl(ROWS)
    with pytest.raises(UserError) as e:
        load(table(path, columns={"prompt": "questoin", "answer": "answer"}))
    assert f"task.name: {path} has no column 'questoin'; did you mean 'question'?" in str(e.value)
    assert "There are answer, level, question" in str(e.value)
    assert "task.columns.prompt" in str(e.value)


def test_empty_gold_answers_are_refused_with_their_rows(jsonl, table):
    rows = [{"question": f"q{n}", "answer": n} for n in range(1, 11)]
    for number in (2, 4, 5, 7, 8, 10):
        rows[number - 1]["answer"] = [None, "", " ", float("nan")][number % 4]
    with pytest.raises(
        UserError, match=r"empty or unreadable in 6 of 10 rows \(rows 2, 4, 5, 7, 8, \.\.\.\)"
    ):
        load(table(jsonl(rows)))
    with pytest.raises(UserError, match=r"in 1 of 2 rows \(row 2\)"):
        load(table(jsonl([{"question": "a", "answer": 1}, {"question": "b"}])))


def test_empty_prompts_are_refused_with_their_rows(jsonl, table):
    rows = [{"question": "a", "answer": 1}, {"question": " ", "answer": 1}, {"question": [], "answer": 1}]
    with pytest.raises(UserError, match=r"the prompt \(column 'question'\).* in 2 of 3 rows \(rows 2, 3\)"):
        load(table(jsonl(rows)))


def test_a_short_line_of_a_csv_file_is_an_empty_answer(tmp_path, table):
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\na,1\nb\nc,NA\n")
    with pytest.raises(UserError, match=r"in 1 of 3 rows \(row 2\)"):  # NA is text, such as a choice
        load(table(str(path)))


def test_columns_that_some_rows_lack_are_none(jsonl, table):
    rows = [{"question": "a", "answer": 1}, {"question": "b", "answer": 1, "hint": "h"}]
    data = load(table(jsonl(rows)))
    hints = {example.question: example.metadata for example in [*data.train, *data.held_out]}
    assert hints == {"a": {"hint": None}, "b": {"hint": "h"}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", b'{"a": 1}\n\n{"a": \n', "line 3 is not JSON"),
        ("rows.jsonl", b"[1]\n", "line 1 is not an object"),
        ("rows.jsonl", b"\n", "has no rows"),
        ("rows.jsonl", b'{"a": "\xff"}', "cannot be read"),
        ("rows.csv", b"", "cannot be read"),
        ("rows.csv", b"a,b\n", "has no rows"),
        ("rows.csv", b"a,b\n1,2\n1,2,3\n", "cannot be read"),
        ("rows.parquet", b"not parquet", "cannot be read"),
        ("rows.xlsx", b"", r"is no \.jsonl, \.csv, \.parquet file"),
    ],
)
def test_unreadable_files_are_refused(name, content, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as e:
        read_file(path, field="task.name")
    assert str(e.value).startswith(f"task.name: {path}")


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        read_file(tmp_path / "none.jsonl", field="task.name")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_file(tmp_path / "folder.jsonl", field="task.name")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    for name, text in (("a.csv", "question,answer\nq,1\n"), ("a.jsonl", '{"question": "q", "answer": "1"}')):
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert read_file(tmp_path / name, field="f") == [(1, {"question": "q", "answer": "1"})]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set of two splits as a folder, which `datasets` loads without a hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "sums"
    folder.mkdir()
    (folder / "train.csv").write_text("question,answer\n1+1?,2\n1+2?,3\n1+3?,4\n")
    (folder / "test.csv").write_text("question,answer\n1+3?,4\n1+4?,5\n")
    columns = {"prompt": "question", "answer": "answer"}
    return TaskConfig(source="dataset", name=str(folder), columns=columns)


def test_a_data_set_with_a_held_out_split(folder):
    data = load(folder.model_copy(update={"eval_split": "test"}), eval_questions=10)
    assert {example.question: example.answer for example in data.held_out} == {"1+3?": "4", "1+4?": "5"}
    assert {example.question for example in data.train} == {"1+1?", "1+2?"}
    assert data.report["in_held_out"] == 1


def test_a_data_set_without_one_gives_some_away(folder):
    data = load(folder)
    assert len(data.held_out) == 1
    assert everything(data) == {"1+1?": "2", "1+2?": "3", "1+3?": "4"}


@pytest.mark.parametrize(
    ("update", "message"),
    [
        ({"split": "tran"}, "split 'tran' cannot be loaded: Unknown split \"tran\""),
        ({"subset": "hard"}, "subset 'hard'.*cannot be loaded"),
        ({"eval_split": "tset"}, "task.eval_split: .*split 'tset' cannot be loaded"),
        ({"columns": {"prompt": "question", "answer": "gold"}}, "has no column 'gold'"),
    ],
)
def test_mistakes_about_a_data_set_are_explained(folder, update, message):
    with pytest.raises(UserError, match=message):
        load(TaskConfig(**{**folder.model_dump(), **update}))


def test_a_hub_out_of_reach_is_named(monkeypatch):
    def unreachable(*args, **options):
        raise ConnectionError("Couldn't reach 'openai/gsm8k' on the Hub (LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(UserError, match="the hub could not be reached for data set 'openai/gsm8k'") as e:
        load(TaskConfig(source="dataset", name="openai/gsm8k", subset="main"))
    assert "set task.source to file" in str(e.value)
