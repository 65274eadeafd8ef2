import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlreason.config.data import TaskConfig
from rlreason.errors import UserError
from rlreason.tasks import TaskData, load_tasks, question_key, row_numbers
from rlreason.types import Example


def ask(*questions):
    return [{"question": question, "answer": 1} for question in questions]


def keys(examples):
    return {question_key(example) for example in examples}


def user(*contents, system=None):
    messages = [{"role": "user", "content": content} for content in contents]
    start = [{"role": "system", "content": system}] if system else []
    return Example([*start, *messages], "1")


def test_what_makes_two_questions_the_same():
    assert question_key(user("What is  2+2?\n")) == question_key(user("what is 2+2?"))
    assert question_key(user("caf\u00e9")) == question_key(user("cafe\u0301"))  # composed, decomposed
    assert question_key(user("2+2?", system="Be brief.")) == question_key(user("2+2?"))
    assert question_key(user("2+2?", "Why?")) != question_key(user("3+3?", "Why?"))
    assert question_key(user("2+2?")) != question_key(user("2+3?"))


def test_a_question_on_both_sides_cannot_be_built():
    with pytest.raises(AssertionError, match="1 questions are both trained on and held out: '2\\+2\\?'"):
        TaskData([user("2+2?"), user("1+1?")], [user("2+2? ")], {})


questions = st.lists(st.text("abAB \u00e9", min_size=1).filter(str.strip), min_size=1, max_size=30)


@given(questions, st.integers(0, 10), st.integers(0, 2**63))
@settings(max_examples=40, deadline=None)
def test_a_file_is_split_into_disjoint_distinct_parts(tmp_path_factory, texts, eval_questions, seed):
    path = tmp_path_factory.mktemp("split") / "rows.csv"
    path.write_text("question,answer\n" + "".join(f'"{text}",1\n' for text in texts), encoding="utf-8")
    task = TaskConfig(source="file", name=str(path), columns={"prompt": "question"})
    different = {question_key(user(text)) for text in texts}
    if len(different) - eval_questions < max(1, eval_questions):
        with pytest.raises(UserError, match=r"eval\.questions"):
            load_tasks(task, seed=seed, eval_questions=eval_questions)
        return
    data = load_tasks(task, seed=seed, eval_questions=eval_questions)
    assert len(data.held_out) == len(keys(data.held_out)) == eval_questions
    assert len(data.train) == len(keys(data.train)) == len(different) - eval_questions
    assert keys(data.train) | keys(data.held_out) == different


def test_held_out_rows_do_not_depend_on_seed_train_size_or_order(jsonl, table):
    rows = ask(*(f"q{n}" for n in range(40)))
    data = load_tasks(table(jsonl(rows)), seed=0, eval_questions=10)
    turned = table(jsonl(rows[::-1], "turned.jsonl"), train_size=5)
    other = load_tasks(turned, seed=1, eval_questions=10)
    assert other.held_out == data.held_out
    assert len(other.train) == other.report["train"] == 5
    assert other.report["unused"] == 25  # 40 rows, 10 held out, 5 trained on


def test_the_seed_orders_and_chooses_training_rows(jsonl, table):
    task = table(jsonl(ask(*(f"q{n}" for n in range(40)))), train_size=20)
    first, second = (load_tasks(task, seed=seed, eval_questions=10) for seed in (0, 1))
    assert first.train != second.train
    assert load_tasks(task, seed=0, eval_questions=10) == first


@given(st.lists(st.integers(0, 999), min_size=30, max_size=60, unique=True), st.integers(1000, 1999))
@settings(max_examples=20, deadline=None)
def test_a_new_row_moves_at_most_one_held_out_question(tmp_path_factory, numbers, new):
    path = tmp_path_factory.mktemp("grow") / "rows.csv"
    task = TaskConfig(source="file", name=str(path))
    sets = []
    for content in (numbers, [*numbers, new]):
        path.write_text("prompt,answer\n" + "".join(f"q{number},1\n" for number in content))
        sets.append(keys(load_tasks(task, seed=0, eval_questions=10).held_out))
    assert len(sets[0] - sets[1]) <= 1


def test_duplicate_questions_are_dropped_and_counted(jsonl, table):
    data = load_tasks(table(jsonl(ask("a", "A", "b", " b ", "c"))), seed=0, eval_questions=1)
    assert data.report == {
        "read": 5, "duplicates": 2, "in_held_out": 0, "unused": 0,
        "without_gold": 0, "train": 2, "held_out": 1,
    }  # fmt: skip


def test_too_few_rows_to_split_are_refused(jsonl, table):
    path = jsonl(ask(*"abcde"))
    with pytest.raises(
        UserError, match=r"eval.questions: 3 of the 5 .*leaves 2 to train on; lower it to at most 2"
    ):
        load_tasks(table(path), seed=0, eval_questions=3)
    assert len(load_tasks(table(path), seed=0, eval_questions=2).train) == 3


def test_an_own_held_out_file(jsonl, table):
    own = jsonl(ask("c", "C ", "x", "y", "z"), "eval.jsonl")
    task = table(jsonl(ask("a", "b", "c", "d")), eval_name=own)
    data = load_tasks(task, seed=0, eval_questions=10)
    assert keys(data.held_out) == {"c", "x", "y", "z"}
    assert keys(data.train) == {"a", "b", "d"}
    assert data.report == {
        "read": 9, "duplicates": 1, "in_held_out": 1, "unused": 0,
        "without_gold": 0, "train": 3, "held_out": 4,
    }  # fmt: skip
    assert len(load_tasks(task, seed=0, eval_questions=3).held_out) == 3


def test_a_held_out_file_that_holds_all_is_refused(jsonl, table):
    path = jsonl(ask("a", "b"))
    with pytest.raises(UserError, match="also held out; give others to train on"):
        load_tasks(table(path, eval_name=path), seed=0, eval_questions=10)


def test_a_mistake_in_the_held_out_file_names_its_field(jsonl, table):
    with pytest.raises(UserError, match=r"task.eval_name: .* has no column 'question'"):
        load_tasks(table(jsonl(ask("a")), eval_name=jsonl([{"q": 1}], "e.jsonl")), seed=0, eval_questions=1)


def test_rows_are_found_again_by_their_questions(jsonl, table):
    path, held_out = jsonl(ask("a?", "b?", "A?", "c?")), jsonl(ask("c?", "d?"), name="held_out.jsonl")
    places = row_numbers(table(path, eval_name=held_out))
    # "A?" is "a?" again; "c?" is asked in evaluation, so that it is the held-out row.
    assert places == {
        "a?": f"{path}, row 1",
        "b?": f"{path}, row 2",
        "c?": f"{held_out}, row 1",
        "d?": f"{held_out}, row 2",
    }
    assert row_numbers(TaskConfig(name="chain_sum")) == {}
