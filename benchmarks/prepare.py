"""The first process of a benchmark: it makes the model folder and the prompts, and measures the roofline.

The folder holds the model as it is, but for the token that ends a sequence, unless that is needed: it is a
new one, whose id lies behind the last row of the head, so that nothing ever samples it. See `harness`.
"""

import json
import random
import sys
from itertools import count, islice, product
from pathlib import Path
from typing import Any

from hardware import machine, synchronized, versions
from harness import Turns, run_side

_NEVER = "<|never|>"
# A product or a copy is not repeated beyond that.
_ENOUGH_SECONDS = 10.0
_FILLER = (
    "Think",
    "it",
    "over",
    "step",
    "by",
    "step",
    ",",
    "check",
    "each",
    "number",
    "and",
    "then",
    "answer",
    ".",
)


def prepare(settings: dict[str, Any], turns: Turns) -> None:
    import torch

    from rlreason.policy.precision import resolve_precision

    if settings["device"] == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: torch sees no CUDA device here; take --device cpu")
    folder = Path(settings["folder"])
    target = folder / "model"
    target.mkdir()
    scratch = settings["random_config"]
    tokenizer = _random_model(scratch, target) if scratch else _linked_model(settings["model"], target)
    model = _sizes(target)
    model["name"] = "random weights" if scratch else settings["model"]
    if settings.get("ends"):
        tokenizer.save_pretrained(target)
    else:
        _never_ends(tokenizer, target, rows=model["rows"])
    wanted = settings.get("most_prompts") or settings["prompts"]
    examples, prompt_ids = _questions(tokenizer, wanted + 1, settings["prompt_tokens"])
    for name, part in (("train", examples[:-1]), ("held_out", examples[-1:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    where = machine()
    if settings["device"] == "cuda":
        where["gpu"] = torch.cuda.get_device_name()
    dtype = str(resolve_precision(settings["dtype"], torch.device(settings["device"])))
    dtype = dtype.removeprefix("torch.")
    turns.say(
        dtype=dtype,
        machine=where,
        versions=versions(),
        roofline=_roofline(settings["device"], dtype),
        model=model,
        prompt_ids=prompt_ids[:-1],
        prompt_tokens=sorted(map(len, prompt_ids[:-1])),
    )


def _random_model(shape: dict[str, Any], target: Path) -> Any:
    """Save a random model of `shape`; returns its tokenizer: a token is a word, a digit or a sign."""
    import torch

    from rlreason.config.model import ModelConfig
    from rlreason.policy.architecture import scratch_model
    from rlreason.policy.chat import Renderer
    from rlreason.policy.scratch import scratch_tokenizer

    size = shape["vocabulary"]
    sizes = {key: value for key, value in shape.items() if key != "vocabulary"}
    letters = "abcdefghijklmnopqrstuvwxyz"
    own = ["0123456789 + - . , ? What is", " ".join(_FILLER)]
    tags = Renderer.tags("think_answer")
    known = scratch_tokenizer(own, tags).get_vocab()
    spelled = ("".join(word) for length in count(3) for word in product(letters, repeat=length))
    words = islice((word for word in spelled if word not in known), size - len(known))
    tokenizer = scratch_tokenizer([*own, *words], tags)
    torch.manual_seed(0)
    scratch_model(ModelConfig.model_validate({"scratch": sizes}), tokenizer).save_pretrained(target)
    return tokenizer


def _linked_model(name: str, target: Path) -> Any:
    """Fill the folder with the config of a model and links to its weights; returns its tokenizer."""
    from transformers import AutoTokenizer

    from rlreason.policy.embedded import embedded_model

    source = embedded_model() if name == "embedded" else Path(name).resolve()
    for path in source.iterdir():
        if ".safetensors" in path.name:
            (target / path.name).symlink_to(path)
        elif path.name == "config.json":
            (target / path.name).write_text(path.read_text())
    return AutoTokenizer.from_pretrained(source)


def _never_ends(tokenizer: Any, target: Path, *, rows: int) -> None:
    """Name as end of sequence a token that the model has no logit for."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # Heads are often padded to a round size: the ids in between are taken up first.
    tokenizer.add_tokens([f"<|unused {n}|>" for n in range(max(0, rows - len(tokenizer)))])
    tokenizer.add_special_tokens({"eos_token": _NEVER})
    if tokenizer.eos_token_id < rows:
        raise RuntimeError(f"the model has a logit for its new token {tokenizer.eos_token_id}")
    tokenizer.save_pretrained(target)
    path = target / "config.json"
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    path.write_text(json.dumps({**json.loads(path.read_text()), **ids}))
    # Its own sampling defaults (a repetition penalty, say) would apply on one side only, and go with it.
    (target / "generation_config.json").write_text(json.dumps(ids))


def _questions(tokenizer: Any, number: int, tokens: int) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """`number` different questions with their answers, and their ids as the chat template renders them.

    Words are added to each until its prompt has `tokens` tokens, or one or two more.
    """
    draw = random.Random(0)
    seen: set[str] = set()
    examples, ids = [], []
    while len(examples) < number:
        a, b, c = draw.randint(10, 99), draw.randint(10, 99), draw.randint(1, 9)
        text = f"What is {a} + {b} - {c} ?"
        if text in seen:
            continue
        seen.add(text)
        words = 0
        while True:
            messages = [{"role": "user", "content": " ".join([text, *_filler(words)])}]
            rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            found = tokenizer(rendered, add_special_tokens=False)["input_ids"]
            if words == 0 and len(found) > tokens:
                sys.exit(f"--prompt-tokens {tokens}: a bare question has {len(found)} tokens already")
            if len(found) >= tokens:
                break
            words += 1
        examples.append({"prompt": messages, "answer": str(a + b - c)})
        ids.append(found)
    return examples, ids


def _filler(words: int) -> list[str]:
    return [_FILLER[place % len(_FILLER)] for place in range(words)]


def _sizes(target: Path) -> dict[str, Any]:
    """Weights in the matrices of the layers (`body`) and of the head, and the sizes of attention."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(target)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings().weight
    outside = {id(head), id(model.get_input_embeddings().weight)}
    body = sum(p.numel() for p in model.parameters() if p.dim() == 2 and id(p) not in outside)
    text = config.get_text_config()
    heads = text.num_attention_heads
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "body": body,
        "head": head.numel(),
        "rows": head.shape[0],
        "layers": text.num_hidden_layers,
        "heads": heads,
        "kv_heads": getattr(text, "num_key_value_heads", None) or heads,
        "head_dim": getattr(text, "head_dim", None) or text.hidden_size // heads,
    }


def _roofline(device: str, dtype: str) -> dict[str, Any]:
    """The best of several matrix products in each precision (operations a second) and of copies (bytes)."""
    import torch

    size, copied = (8192, 2**30) if device == "cuda" else (2048, 2**28)
    found: dict[str, Any] = {"size": size, "threads": torch.get_num_threads()}
    # Not what is not asked for: a bfloat16 product takes half a minute where no unit multiplies it.
    for name in dict.fromkeys(("float32", dtype)):
        a, b = (torch.randn(size, size, device=device).to(getattr(torch, name)) for _ in range(2))
        found[name] = 2 * size**3 / _best(lambda a=a, b=b: a @ b, device)
    source = torch.ones(copied, dtype=torch.uint8, device=device)
    into = torch.zeros_like(source)
    found["bandwidth"] = 2 * copied / _best(lambda: into.copy_(source), device)
    return found


def _best(work: Any, device: str) -> float:
    times: list[float] = []
    while len(times) < 8 and sum(times) < _ENOUGH_SECONDS:
        started = synchronized(device)
        work()
        times.append(synchronized(device) - started)
    return min(times[2:] or times)


if __name__ == "__main__":
    run_side({"prepare": prepare})
