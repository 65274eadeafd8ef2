"""The policy: a causal language model, its tokenizer, its adapter; loading, saving, checking."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from rlreason.config.model import ModelConfig, ScratchConfig
from rlreason.errors import UserError
from rlreason.policy.adapter import merged_state, with_adapter
from rlreason.policy.architecture import scratch_model
from rlreason.policy.chat import end_of_sequence_ids
from rlreason.policy.embedded import EMBEDDED, embedded_model
from rlreason.policy.precision import leave_cudnn_attention_out, resolve_precision
from rlreason.policy.scratch import scratch_tokenizer
from rlreason.runs.manifest import refuse_damaged


@dataclass
class Policy:
    """What is trained. `model` holds float32 master weights; `dtype` is what products are computed in."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    dtype: torch.dtype
    eos_ids: tuple[int, ...]
    pad_id: int

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def autocast(self, dtype: torch.dtype | None = None) -> Any:
        """A context in which products are computed in `dtype`, that of the policy by default."""
        wanted = dtype or self.dtype
        if wanted == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=wanted)

    @contextmanager
    def adapter_off(self) -> Any:
        """The model without its LoRA adapter, for a reference that costs no memory."""
        with self.model.disable_adapter():
            yield

    @property
    def has_adapter(self) -> bool:
        return hasattr(self.model, "peft_config")

    def save(self, directory: Path) -> None:
        """Write what `AutoModelForCausalLM.from_pretrained` loads: adapter merged, chat template included."""
        model = self.model
        if self.has_adapter:
            merged = merged_state(model)
            model.get_base_model().save_pretrained(directory, state_dict=merged)
        else:
            model.save_pretrained(directory)
        self.tokenizer.save_pretrained(directory)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The parameters that train, by name. Raises UserError if there are none."""
        found = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        if not found:
            raise UserError("model: no parameter is trainable; check model.lora.targets")
        return found


def load_policy(
    config: ModelConfig,
    *,
    path: str | Path | None = None,
    device: torch.device | None = None,
    scratch_texts: Callable[[], Sequence[str]] | None = None,
    tags: Sequence[str] = (),
    dropout: bool = False,
) -> Policy:
    """Load the policy of `config`, or the checkpoint at `path` with the rest of `config`.

    With `model.scratch`, a model is made from nothing; its tokenizer is that of another model, or is made for
    `scratch_texts()` and has one token for each of `tags`. Dropout is off unless asked for: in reinforcement
    learning the ratio of the first pass must be 1. Raises UserError if the model cannot be found
    or lacks a tokenizer.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    leave_cudnn_attention_out()
    if config.scratch is not None and path is None:
        tokenizer: Any = _new_tokenizer(config.scratch, scratch_texts, tags)
        model: Any = scratch_model(config, tokenizer)
    else:
        model, tokenizer = _load(config, str(path) if path is not None else config.path)
    settings = model.config.get_text_config()
    if getattr(settings, "output_router_logits", False):
        # A mixture of experts would compute a loss of its own beside the logits, also while it samples.
        settings.output_router_logits = False
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    if config.lora is not None:
        model = with_adapter(model, config.lora)
    if not dropout:
        switch_dropout_off(model)
    model.to(device).train()
    return Policy(
        model=model,
        tokenizer=tokenizer,
        dtype=resolve_precision(config.precision, device),
        eos_ids=end_of_sequence_ids(model, tokenizer),
        pad_id=_pad_id(tokenizer),
    )


def switch_dropout_off(model: nn.Module) -> None:
    for owner, name in _dropouts(model):
        setattr(owner, name, 0.0)


def drops(model: nn.Module) -> bool:
    """Whether the model drops anything out while it trains."""
    return any(getattr(owner, name) > 0 for owner, name in _dropouts(model))


def _dropouts(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Where the shares that drop out stand. That of attention is a number in its own module."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            yield module, "p"
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                yield module, name


def _new_tokenizer(
    shape: ScratchConfig, texts: Callable[[], Sequence[str]] | None, tags: Sequence[str]
) -> Any:
    if shape.tokenizer is not None:
        return _load_tokenizer(shape.tokenizer, {}, "model.scratch.tokenizer")
    return scratch_tokenizer(texts() if texts else (), tags, tokens=shape.tokens, vocabulary=shape.vocabulary)


def _local(path: str) -> Path:
    return embedded_model() if path == EMBEDDED else Path(path).expanduser()


def _load_tokenizer(path: str, options: dict[str, Any], field: str) -> Any:
    local = _local(path)
    try:
        found = str(local) if local.exists() else path
        # Said, and not left out: transformers would ask on the terminal whether to run a model's own code.
        return AutoTokenizer.from_pretrained(found, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        raise _unreadable(path, local.exists(), "tokenizer", error, field) from error


def _load(config: ModelConfig, path: str) -> tuple[Any, Any]:
    local = _local(path)
    source = str(local) if local.exists() else path
    options: dict[str, Any] = {"revision": config.revision} if not local.exists() and config.revision else {}
    if local.exists():
        refuse_damaged(local, field="model.path")
        if (local / "adapter_config.json").exists():
            raise UserError(
                f"model.path: {path!r} holds an adapter of peft, which would bring a model from elsewhere; "
                "merge the two first (model.merge_and_unload().save_pretrained(FOLDER)) and name that folder"
            )
    tokenizer = _load_tokenizer(path, options, "model.path")
    if not local.exists() or (local / "config.json").exists():
        try:
            model = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=torch.float32,
                attn_implementation=config.attention,
                use_safetensors=True,
                trust_remote_code=False,
                **options,
            )
        except (OSError, ValueError, ImportError, SafetensorError) as error:
            raise _unreadable(path, local.exists(), "model", error, "model.path") from error
        return model, tokenizer
    raise UserError(f"model.path: {path!r} holds no config.json, so it is no model directory")


def _unreadable(path: str, is_local: bool, part: str, error: Exception, field: str) -> UserError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if is_local:
        return UserError(
            f"{field}: no {part} can be loaded from the directory {path!r} ({first}). "
            f"It must hold what save_pretrained writes of model and tokenizer."
        )
    return UserError(
        f"{field}: {path!r} is no local directory, and the {part} of that name could not be fetched from "
        f"the model hub ({first}). Without a hub, use the embedded model ({field}={EMBEDDED}) or the "
        f"path of a local model directory."
    )


def _pad_id(tokenizer: Any) -> int:
    # Any id will do: masks come from lengths, never from comparing ids.
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(int(token) for token in ids if token is not None)
