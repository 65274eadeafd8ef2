"""What rollout.py, grpo_step.py, memory.py and scaling.py share.

Every side that is measured is a process of its own: what one sets (threads, allocator, seeds, caches) cannot
reach the other. Its model is loaded once and its first steps are warm-up. Then the sides take turns: the
parent says go, one side works, and all others wait on a pipe. The parent itself imports no torch.

Lengths are exact for everyone by one means: all load the same model folder, in which the token that ends a
sequence has an id beyond the head's last row. No side is told to ignore anything, and none can stop early.
"""

import argparse
import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_SHAPE = {"architecture": "llama", "max_positions": 16384}
SHAPES: dict[str, dict[str, Any]] = {
    "micro": dict(hidden_size=64, layers=2, heads=4, kv_heads=2, intermediate_size=128, vocabulary=512),
    "smollm2-135m": dict(
        hidden_size=576, layers=30, heads=9, kv_heads=3, intermediate_size=1536, vocabulary=49152
    ),
    "qwen2-0.5b": dict(
        architecture="qwen2", hidden_size=896, layers=24, heads=14, kv_heads=2, intermediate_size=4864,
        vocabulary=151936,
    ),
    "llama-1b": dict(
        hidden_size=2048, layers=16, heads=32, kv_heads=8, intermediate_size=8192, vocabulary=128256
    ),
}  # fmt: skip


class SideFailed(RuntimeError):
    """A side ended, or said something else than expected. The text is the end of what it wrote."""


def spread(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward in [0, 1) from a hash of the tokens: no two completions of a group earn the same.

    Both sides of a training step load it, so that every group is informative on both.
    """
    digests = (hashlib.sha256(repr(list(ids)).encode()).digest() for ids in completion_ids)
    return [int.from_bytes(digest[:6], "big") / 2**48 for digest in digests]


# ---------------------------------------------------------------------- the command line


def at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def key_value(text: str) -> tuple[str, Any]:
    """`key=value`, the value read as JSON where it is any."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form key=value")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def shape(text: str) -> dict[str, Any]:
    """A name in SHAPES, or `layers=2,hidden_size=64,...` laid over the shape of SmolLM2-135M."""
    if text in SHAPES:
        return {**_SHAPE, **SHAPES[text]}
    if "=" not in text:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SHAPES)}, nor layers=2,heads=4,...")
    given = dict(key_value(part) for part in text.split(","))
    known = {**_SHAPE, **SHAPES["smollm2-135m"]}
    if unknown := sorted(given.keys() - known.keys()):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: known are {', '.join(known)}")
    return {**known, **given}


def parser(
    doc: str | None, *, new_tokens: int | None = None, prompt_tokens: int = 55, rounds: int = 5
) -> argparse.ArgumentParser:
    """The options of every benchmark, with these defaults; without `new_tokens` there is no one length."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", default="embedded", help="embedded (SmolLM2-135M-Instruct) or a folder")
    made.add_argument(
        "--random-config", type=shape, metavar="SHAPE",
        help=f"random weights instead: {', '.join(SHAPES)}, or layers=2,hidden_size=64,...",
    )  # fmt: skip
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    made.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float32"), default="auto",
        help="auto: bfloat16 where this machine multiplies it in hardware, else float32",
    )  # fmt: skip
    made.add_argument("--threads", type=at_least_one, help="processor threads of each side; default: torch's")
    made.add_argument("--rounds", type=at_least_one, default=rounds, help=f"turns of each side ({rounds})")
    made.add_argument("--warmup", type=at_least_one, default=1, help="turns before the first that counts (1)")
    made.add_argument("--prompts", type=at_least_one, default=8, help="different prompts (8)")
    made.add_argument("--group-size", type=at_least_one, default=8, help="completions of each prompt (8)")
    made.add_argument(
        "--prompt-tokens", type=at_least_one, default=prompt_tokens, help=f"of a prompt ({prompt_tokens})"
    )
    if new_tokens is not None:
        made.add_argument(
            "--new-tokens", type=at_least_one, default=new_tokens,
            help=f"length of a completion, exactly ({new_tokens})",
        )  # fmt: skip
    made.add_argument(
        "--ours", metavar="KEY=VALUE", nargs="+", default=[], help="overrides of our config, as for train.py"
    )
    made.add_argument("--json", type=Path, metavar="PATH", help="write all that was measured to this file")
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse, and refuse what would fail only after minutes."""
    options = made.parse_args(arguments)
    if options.random_config is None and options.model != "embedded" and not Path(options.model).is_dir():
        made.error(f"--model {options.model}: there is no such folder; or take --random-config qwen2-0.5b")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        made.error(f"--json {options.json}: its folder does not exist")
    return options


# ---------------------------------------------------------------------- sides: the parent's end


class Side:
    """A process that is measured. Made by `Bench.start`; `facts` is what it said when it was ready."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self._ended = ""
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed in stop)
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True,
            env={**os.environ, **environment},
            start_new_session=True,  # so that what it has started ends with it
        )  # fmt: skip
        self.facts = self._read()

    def turn(self, **case: Any) -> dict[str, Any]:
        """Let the side work once. Raises SideFailed if it ends instead of answering."""
        if self._ended:
            raise SideFailed(self._ended)
        assert self._process.stdin is not None
        with suppress(OSError):  # it has ended, which reading finds out
            self._process.stdin.write(json.dumps(case) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return dict(json.loads(line))
        code = self._process.wait()
        self._log.seek(0)
        lines = [text.rstrip() for text in self._log if text.strip()]
        self.stop()
        killed = " (killed; out of memory?)" if code == -9 else ""
        self._ended = "\n".join([f"{self.name} ended with code {code}{killed}", *lines[-25:]])
        raise SideFailed(self._ended)

    def stop(self) -> None:
        """End the process and what it has started; a second call does nothing."""
        if self._log.closed:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


class Bench:
    """One call of a benchmark: its options, its folder, and the sides that it has started.

    `facts` is what preparing found: the model's sizes, the prompts' token ids, the machine and its roofline.
    """

    def __init__(self, options: argparse.Namespace, script: str, *, new_tokens: int) -> None:
        self.options = options
        self._script = script
        self._folder = tempfile.TemporaryDirectory(prefix="benchmark-")
        self._running: list[Side] = []
        self.settings: dict[str, Any] = {
            **{key: value for key, value in vars(options).items() if not isinstance(value, Path)},
            "folder": self._folder.name,
            "new_tokens": new_tokens,
            "reward": f"{Path(__file__).resolve()}:spread",
        }
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> "Bench":
        side = self._start(str(Path(__file__).with_name("prepare.py")), "prepare", {}, sys.executable)
        self.facts = side.facts
        self.stop(side)
        self.settings["prompt_ids"] = self.facts.pop("prompt_ids")
        self.options.dtype = self.settings["dtype"] = self.facts.pop("dtype")
        return self

    def __exit__(self, *_: object) -> None:
        for side in list(self._running):
            self.stop(side)
        self._folder.cleanup()

    def start(self, name: str, *, python: str = sys.executable, **more: Any) -> Side:
        """Start a side of the benchmark's script and wait until it is warm. Raises SideFailed."""
        return self._start(self._script, name, more, python)

    def _start(self, script: str, name: str, more: Mapping[str, Any], python: str) -> Side:
        path = Path(tempfile.mkdtemp(dir=self._folder.name)) / "settings.json"
        path.write_text(json.dumps({**self.settings, **more}))
        side = Side(name, [python, script, "--side", name, str(path)], self._environment())
        self._running.append(side)
        return side

    def stop(self, side: Side) -> None:
        side.stop()
        self._running.remove(side)

    def _environment(self) -> dict[str, str]:
        made = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}
        made["TOKENIZERS_PARALLELISM"] = "false"
        # On Hopper torch takes cuDNN's attention first, which builds a plan for each shape, half a second
        # each: we leave it out, and so do the others here.
        made["TORCH_CUDNN_SDPA_DEPRIORITIZED"] = "1"
        if self.options.device == "cpu":
            made["CUDA_VISIBLE_DEVICES"] = ""
        if self.options.threads:
            made["OMP_NUM_THREADS"] = made["MKL_NUM_THREADS"] = str(self.options.threads)
        return made

    def report(self, **found: Any) -> dict[str, Any]:
        """All there is to keep: when, where, with what, what was asked for and what was found."""
        asked = {key: str(v) if isinstance(v, Path) else v for key, v in vars(self.options).items()}
        whole = {
            "benchmark": Path(self._script).stem,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "options": asked,
            **{key: self.facts[key] for key in ("machine", "versions", "roofline", "model", "prompt_tokens")},
            **found,
        }
        if self.options.json is not None:
            self.options.json.write_text(json.dumps(whole, indent=1) + "\n")
        return whole


def run_bench(
    options: argparse.Namespace,
    script: str,
    measure: Callable[[Bench], dict[str, Any]],
    show: Callable[[Bench, dict[str, Any]], None],
) -> None:
    """Measure completions of one length, write and show what was found; exit with 1 where a side failed."""
    try:
        with Bench(options, script, new_tokens=options.new_tokens) as bench:
            print(heading(bench), flush=True)
            found = measure(bench)
            bench.report(**found)
            show(bench, found)
    except SideFailed as error:
        sys.exit(str(error))
    if found["failed"]:
        sys.exit(1)


def by_turns(
    sides: Mapping[str, Callable[[], dict[str, Any]]], rounds: int, *, settle: float = 0.2
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Call every side once a round, in reversed order every other round; returns results and failures.

    Before each turn, `settle` seconds pass in which the threads of the last one go to sleep. A side that
    fails has no more turns, and what it had measured is not used.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    failed: dict[str, str] = {}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            if name in failed:
                continue
            time.sleep(settle)
            try:
                results[name].append(sides[name]())
            except SideFailed as error:
                failed[name] = str(error)
                del results[name]
    return results, failed


# ---------------------------------------------------------------------- sides: their own end


class Turns:
    """What a side talks to its parent with. Whatever else is written to standard output becomes log."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def say(self, **message: Any) -> None:
        """Say that this side is ready, or answer a turn."""
        self._out.write(json.dumps(message) + "\n")
        self._out.flush()

    def wait(self) -> dict[str, Any] | None:
        """Wait for the next turn; None when there will be none."""
        line = sys.stdin.readline()
        return dict(json.loads(line)) if line else None


def run_side(sides: Mapping[str, Callable[[dict[str, Any], Turns], None]]) -> bool:
    """Be a side, if the command line says so; returns whether it did."""
    if sys.argv[1:2] != ["--side"]:
        return False
    sys.path.insert(0, str(ROOT))
    _, _, name, path = sys.argv
    sides[name]({**json.loads(Path(path).read_text()), "own_folder": str(Path(path).parent)}, Turns())
    return True


# ---------------------------------------------------------------------- what is printed


def compared(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Medians, their ratio (theirs / ours), and the ratio of each round."""
    medians = statistics.median(ours), statistics.median(theirs)
    pairs = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {"ours": medians[0], "theirs": medians[1], "ratio": medians[1] / medians[0], "ratios": pairs}


def show_ratio(found: Mapping[str, Any]) -> None:
    """Print how TRL compares with ours, if both were measured."""
    if found["compared"]:
        ratios = " ".join(f"{ratio:.2f}" for ratio in found["compared"]["ratios"])
        print(f"\nRATIO {found['compared']['ratio']:.2f} (TRL / ours; by rounds {ratios})")


def show_failures(found: Mapping[str, Any]) -> None:
    for name, why in found["failed"].items():
        print(f"\n{name} failed: {why}")


def heading(bench: Bench) -> str:
    """What is measured on: machine, versions, model, roofline."""
    facts, options = bench.facts, bench.options
    where, peak, model = facts["machine"], facts["roofline"], facts["model"]
    device = f", {where['gpu']}" if "gpu" in where else ""
    used = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    products = " and ".join(
        f"{peak[name] / 1e9:,.0f} GFLOP/s in {name}" for name in ("float32", "bfloat16") if name in peak
    )
    return "\n".join(
        [
            f"{where['processor']}, {where['cores']} cores, {peak['threads']} threads, "
            f"{where['memory_gib']:g} GiB{device}",
            used,
            f"model of {model['parameters'] / 1e6:.1f} M parameters ({model['name']}), {options.dtype}; "
            f"prompts of {min(facts['prompt_tokens'])} to {max(facts['prompt_tokens'])} tokens",
            f"matrix product of {peak['size']}^3: {products}; copying: {peak['bandwidth'] / 1e9:,.0f} GB/s",
        ]
    )


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns of text, the first to the left, all others to the right."""
    lines = [list(headers), *map(list, rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(headers))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
