from pathlib import Path
from typing import Any

import pytest

from rewards import SPECS
from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.scoring import Scorer, rules_only, stand_in_ids, unreadable_golds
from rlreason.types import Example

RENDER = SPECS["think_answer"].render


def scorer(rewards: Any = "accuracy", **sections: Any) -> Scorer:
    task = {"name": "chain_sum", **sections.pop("task", {})}
    config = {"name": "test", "stage": "grpo", "rewards": rewards, "task": task, **sections}
    return Scorer(RunConfig.model_validate(config))


def asked(answer: str, **metadata: Any) -> Example:
    return Example([{"role": "user", "content": "How much?"}], answer, metadata)


def totals(marker: Scorer, examples: list[Example], completions: list[str]) -> list[float | None]:
    return [s.total for s in marker.score(examples, completions, [""] * len(examples), [[0]] * len(examples))]


def test_the_rubric_of_the_config_is_applied() -> None:
    marker = scorer({"accuracy": {"gate": "think_format"}, "think_format": 0.5})
    completions = [RENDER("so", "5"), RENDER("so", "6"), "<answer>5</answer>"]
    # Both right: 1 + 0.5. Form only: 0.5. No form: the gate is shut.
    assert totals(marker, [asked("5")] * 3, completions) == [1.5, 0.5, 0.0]


def test_accuracy_and_form_are_observed_even_where_they_earn_nothing() -> None:
    marker = scorer("random")
    (score,) = marker.score([asked("5")], [RENDER("so", "5")], [""], [[0]])
    assert set(score.parts) == {"random", "accuracy", "think_format"}
    assert (score.parts["accuracy"].value, score.parts["think_format"].value) == (1.0, 1.0)
    assert score.total == score.parts["random"].value


def test_without_the_learned_reward_something_still_pays() -> None:
    def weights(rewards: Any) -> dict[str, float]:
        config = {"name": "test", "stage": ["reward_model", "ppo"], "rewards": rewards, "task": {"name": "x"}}
        found = rules_only(RunConfig.model_validate(config)).rewards
        return {name: term.weight for name, term in found.items()}

    assert weights({"random": 0.5, "learned": 1.0}) == {"random": 0.5}
    assert weights({"learned": 1.0}) == {"accuracy": 1.0}
    assert weights({"accuracy": 0.0, "think_format": 0.0, "learned": 1.0}) == {
        "accuracy": 1.0,
        "think_format": 0.0,
    }


def test_the_prefill_is_scored_with_the_completion() -> None:
    rest = RENDER("so", "5").removeprefix("<think>")
    bare, opened = scorer().score([asked("5")] * 2, [rest, rest], ["", "<think>"], [[0]] * 2)
    assert opened.parts["think_format"].value == 1.0
    assert bare.parts["think_format"].value == 0.0


@pytest.mark.parametrize("form", SPECS)
def test_the_form_of_the_prompt_is_the_form_that_is_scored(form: str) -> None:
    marker = scorer(prompt={"format": form})
    scores = marker.score(
        [asked("5")] * 4, [spec.render("so", "5") for spec in SPECS.values()], [""] * 4, [[0]] * 4
    )
    kept = [name for name, score in zip(SPECS, scores, strict=True) if score.parts["think_format"].value == 1]
    # Behind the reasoning, all forms are free text; in each of the others only the form itself is kept.
    assert kept == (list(SPECS) if form == "think_text" else [form])
    assert scores[list(SPECS).index(form)].total == 1.0


def test_an_example_may_name_its_own_answer_type() -> None:
    marker = scorer(task={"answer_type": "exact"})
    examples = [asked("1/2"), asked("1/2", answer_type="math")]
    assert totals(marker, examples, [RENDER("so", "0.5")] * 2) == [0.0, 1.0]


OWN = """
def counts(completions, prompts, answer, note, **others):
    assert len(prompts) == len(answer) == len(note) == len(completions)
    assert prompts[0][0]["content"] == "How much?"
    return [None if n is None else float(len(n)) for n in note]

def wants(completions, absent, **others):
    return [0.0 for _ in completions]

def short(completions, **others):
    return [0.0]

def broken(response, example):
    raise KeyError("oops")

def slow(response, example):
    import time
    time.sleep(60 if response.text == "slow" else 0)
    return 1.0
"""


def own(tmp_path: Path, name: str) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path / 'own.py'}:{name}"


def test_further_columns_reach_the_rewards_and_gaps_are_none(tmp_path: Path) -> None:
    marker = scorer(own(tmp_path, "counts"))
    examples = [asked("5", note="abc"), asked("5", other=1)]
    assert totals(marker, examples, ["x", "y"]) == [3.0, None]


def test_a_column_of_the_task_cannot_pose_as_the_completion_or_the_gold() -> None:
    forged = dict.fromkeys(("answer", "completions", "prefill", "prompts"), "forged")
    example = Example([{"role": "user", "content": "How much?"}], "5", forged)
    assert totals(scorer(), [example], [RENDER("so", "5")]) == [1.0]


def test_a_missing_column_is_a_user_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"rewards: .*absent"):
        scorer(own(tmp_path, "wants")).score([asked("5")], ["x"], [""], [[0]])


def test_a_reward_that_breaks_its_word_fails_and_is_refused_where_it_fails_too_often(tmp_path: Path) -> None:
    name = own(tmp_path, "short")
    marker = scorer({name: {"max_errors": 0.5}})
    (first, second) = marker.score([asked("5")] * 2, ["x", "y"], ["", ""], [[0]] * 2)
    assert (first.total, second.total) == (None, None)
    assert first.parts[name].failed
    with pytest.raises(UserError) as error:
        marker.check([first, second])
    said = str(error.value)
    assert said.startswith(f"rewards.{name}: scoring failed on 2 of 2 completions")
    assert "max_errors = 0.5" in said
    assert "'short' returned 1 values for 2 completions" in said
    fine = marker.score([asked("5")], ["x"], [""], [[0]])  # one value for one completion
    marker.check([first, *fine])  # half of them is allowed


def test_an_error_is_refused_with_its_traceback(tmp_path: Path) -> None:
    marker = scorer(own(tmp_path, "broken"))
    scores = marker.score([asked("5")], ["x"], [""], [[0]])
    with pytest.raises(UserError) as error:
        marker.check(scores)
    assert "KeyError: 'oops' (own.py, line" in str(error.value)
    assert 'raise KeyError("oops")' in str(error.value)


def test_a_time_out_earns_nothing_and_counts_as_a_failure(tmp_path: Path) -> None:
    name = own(tmp_path, "slow")
    marker = scorer({name: {"seconds": 0.3}})
    late, quick = marker.score([asked("5")] * 2, ["slow", "y"], ["", ""], [[0]] * 2)
    assert (late.total, quick.total) == (0.0, 1.0)
    assert late.parts[name].reason == "no value within 0.3 s"
    with pytest.raises(UserError, match=r"1 of 2 completions.*no value within 0.3 s"):
        marker.check([late, quick])


def test_what_is_weighted_is_clipped(tmp_path: Path) -> None:
    name = own(tmp_path, "counts")
    marker = scorer({name: {"weight": 2.0, "clip": [0, 2]}})
    examples = [asked("5", note="abc"), asked("5", note="a")]
    assert totals(marker, examples, ["x", "y"]) == [4.0, 2.0]  # 2 * min(3, 2), 2 * 1


def test_the_rewards_in_worker_processes_are_named_with_their_budgets(tmp_path: Path) -> None:
    name = own(tmp_path, "counts")
    assert scorer({"accuracy": 1.0, name: {"seconds": 3}}).isolated() == {name: 3.0}


def test_the_workers_end_with_the_scorer(tmp_path: Path) -> None:
    with scorer(own(tmp_path, "counts")) as marker:
        assert marker._pool._team
    assert not marker._pool._team


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        ("acuracy", "did you mean 'accuracy'"),
        ({"accuracy": {"args": {"tolerence": 1}}}, "tolerence"),
        ("no_such_file.py:reward", "no_such_file"),
    ],
)
def test_a_reward_that_cannot_be_had_is_named(rewards: Any, said: str) -> None:
    with pytest.raises(UserError, match=r"^rewards\.") as error:
        scorer(rewards)
    assert said in str(error.value)


def test_arguments_of_a_reward_reach_it() -> None:
    seeds = [scorer({"random": {"args": {"seed": seed}}}) for seed in range(12)]
    values = {totals(marker, [asked("5")], ["x"])[0] for marker in seeds}
    assert values == {0.0, 1.0}


def test_golds_that_cannot_be_read_are_listed_with_the_reason() -> None:
    examples = [asked("5"), asked("no number at all"), asked("7")]
    rendered = [RENDER("known", example.answer) for example in examples]
    bad = unreadable_golds(scorer(task={"answer_type": "number"}), examples, rendered)
    assert [row for row, _ in bad] == [1]
    assert bad[0][1].value is None
    assert bad[0][1].reason


def test_a_gold_that_does_not_score_full_marks_against_itself_is_listed() -> None:
    (bad,) = unreadable_golds(scorer(), [asked("5")], [""])  # no completion can give it
    assert bad[0] == 0


def test_stand_in_ids_are_as_many_as_asked_for_and_equal_for_equal_pieces() -> None:
    assert len(set(stand_in_ids("abcabcabcabd", 4))) == 2  # abc, abc, abc, abd
    assert [len(stand_in_ids(text, 7)) for text in ("", "ab", "a" * 70, "\ud800" * 9)] == [7] * 4
    assert stand_in_ids("abc", 0) == []
