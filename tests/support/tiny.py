"""Tiny random models, one for each shape of architecture, and a tokenizer of single characters."""

import string
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from rlreason.config.model import LoraConfig
from rlreason.policy.adapter import with_adapter
from rlreason.policy.model import Policy

PAD, BOS, EOS = 0, 1, 2
VOCABULARY = 40

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # far from uniform, so that a wrong mask or position shows
    "tie_word_embeddings": False,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.2,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# What the native engine runs and the trainer takes every shortcut for.
NATIVE: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama tied": {"tie_word_embeddings": True},
    "llama without grouped heads": {"num_key_value_heads": 4},
    "llama attention bias": {"attention_bias": True},
    "llama wide heads": {"head_dim": 16},
    "llama 3 rope": {"rope_parameters": _LLAMA3_ROPE},
    "qwen2": {},
    "mistral": {"sliding_window": None},
}

_GEMMA3: dict[str, Any] = {
    "num_hidden_layers": 3,
    "head_dim": 8,
    "query_pre_attn_scalar": 16,  # not the size of a head, which the scale would be else
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0},
    },
}
_QWEN_WINDOW = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
# All that the native engine says it runs. Windows are shorter than what the tests sample.
FAMILIES: dict[str, dict[str, Any]] = {
    **NATIVE,
    "llama mlp bias gelu": {"mlp_bias": True, "hidden_act": "gelu"},
    "llama linear rope": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    "llama yarn": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "mistral window": {"sliding_window": 6},
    "qwen2 window": _QWEN_WINDOW,
    "qwen3": {"head_dim": 16},
    "qwen3 window bias tied": {
        **_QWEN_WINDOW,
        "head_dim": 8,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
    "gemma3_text": _GEMMA3,
    "gemma3_text tied bias cap": {
        **_GEMMA3,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "final_logit_softcapping": 3.0,
        "num_key_value_heads": 1,
    },
    "smollm3": {"num_hidden_layers": 3, "no_rope_layers": [1, 0, 1], "tie_word_embeddings": True},
    "smollm3 window": {
        "num_hidden_layers": 3,
        "no_rope_layers": [1, 0, 1],
        "use_sliding_window": True,
        "sliding_window": 6,
    },
    "granite": {
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.4,
        "logits_scaling": 0.7,
    },
    "olmo2": {"attention_bias": True},
    "phi3": {"sliding_window": 6},
}


def tiny_model(name: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random float32 model in evaluation mode; `name` is a key of FAMILIES, or begins with a model type.

    Biases and norms, which start at 0 and 1, are random too: otherwise forgetting one would not show.
    """
    torch.manual_seed(seed)
    options = {**_SHAPE, **FAMILIES.get(name, {}), **changes}
    architecture = name.split()[0]
    if architecture == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(**{**_GPT2, **changes}))
    elif architecture == "gemma2":
        model = Gemma2ForCausalLM(Gemma2Config(**{"head_dim": 8, "query_pre_attn_scalar": 8, **options}))
    elif architecture == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**options))
    elif architecture == "mistral":
        model = MistralForCausalLM(MistralConfig(**options))
    elif architecture == "llama":
        model = LlamaForCausalLM(LlamaConfig(**options))
    else:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **options))
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                zero = parameter_name.endswith("bias") or architecture == "gemma3_text"
                start = 0.0 if zero else 1.0
                parameter.copy_(start + 0.3 * torch.randn(parameter.shape))
    return model.eval()


def with_lora(model: Any, *, targets: Any = "all-linear", rank: int = 4, seed: int = 5) -> Any:
    """`model` with an adapter that has been trained: its B, which starts at 0, is random."""
    torch.manual_seed(seed)
    adapted = with_adapter(model, LoraConfig(rank=rank, alpha=2.0 * rank, targets=targets))
    with torch.no_grad():
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_B" in parameter_name or "lora_embedding_" in parameter_name:
                parameter.normal_(std=0.1)
    return adapted


def tiny_policy(model: Any, tokenizer: Any = None, *, dtype: torch.dtype = torch.float32) -> Policy:
    return Policy(model=model, tokenizer=tokenizer, dtype=dtype, eos_ids=(EOS,), pad_id=PAD)


def tiny_tokenizer(
    chat_template: str | None = None, *, adds_bos: bool = False, **special: Any
) -> PreTrainedTokenizerFast:
    """One token a character; ids 0, 1, 2 are `<pad>`, `<s>`, `</s>`. `adds_bos` as Llama's tokenizers do."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    tokens = ["<pad>", "<s>", "</s>", "<unk>", *sorted(string.printable)]
    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    if adds_bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", BOS)]
        )
    names: dict[str, Any] = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=chat_template, **{**names, **special}
    )


def plain_logprobs(
    model: Any, prompt: Sequence[int], completion: Sequence[int], temperature: float = 1.0
) -> Tensor:
    """Log-probs (T,) of a completion from the logits of one unpadded forward pass, with gradient."""
    ids = torch.tensor([[*prompt, *completion]])
    logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1] / temperature
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(list(completion))[:, None])[:, 0]


def random_ids(count: int, *, seed: int = 0, low: int = 3) -> list[int]:
    """`count` token ids that are none of the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, VOCABULARY, (count,), generator=generator).tolist()
