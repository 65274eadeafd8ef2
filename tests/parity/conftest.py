"""A real TRL trainer over a tiny random Llama: hidden size 16, 2 layers, a vocabulary of 64 words."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


class ScriptedReward:
    """A TRL reward function that says what the test tells it to say."""

    __name__ = "scripted"

    def __init__(self) -> None:
        self.values: list[float | None] = []

    def __call__(self, **_: Any) -> list[float | None]:
        return self.values


@pytest.fixture(scope="session")
def scripted_reward() -> ScriptedReward:
    return ScriptedReward()


@pytest.fixture(scope="session")
def _built_trainer(scripted_reward: ScriptedReward, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{n}": n for n in range(3, 64)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.3,  # far from uniform, so that gradients are not lost in the tolerance
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
        )
    )
    output_dir: Path = tmp_path_factory.mktemp("trl")
    return GRPOTrainer(
        model=model,
        reward_funcs=scripted_reward,
        args=GRPOConfig(
            output_dir=str(output_dir),
            num_generations=4,
            per_device_train_batch_size=8,
            max_completion_length=6,
            temperature=0.7,
            report_to="none",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_dict({"prompt": ["w5 w6", "w7 w8 w9"]}),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            padding_side="left",
        ),
    )


@pytest.fixture
def trainer(_built_trainer: Any) -> Iterator[Any]:
    """The trainer in training mode; a test may set its options, which are put back afterwards."""
    options, arguments = dict(_built_trainer.__dict__), dict(_built_trainer.args.__dict__)
    _built_trainer.current_gradient_accumulation_steps = 1
    _built_trainer.model.train()
    yield _built_trainer
    _built_trainer.__dict__.clear()
    _built_trainer.__dict__.update(options)
    _built_trainer.args.__dict__.clear()
    _built_trainer.args.__dict__.update(arguments)
