"""Our rewards inside TRL 1.16's GRPOTrainer, and TRL's reward functions inside our loop.

The trainer's model is tiny and random, but each word of its vocabulary is a whole completion: what it samples
is right, wrong or malformed by turns, and a completion is one token long.
"""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from micro import MICRO, lines, merged

from rewards import REWARDS, SPECS
from rlreason.config import RunConfig, load
from rlreason.scoring import Scorer
from rlreason.types import Example

# What a completion of one token can be, and what `accuracy` must say of it where the gold is 4.
PHRASES = {
    "<think>2 + 2 = 4</think><answer>4</answer>": 1.0,
    "<think>the sum of two and two</think><answer>four is not it</answer>": 0.0,
    "<think>2 + 2 = 5</think><answer>5</answer>": 0.0,
    "<think>1 + 3</think><answer>1 + 3</answer>": 0.0,  # for countdown
    "<think>so it prints</think><answer>print(4)</answer>": 0.0,  # for code
    "<think>so it reads</think><answer>print(int(input()) + 2)</answer>": 0.0,
    "<think>2 + 2": 0.0,
    "<answer>4</answer>": 0.0,
    "4 4 4 4 4 4 4 4": 0.0,
}
COLUMNS: dict[str, Any] = {
    "answer": "4",
    "numbers": [1, 3],
    "target": 4,
    "reasoning_gym": {
        "dataset": "chain_sum",
        "entry": {"question": "2 + 2 =", "answer": "4", "metadata": {"difficulty": {"num_terms": 2}}},
    },
    "tests": [{"input": "2\n", "output": "4\n"}],
}
WORDS = {"<pad>": 0, "<s>": 1, "</s>": 2, "two": 3, "plus": 4} | {
    phrase: number for number, phrase in enumerate(PHRASES, start=5)
}


def small_llama(kind: Any, **more: Any) -> Any:
    from transformers import LlamaConfig

    torch.manual_seed(0)
    return kind(
        LlamaConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            **more,
        )
    )


@cache
def small_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(WORDS, unk_token="two"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
        chat_template="{% for m in messages %}{{ m['content'] }} {% endfor %}",
    )


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., Any]:
    """Train two steps with the given reward functions and rows; return the trainer."""

    def train(reward_funcs: list[Any], rows: list[dict[str, Any]], **options: Any) -> Any:
        from datasets import Dataset
        from transformers import LlamaForCausalLM
        from trl import GRPOConfig, GRPOTrainer

        trainer = GRPOTrainer(
            model=small_llama(LlamaForCausalLM),
            reward_funcs=reward_funcs,
            args=GRPOConfig(
                output_dir=str(tmp_path / "trl"),
                max_steps=2,
                logging_steps=1,
                save_strategy="no",
                num_generations=4,
                per_device_train_batch_size=8,
                max_completion_length=1,
                report_to="none",
                use_cpu=True,
                bf16=False,
                disable_tqdm=True,
                **options,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=small_tokenizer(),
        )
        trainer.train()
        return trainer

    return train


# The options that a reward cannot do without, or that make it say more than 0 of one token.
OPTIONS: dict[str, dict[str, Any]] = {
    "length_cosine": {"max_tokens": 4},
    "length_overlong": {"max_tokens": 2, "cache_tokens": 2},
    "repetition": {"ngram": 1},
}


@pytest.fixture
def options(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Find OPTIONS by name; for `learned` also a reward model, which is small and random as well."""

    def find(name: str) -> dict[str, Any]:
        if name != "learned":
            return OPTIONS.get(name, {})
        from transformers import LlamaForSequenceClassification

        path = str(tmp_path / "judge")
        small_llama(LlamaForSequenceClassification, num_labels=1).save_pretrained(path)
        small_tokenizer().save_pretrained(path)
        return {"model": path}

    return find


ROWS = [{"prompt": "two plus two", **COLUMNS}, {"prompt": "plus two two", **COLUMNS}]


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_each_reward_trains_two_steps(
    name: str, trained: Callable[..., Any], options: Callable[[str], dict[str, Any]]
) -> None:
    reward = REWARDS[name].with_options(**options(name))
    trainer = trained([reward], ROWS)
    logged = [entry for entry in trainer.state.log_history if f"rewards/{name}/mean" in entry]
    assert [entry["step"] for entry in logged] == [1, 2]
    assert all(math.isfinite(entry["loss"]) for entry in logged)

    # What the trainer was told of the last batch is what the reward says of it outside.
    prompts, texts = list(trainer._logs["prompt"]), list(trainer._logs["completion"])
    told = list(trainer._logs["rewards"][name])
    columns = {column: [value] * len(texts) for column, value in COLUMNS.items()}
    said = reward(prompts=prompts, completions=texts, completion_ids=[[0]] * len(texts), **columns)
    assert len(told) == 8
    assert told == pytest.approx([math.nan if value is None else value for value in said], nan_ok=True)
    assert logged[-1][f"rewards/{name}/mean"] == pytest.approx(sum(told) / len(told), nan_ok=True)
    if name == "accuracy":
        assert told == [PHRASES.get(text, 0.0) for text in texts]


def test_weights_and_abstentions_in_a_conversation(trained: Callable[..., Any]) -> None:
    asked = [{"role": "user", "content": "two plus two"}]
    rows = [{"prompt": asked, "answer": answer} for answer in ("4", r"\badlatex{")]
    rewards = [REWARDS["accuracy"], REWARDS["think_format"]]
    trainer = trained(rewards, rows, reward_weights=[1.0, 0.0], beta=0.0)
    accuracy = trainer._logs["rewards"]["accuracy"]
    texts = [message[-1]["content"] for message in trainer._logs["completion"]]
    unread = [math.isnan(value) for value in accuracy]
    assert sum(unread) == 4  # the group whose gold answer cannot be read
    for text, value, abstains in zip(texts, accuracy, unread, strict=True):
        assert abstains or value == PHRASES.get(text, 0.0)
    form = list(trainer._logs["rewards"]["think_format"])
    assert form == [float(text.startswith("<think>") and text.endswith("</answer>")) for text in texts]


THEIRS = """
from trl.rewards import get_cosine_scaled_reward, get_repetition_penalty_reward, get_soft_overlong_punishment

cosine = get_cosine_scaled_reward(max_len=16)
overlong = get_soft_overlong_punishment(max_completion_len=12, soft_punish_cache=8)
repetition = get_repetition_penalty_reward(ngram_size=2)
"""


@pytest.fixture
def theirs(tmp_path: Path) -> dict[str, float]:
    """The rewards section that names TRL's five reward functions."""
    path = tmp_path / "theirs.py"
    path.write_text(THEIRS)
    names = ["trl.rewards:accuracy_reward", "trl.rewards:think_format_reward"]
    names += [f"{path}:{name}" for name in ("cosine", "overlong", "repetition")]
    return dict.fromkeys(names, 1.0)


def test_trl_rewards_through_our_scorer(theirs: dict[str, float]) -> None:
    config = {"name": "theirs", "stage": "grpo", "rewards": theirs, "task": {"name": "chain_sum"}}
    scorer = Scorer(RunConfig.model_validate(config))
    texts = ["<think>r</think>\\boxed{4}", "<think>r</think>\\boxed{5}", "\\boxed{4}"]
    ids = [[7, 8, 7, 8, 7], list(range(8)), list(range(16))]
    examples = [Example([{"role": "user", "content": "2 + 2 ="}], "4", {})] * 3
    scores = scorer.score(examples, texts, [""] * 3, ids)
    found = [[score.parts[name].value for name in theirs] for score in scores]
    # cosine: right at 5 of 16 tokens 0.5 + 0.25 (1 + cos(5 pi / 16)); wrong at half the length -0.75; right
    # at the full length 0.5. overlong: 4 tokens are free, 5 are 1 of 8 into the buffer. repetition: 7 8 7 8 7
    # has 4 pairs, of which 2 are different: -(1 - 2/4).
    cosine = 0.5 + 0.25 * (1 + math.cos(5 * math.pi / 16))
    assert found[0] == pytest.approx([1.0, 1.0, cosine, -1 / 8, -0.5])
    assert found[1] == pytest.approx([0.0, 1.0, -0.75, -4 / 8, 0.0])
    assert found[2] == pytest.approx([1.0, 0.0, 0.5, -1.0, 0.0])
    assert [score.total for score in scores] == pytest.approx([sum(values) for values in found])


def test_trl_rewards_in_a_step_of_our_loop(theirs: dict[str, float], tmp_path: Path) -> None:
    from rlreason.stages import run

    changes = {
        "output_dir": str(tmp_path),
        "stage": "grpo",
        "rewards": theirs,
        "grpo": {"steps": 1},
        "eval": {"questions": 1},
    }
    path = tmp_path / "theirs.yaml"
    path.write_text(yaml.safe_dump(merged(MICRO, changes)))
    config = load(path, [])
    run(config)
    directory = Path(config.output_dir) / config.name
    (step,) = [line for line in lines(directory / "metrics.jsonl") if line["stage"] == "grpo"]
    samples = lines(directory / "samples.jsonl")
    assert len(samples) == 16
    for sample in samples:
        values = {name.rpartition(":")[2]: said["value"] for name, said in sample["scores"].items()}
        tokens = sample["tokens"]
        # A random model writes nothing that counts: no form, wrong answers.
        assert (values["accuracy_reward"], values["think_format_reward"]) == (0.0, 0.0)
        assert values["cosine"] == pytest.approx(-0.5 - 0.25 * (1 + math.cos(math.pi * tokens / 16)))
        assert values["overlong"] == pytest.approx(min(0.0, (4 - tokens) / 8))
        assert -1.0 <= values["repetition"] <= 0.0
        assert sample["reward"] == pytest.approx(sum(values[name.rpartition(":")[2]] for name in theirs))
    assert step["reward"] == pytest.approx(sum(s["reward"] for s in samples) / 16)


def test_the_phrases_are_what_they_say() -> None:
    """The vocabulary holds a completion of each kind: right, of the right form, and without it."""
    form = REWARDS["think_format"](completions=list(PHRASES))
    assert form.count(1.0) == 6
    right = SPECS["think_answer"].render("2 + 2 = 4", "4").replace("\n", "")
    assert [phrase for phrase, value in PHRASES.items() if value] == [right]
