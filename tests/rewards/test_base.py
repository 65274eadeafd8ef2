"""The interface: TRL's signature, columns checked by name, abstentions as None."""

from typing import Any

import pytest

from rewards import REWARDS, SPECS, Response, Reward, Score, as_reward, load_reward, parse

RIGHT = "<think>r</think><answer>42</answer>"
WRONG = "<think>r</think><answer>41</answer>"
# What GRPOTrainer of TRL 1.16 passes beside the dataset's columns.
TRAINER = {
    "prompts": ["q", "q"],
    "completion_ids": [[1], [2]],
    "trainer_state": object(),
    "log_extra": print,
    "log_metric": print,
    "environments": None,
}


@pytest.mark.parametrize("name", ["accuracy", "think_format", "countdown", "random"])
def test_every_reward_takes_what_trl_passes(name: str) -> None:
    columns = {"answer": ["42", "42"], "numbers": [[42], [42]], "target": [42, 42], "difficulty": [1, 2]}
    values = REWARDS[name](completions=[RIGHT, WRONG], **columns, **TRAINER)
    assert len(values) == 2
    if name != "random":
        assert values == ([1.0, 1.0] if name == "think_format" else [1.0, 0.0])
    assert REWARDS[name].__name__ == name


def test_conversations_are_read_by_their_last_message() -> None:
    tool = [{"role": "assistant", "content": WRONG}, {"role": "tool", "content": "x"}]
    conversations = [
        [{"role": "assistant", "content": RIGHT}],
        [*tool, {"role": "assistant", "content": RIGHT}],
        [{"role": "assistant", "content": [{"type": "text", "text": RIGHT}]}],
        [{"role": "assistant", "content": None}],
    ]
    assert REWARDS["accuracy"](completions=conversations, answer=["42"] * 4) == [1.0, 1.0, 1.0, 0.0]


def test_prefill_is_a_list_or_none() -> None:
    completions = ["r</think><answer>42</answer>", RIGHT]
    reward = REWARDS["think_format"]
    assert reward(completions=completions, prefill=["<think>\n", ""]) == [1.0, 1.0]
    assert reward(completions=completions, prefill=None) == [0.0, 1.0]


@pytest.mark.parametrize("name", SPECS)
def test_a_reward_reads_the_form_of_its_spec(name: str) -> None:
    spec = SPECS[name]
    texts = [other.render("r", "42") for other in SPECS.values()]
    right = [float(other is spec or name == "think_text") for other in SPECS.values()]
    assert REWARDS["think_format"].with_spec(spec)(completions=texts) == right
    own = REWARDS["accuracy"].with_spec(spec)(completions=[spec.render("r", "42")], answer=["42"])
    assert own == [1.0]


def test_a_spec_stays_with_a_reward_and_leaves_the_registered_one_as_it_is() -> None:
    spec, texts = SPECS["think_text"], ["<think>r</think>42"]
    reward = Reward("gold", lambda response, *, gold: Score(float(response.answer == gold), ""))
    assert reward.with_options(gold="42")(completions=texts) == [0.0]
    assert reward.with_spec(spec).with_options(gold="42")(completions=texts) == [1.0]
    assert reward.with_options(gold="42").with_spec(spec)(completions=texts) == [1.0]
    loaded = load_reward("accuracy", {"answer_type": "number"}, spec)
    assert loaded(completions=texts, answer=["42"]) == [1.0]
    assert loaded.__name__ == "accuracy"
    assert load_reward("accuracy", spec=spec)(completions=texts, answer=["42"]) == [1.0]
    assert REWARDS["accuracy"](completions=texts, answer=["42"]) == [0.0]


def test_a_function_of_a_response_reads_the_form_of_its_spec() -> None:
    def length(response: Response, example: dict[str, Any]) -> float:
        return float(len(response.answer or ""))

    texts = ["<think>r</think>#### 42"]
    assert as_reward(length)(completions=texts) == [0.0]
    assert as_reward(length).with_spec(SPECS["think_hash"])(completions=texts) == [2.0]


def test_no_completions_give_no_scores() -> None:
    assert REWARDS["accuracy"](completions=[], answer=[]) == []


def test_a_missing_column_names_it_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"'accuracy' needs the column 'answer': did you mean 'answers'"):
        REWARDS["accuracy"](completions=[RIGHT], answers=["42"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"answer": ["42"]}, r"column 'answer' has 1 values for 2 completions"),
        ({"answer": "42"}, r"column 'answer' must be a list"),
        ({"answer": 42}, r"column 'answer' must be a list"),
        ({"answer": ["42", "42"], "answer_type": ["math"]}, r"column 'answer_type' has 1 values"),
        ({"answer": ["42", "42"], "prefill": ["<think>"]}, r"column 'prefill' has 1 values"),
    ],
)
def test_a_wrong_length_names_the_column(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        REWARDS["accuracy"](completions=[RIGHT, WRONG], **columns)


def test_the_completion_is_what_the_assistant_said_last() -> None:
    own, call = {"role": "assistant", "content": RIGHT}, {"role": "assistant", "content": None}
    tool, user = {"role": "tool", "content": RIGHT}, {"role": "user", "content": RIGHT}
    conversations = [
        [own, tool],
        [own, user],
        [tool],
        [user],
        [],
        [call, tool],
        [own, call],
        [{"content": RIGHT}],
    ]
    values = REWARDS["accuracy"](completions=conversations, answer=["42"] * 8)
    assert values == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("name", SPECS)
def test_reasoning_that_a_server_has_split_off_goes_back_between_its_tags(name: str) -> None:
    spec = SPECS[name]
    content = spec.render("r", "42").partition(spec.think_close)[2]
    message = {"role": "assistant", "reasoning_content": "r", "content": content}
    reward = REWARDS["think_format"].with_spec(spec)
    assert reward(completions=[[message]]) == [1.0]
    assert reward(completions=[[message]], prefill=[f"{spec.think_open}\n"]) == [1.0]
    assert reward(completions=[[{**message, "reasoning_content": " "}]]) == [0.0]
    assert reward(completions=[[{**message, "content": spec.render("s", "42")}]]) == [1.0]
    accuracy = REWARDS["accuracy"].with_spec(spec)
    assert accuracy(completions=[[message]], answer=["42"]) == [1.0]
    assert accuracy(
        completions=[[{**message, "reasoning_content": content, "content": ""}]], answer=["42"]
    ) == [0.0]


def test_parts_of_a_message_are_read_and_others_refused() -> None:
    def first(content: Any) -> Any:
        return REWARDS["think_format"](completions=[[{"role": "assistant", "content": content}]])

    half = len(RIGHT) // 2
    assert first([RIGHT[:half], {"type": "text", "text": RIGHT[half:]}, {"type": "image"}]) == [1.0]
    assert first(["x"]) == [0.0]
    for content in (42, [42], [{"text": 42}], [["x"]]):
        with pytest.raises(ValueError, match="the content of a message must be text or a list of parts"):
            first(content)


@pytest.mark.parametrize("completion", [None, 42, ["r"], [["r"]], [[]], {"role": "assistant"}])
def test_a_completion_that_is_no_text_is_an_error(completion: Any) -> None:
    with pytest.raises(ValueError, match="a completion must be a string or a list of messages"):
        REWARDS["think_format"](completions=[completion])


def test_options_are_fixed_for_all_rows_and_checked() -> None:
    def length(response: Response, *, limit: int = 3) -> Score:
        return Score(float(len(response.text) <= limit), "length")

    reward = Reward("length", length)
    assert reward(completions=["abcd"]) == [0.0]
    assert reward.with_options(limit=4)(completions=["abcd"]) == [1.0]
    assert reward.with_options(limit=4)(completions=["abcd"], limit=[1]) == [1.0]
    with pytest.raises(ValueError, match=r"takes no option 'limits': did you mean 'limit'"):
        reward.with_options(limits=4)


def test_scores_carry_the_reason() -> None:
    scores = REWARDS["think_format"].scores(completions=[RIGHT, "42"])
    assert [score.reason for score in scores] == [
        "the asked form",
        "think_missing, answer_missing, text_outside_tags",
    ]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_is_finite(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        Score(value, "broken")


def test_the_random_control_is_fair_fixed_and_blind() -> None:
    reward = REWARDS["random"]
    completions = [f"<think>{i}</think><answer>{i}</answer>" for i in range(2000)]
    values = reward(completions=completions, answer=["1"] * 2000)
    assert values == reward(completions=completions, answer=["2"] * 2000)
    assert set(values) == {0.0, 1.0}
    # 2,000 fair draws: mean 1000, standard deviation sqrt(2000 / 4) = 22.4; 4 of them are 90.
    assert abs(sum(filter(None, values)) - 1000) < 90
    for other in (
        reward.with_options(seed=1)(completions=completions),
        reward(completions=completions, prompts=["q"] * 2000),
    ):
        same = sum(a == b for a, b in zip(values, other, strict=True))
        assert abs(same - 1000) < 90
    # SHA-256 of the text "0\x1fNone\x1fa" begins with byte 0xa8, by `printf '0\037None\037a' | sha256sum`.
    assert reward(completions=["a"]) == [float(0xA8 & 1)]


def test_a_text_that_is_no_valid_unicode_is_scored() -> None:
    for name in ("random", "think_format"):
        assert REWARDS[name](completions=["\ud800"])[0] in (0.0, 1.0)
    assert parse("\ud800").text == "\ud800"
