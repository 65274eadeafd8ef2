"""The reward model: from rollouts and from files, used as a reward and as the start of the critic."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from micro import lines
from transformers import AutoTokenizer
from trl import RewardTrainer

from rewards import REWARDS
from rlreason.config import load
from rlreason.errors import UserError
from rlreason.stages.pairs import Ranked
from rlreason.stages.reward_model import PairData, _lengths, pairs_of_files, usable
from rlreason.tasks import Pair
from rlreason.types import Example

Train = Callable[..., Path]


def pairs_file(path: Path, count: int = 40) -> str:
    """Pairs in which the answer 7 is always better than the answer 3."""
    draw = random.Random(0)
    rows = [
        {
            "prompt": f"{draw.randint(1, 99)} + {number} =",
            "chosen": "<think>7 + 0 = 7</think><answer>7</answer>",
            "rejected": "<think>3 + 0 = 3</think><answer>3</answer>",
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def scores(run: Path, texts: list[str]) -> list[float | None]:
    reward = REWARDS["learned"].with_options(model=str(run / "checkpoints" / "reward_model"))
    return reward(completions=texts, prompts=[[{"role": "user", "content": "4 + 5 ="}]] * len(texts))


def test_it_learns_what_pairs_of_a_file_say(train: Train, tmp_path: Path) -> None:
    run = train(
        stage=["sft", "reward_model"],
        reward_model={
            "pairs": pairs_file(tmp_path / "pairs.jsonl"),
            "held_out": 0.25,
            "epochs": 20,
            "optim": {"lr": 3e-3},
        },
    )
    report = json.loads((run / "checkpoints" / "reward_model" / "evaluation.json").read_text())
    assert report["accuracy"] == 1.0
    assert (report["n"], report["prompts"]) == (10, 10)
    assert report["length_accuracy"] == 0.5
    assert "best_of" not in report
    better, worse = scores(
        run, ["<think>7 + 0 = 7</think><answer>7</answer>", "<think>3 + 0 = 3</think><answer>3</answer>"]
    )
    assert better is not None
    assert worse is not None
    # Centred and scaled by what it says of its training pairs, half of which are the better ones.
    assert better == pytest.approx(1.0, abs=0.2)
    assert worse == pytest.approx(-1.0, abs=0.2)
    kept = lines(run / "checkpoints" / "pairs" / "pairs.jsonl")
    assert [pair["part"] for pair in kept] == ["train"] * 30 + ["held_out"] * 10
    held_out = {pair["prompt"][0]["content"] for pair in kept if pair["part"] == "held_out"}
    assert not held_out & {pair["prompt"][0]["content"] for pair in kept if pair["part"] == "train"}


def test_rollouts_reward_and_critic_in_one_run(train: Train) -> None:
    run = train(
        stage=["sft", "reward_model", "ppo"],
        rewards={"random": 1.0, "learned": {"weight": 0.5, "clip": [-2, 2]}},
        reward_model={"questions": 10, "samples": 4, "optim": {"lr": 3e-3}},
    )
    report = json.loads((run / "checkpoints" / "reward_model" / "evaluation.json").read_text())
    assert 0 <= report["accuracy"] <= 1
    assert (report["best_of"]["n"], report["best_of"]["questions"]) == (4, 6)
    steps = [line for line in lines(run / "metrics.jsonl") if line["stage"] == "ppo"]
    assert all(line["reward/learned"] is not None for line in steps)
    assert all("learned_apart" not in line["findings"] for line in steps)
    assert steps[0]["value"] != 0.0  # the critic has begun with the head of the reward model
    said = lines(run / "samples.jsonl")[0]["scores"]["learned"]["reason"]
    assert said.startswith("the reward model says")


def test_a_resumed_run_keeps_its_reward_model(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {
        "stage": ["sft", "reward_model", "grpo"],
        "rewards": {"random": 1.0, "learned": 0.5},
        "reward_model": {"questions": 10, "samples": 4},
    }
    straight = train(name="straight", **settings)
    from rlreason.stages import loop

    whole = loop.record

    def record_then_die(context: Any, setup: Any, *rest: Any) -> None:
        whole(context, setup, *rest)
        if setup.step == 3:
            raise SystemExit("killed")

    monkeypatch.setattr(loop, "record", record_then_die)
    with pytest.raises(SystemExit):
        train(name="cut", **settings)
    monkeypatch.setattr(loop, "record", whole)
    resumed = train(name="cut", **settings)
    assert lines(straight / "samples.jsonl") == lines(resumed / "samples.jsonl")


def test_pairs_are_not_sampled_again(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlreason.stages import reward_model

    settings: dict[str, Any] = {
        "stage": ["sft", "reward_model"],
        "rewards": {"random": 1.0},
        "reward_model": {"questions": 10, "samples": 4},
    }
    straight = train(name="straight", **settings)
    fit, sample = reward_model._fit, reward_model.rollout_pairs

    def stop(*_: Any) -> None:
        raise SystemExit("killed")

    monkeypatch.setattr(reward_model, "_fit", stop)
    with pytest.raises(SystemExit):
        train(name="cut", **settings)
    monkeypatch.setattr(reward_model, "_fit", fit)
    monkeypatch.setattr(reward_model, "rollout_pairs", stop)
    resumed = train(name="cut", **settings)
    monkeypatch.setattr(reward_model, "rollout_pairs", sample)
    assert "the pairs are those sampled before" in capsys.readouterr().out
    for part in ("pairs/pairs.jsonl", "reward_model/evaluation.json", "reward_model/model.safetensors"):
        kept = [(run / "checkpoints" / part).read_bytes() for run in (straight, resumed)]
        assert kept[0] == kept[1]


def test_an_adapter_is_merged_into_what_is_saved(train: Train, tmp_path: Path) -> None:
    base = train(name="base", stage="sft")
    run = train(
        stage="reward_model",
        model={"scratch": None, "path": str(base / "model"), "lora": {"rank": 4}},
        reward_model={
            "pairs": pairs_file(tmp_path / "pairs.jsonl"),
            "held_out": 0.25,
            "epochs": 10,
            "optim": {"lr": 1e-2},
        },
    )
    better, worse = scores(run, ["<answer>7</answer>", "<answer>3</answer>"])
    assert better is not None
    assert worse is not None
    assert better > worse


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 4}, r"reward_model\.max_tokens=4: all 36 training pairs are longer"),
        ({"held_out": 0.001}, r"reward_model\.held_out: 0\.001 of 40 prompts .*leaves none to measure on"),
    ],
)
def test_what_leaves_no_pairs_is_refused(
    train: Train, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(
            stage=["sft", "reward_model"],
            reward_model={"pairs": pairs_file(tmp_path / "pairs.jsonl"), **changes},
        )


def test_pairs_that_ask_a_held_out_question_only_measure(
    write_config: Callable[..., Path], tmp_path: Path
) -> None:
    """One prompt of ten is held out by the share, and every one that asks what the task keeps apart."""
    file = tmp_path / "pairs.jsonl"
    asked = [f"How much is {n} + 1?" for n in range(20)]
    prompts = [*asked, "Say: HOW much is 4  + 1?"]
    rows = [{"prompt": text, "chosen": "yes", "rejected": "no"} for text in prompts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kept = [Example([{"role": "user", "content": text}], "5") for text in (asked[4], "And?")]
    settings = {"pairs": str(file), "held_out": 0.1}
    config = load(write_config(stage=["sft", "reward_model"], reward_model=settings), [])
    data = pairs_of_files(config, kept)
    assert data is not None
    measured = [pair.prompt[0]["content"] for pair in data.held_out]
    assert {asked[4], "Say: HOW much is 4  + 1?"} < set(measured)
    assert len(measured) == 2 + 2  # two by the question, and a tenth of the other 19 prompts
    assert len(data.train) == 17


def test_pairs_are_read_before_any_training(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reward_model\.pairs: there is no file"):
        train(stage=["sft", "reward_model"], reward_model={"pairs": str(tmp_path / "none.jsonl")})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("padding", ["<|im_end|>", None])
def test_the_score_is_read_behind_the_text_whatever_pads(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, padding: str | None
) -> None:
    """Where padding is the token that ends a turn, or none is named, another one pads in training."""
    base = train(name="base", stage="sft")
    tokenizer = AutoTokenizer.from_pretrained(base / "model")
    tokenizer.pad_token = padding
    tokenizer.save_pretrained(base / "model")
    seen = []
    whole = RewardTrainer.train

    def look(trainer: Any) -> Any:
        rows = trainer.train_dataset
        used = {token for side in ("chosen_ids", "rejected_ids") for row in rows[side] for token in row}
        pads = trainer.model.config.pad_token_id, trainer.data_collator.pad_token_id
        assert trainer.args.center_rewards_coefficient == 0.01
        # N(0, 1 / 33): of 32 numbers, whose deviation is 0.174 and its own error 0.022.
        assert 0.1 < float(trainer.model.score.weight.detach().std()) < 0.25
        seen.append((pads, tokenizer.convert_tokens_to_ids("<|im_end|>") in used, pads[0] in used))
        return whole(trainer)

    monkeypatch.setattr(RewardTrainer, "train", look)
    train(
        stage="reward_model",
        model={"scratch": None, "path": str(base / "model")},
        reward_model={"pairs": pairs_file(tmp_path / "pairs.jsonl")},
    )
    [((model, collator), ends_turns, hides_text)] = seen
    assert model == collator
    assert ends_turns
    assert not hides_text


@pytest.mark.parametrize(
    ("batch_size", "said"),
    [  # after a single step nothing but the scores can tell; after more of them the losses do
        (40, r"no finite numbers; lower reward_model\.optim\.lr"),
        (4, r"4 optimizer steps in a row .* not finite .* Lower reward_model\.optim\.lr"),
    ],
)
def test_scores_that_are_no_numbers_are_told_of(
    train: Train, tmp_path: Path, batch_size: int, said: str
) -> None:
    pairs = pairs_file(tmp_path / "pairs.jsonl")
    with pytest.raises(UserError, match=said):
        train(
            stage=["sft", "reward_model"],
            reward_model={"pairs": pairs, "batch_size": batch_size, "optim": {"lr": 1e38}},
        )


class Letters:
    """A judge that reads a letter as a token, and no spaces."""

    longest = 4

    def token_ids(self, prompt: Any, text: str) -> list[int]:
        return [ord(letter) for letter in text if letter != " "]


def test_sampled_pairs_that_the_template_makes_equal_are_left_out() -> None:
    judge: Any = Letters()
    same, good, long = (Pair((), *sides) for sides in (("a b", "ab"), ("a", "b"), ("abcde", "a")))
    ranked = [Ranked((), [], [], [])]
    assert usable(judge, PairData([same, good, long], [good], ranked)) == PairData([good], [good], ranked)
    with pytest.raises(UserError, match="'a b' and 'ab'; remove the pair"):
        usable(judge, PairData([same, good], [good]))
    with pytest.raises(UserError, match="in all 1 held-out pairs both sides are the same tokens"):
        usable(judge, PairData([good], [same], ranked))
    with pytest.raises(UserError, match=r"max_tokens=4: all 1 training pairs are longer"):
        usable(judge, PairData([long], [good]))


def test_lengths_are_those_of_the_completions() -> None:
    class Turns(Letters):
        def token_ids(self, prompt: Any, text: str) -> list[int]:
            return [0] * 7 + super().token_ids(prompt, text)  # a prompt of 7 tokens

    judge: Any = Turns()
    assert _lengths(judge, Pair((), "abc", "a")) == (3, 1)


def test_rollouts_that_all_earn_the_same_are_refused(train: Train) -> None:
    with pytest.raises(UserError, match="no two completions of a training question earn different rewards"):
        train(stage=["sft", "reward_model"], rewards="accuracy", reward_model={"questions": 4, "samples": 2})


def test_a_model_of_nothing_has_nothing_to_copy(train: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="put pretrain or sft before it"):
        train(stage="reward_model", reward_model={"pairs": pairs_file(tmp_path / "pairs.jsonl")})
