"""The evaluator asks fixed questions with fixed seeds and marks with the run's own rewards."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import EOS, tiny_tokenizer

from rlreason.config import RunConfig
from rlreason.errors import UserError
from rlreason.evaluation.evaluator import Evaluator
from rlreason.policy.chat import Renderer, render_all
from rlreason.rollout import Request, Sampling, Told
from rlreason.scoring import Scorer
from rlreason.types import Example, Rollout

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}[assistant]"
RIGHT = "<think>\n2 + 3 = 5\n</think>\n<answer>5</answer>"
GUESSED = "<think>\nhm\n</think>\n<answer>5</answer>"
WRONG = "<think>\n2 + 3 = 6\n</think>\n<answer>6</answer>"
BARE = "<answer>5</answer>"
CUT = "<think>\n2 + 3"


class ScriptedEngine:
    """Writes what the test tells it to write, question by question."""

    name = "scripted"

    def __init__(self, tokenizer: Any, texts: list[list[str]]) -> None:
        self._tokenizer = tokenizer
        self._texts = texts
        self.asked: list[tuple[list[Request], Sampling]] = []

    def generate(
        self, requests: Sequence[Request], sampling: Sampling, told: Told | None = None
    ) -> list[list[Rollout]]:
        self.asked.append((list(requests), sampling))
        groups = []
        for request, texts in zip(requests, self._texts, strict=True):
            group = []
            for text in texts:
                ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
                ended = text != CUT
                ids = [*ids, EOS] if ended else ids
                group.append(
                    Rollout(request.prompt_ids, ids, [0.0] * len(ids), "stop" if ended else "length")
                )
            groups.append(group)
        return groups

    def refresh(self) -> None:
        pass


def config(rewards: Any = "accuracy", **evaluation: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "name": "test",
            "rewards": rewards,
            "stage": "grpo",
            "task": {"name": "chain_sum"},
            "rollout": {"max_new_tokens": 64, "top_p": 0.9, "top_k": 7},
            "eval": {"samples": 2, "pass_at": [1, 2], **evaluation},
        }
    )


def setup(template: str = TEMPLATE, **evaluation: Any) -> tuple[Evaluator, Renderer]:
    settings = config(**evaluation)
    renderer = Renderer(tiny_tokenizer(template), prompt_format="think_answer", system=None)
    examples = [Example([{"role": "user", "content": text}], "5") for text in ("2 + 3?", "1 + 4?")]
    prompts, _ = render_all(renderer, examples, max_tokens=100)
    return Evaluator(settings, Scorer(settings), renderer, prompts), renderer


def test_what_is_marked_and_counted() -> None:
    evaluator, renderer = setup()
    engine = ScriptedEngine(renderer.tokenizer, [[RIGHT, CUT], [GUESSED, WRONG]])
    evaluation = evaluator.run(engine, [EOS])
    summary = evaluation.summary
    assert summary["accuracy"] == pytest.approx(0.5)
    assert summary["format"] == pytest.approx(3 / 4)
    assert summary["derives"] == pytest.approx(2 / 4)  # right and wrong work alike; the cut one wrote no "="
    assert summary["truncated"] == pytest.approx(1 / 4)
    assert summary["pass_at"] == {"1": 0.5, "2": 1.0}
    tokens = [len(RIGHT) + 1, len(CUT), len(GUESSED) + 1, len(WRONG) + 1]  # a character each, and EOS
    assert summary["tokens"] == pytest.approx(sum(tokens) / 4)
    records = evaluation.records()
    assert [(r["question"], r["sample"]) for r in records] == [
        ("2 + 3?", 0),
        ("2 + 3?", 1),
        ("1 + 4?", 0),
        ("1 + 4?", 1),
    ]
    assert [r["text"] for r in records] == [RIGHT, CUT, GUESSED, WRONG]
    assert [r["answer"] for r in records] == ["5", None, "5", "6"]


MARKS = """
import time

def marks(response, example):
    if response.answer == "6":
        raise KeyError("oops")
    if response.answer is None:
        time.sleep(60)
    return 1.0
"""


def test_a_failure_is_no_wrong_answer_and_too_many_stop(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MARKS)
    name = f"{tmp_path / 'mine.py'}:marks"
    rewards = {name: {"seconds": 0.5, "max_errors": 0.5}}
    evaluator, renderer = setup(reward=name, rewards=rewards)
    engine = ScriptedEngine(renderer.tokenizer, [[RIGHT, WRONG], [RIGHT, CUT]])
    evaluation = evaluator.run(engine, [EOS])
    # The wrong answer makes the reward raise: no mark. The cut one makes it run away: no marks.
    assert [r["correct"] for r in evaluation.records()] == [1.0, None, 1.0, 0.0]
    assert [r["failed"] for r in evaluation.records()] == [False, True, False, True]
    assert evaluation.summary["accuracy"] == pytest.approx((1 + 0.5) / 2)
    assert evaluation.summary["failed"] == 0.5
    with pytest.raises(UserError, match=r"scoring failed on 3 of 4 completions.*KeyError: 'oops'"):
        evaluator.run(ScriptedEngine(renderer.tokenizer, [[RIGHT, WRONG], [WRONG, CUT]]), [EOS])


def test_an_answer_outside_the_form_is_not_well_formed() -> None:
    evaluator, renderer = setup()
    summary = evaluator.run(ScriptedEngine(renderer.tokenizer, [[BARE, BARE], [RIGHT, RIGHT]]), [EOS]).summary
    assert summary["format"] == pytest.approx(0.5)
    assert summary["accuracy_given_format"] == 1.0


def test_what_the_template_opened_is_part_of_what_is_marked() -> None:
    evaluator, renderer = setup(TEMPLATE + "<think>")
    rest = RIGHT.removeprefix("<think>")
    summary = evaluator.run(ScriptedEngine(renderer.tokenizer, [[rest, rest], [rest, WRONG]]), [EOS]).summary
    assert summary["format"] == pytest.approx(3 / 4)  # the last opens the reasoning a second time
    assert summary["accuracy"] >= 3 / 4


def test_every_evaluation_asks_the_same_with_the_same_seeds() -> None:
    evaluator, renderer = setup(temperature=0.5)
    engine = ScriptedEngine(renderer.tokenizer, [[RIGHT, RIGHT], [RIGHT, RIGHT]])
    evaluator.run(engine, [EOS])
    evaluator.run(engine, [EOS])
    (first, sampling), second = engine.asked
    assert (first, sampling) == second
    assert sampling == Sampling(64, 0.5, 0.9, 7, 0.0)
    seeds = [seed for request in first for seed in request.seeds]
    assert len(set(seeds)) == 4


def test_the_gain_between_two_evaluations() -> None:
    evaluator, renderer = setup()
    before = evaluator.run(ScriptedEngine(renderer.tokenizer, [[RIGHT, WRONG], [WRONG, WRONG]]), [EOS])
    after = evaluator.run(ScriptedEngine(renderer.tokenizer, [[RIGHT, RIGHT], [WRONG, RIGHT]]), [EOS])
    found = after.gain_over(before)
    assert found["value"] == pytest.approx(0.5)  # 0.5 -> 1 and 0 -> 0.5
    assert found["n"] == 2
