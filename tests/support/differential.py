"""The same answers to our accuracy, to math-verify and to TRL, and what each says of them.

Every library gets an answer in the form it asks for: we between our tags, TRL in a box, math-verify between
dollars where it is LaTeX. The right verdict of a written answer stands in tests/parity/accuracy_cases.jsonl
and was decided by mathematics, not by running anything; that of a generated one follows from how it was made.

    python tests/support/differential.py ONE NUMBER     one verdict, as JSON, under a limit on memory
"""

import json
import re
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]  # as a script it is started with this folder on the path, not the project's

from spellings import generated  # noqa: E402

from rewards import REWARDS, SPECS  # noqa: E402

CASES = ROOT / "tests" / "parity"
NAMES = ("ours", "math-verify", "TRL")
BOMBS = "bombs"
THREAD = "TRL in a thread"
THEIRS = ("math-verify", "TRL", THREAD)
SECONDS = 30  # for a bomb; math-verify and TRL limit themselves to 5 to 15 seconds for each of three steps
MEMORY = 4 << 30  # bytes

_MATH = re.compile(r"\$|\\boxed|\\\(|\\\[")
_NUMBER = re.compile(r"[-+0-9.,/%eE: ]*")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_SET_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\s*\{[^{}]*\}")

Verdict = float | str | None  # None: abstains, or cannot read the gold; a string: no verdict came back
Timed = tuple[Verdict, float]  # with the seconds that it took


@dataclass(frozen=True)
class Case:
    """A gold answer, a completion for each library, and the right verdict: 1, 0, or None for no gold."""

    kind: str
    gold: str
    shown: str  # the answer, or the whole completion
    completions: tuple[str, str, str]  # ours, math-verify, TRL
    expect: float | None
    why: str
    answer_type: str = "math"


def _dollars(text: str, wanted: bool = False) -> str:
    """`text` between dollars where it is LaTeX or an expression, as math-verify finds formulas in a text."""
    bare = _SET_TEXT.sub("", text)
    if _MATH.search(text) or _WORD.search(bare) or (_NUMBER.fullmatch(text) and not wanted):
        return text
    return f"${text}$"


def _case(kind: str, gold: str, answer: str, expect: float | None, why: str, **more: str) -> Case:
    answer_type, boxed = more.get("type", "math"), more.get("trl")
    boxed = boxed or (answer if _MATH.search(answer) else rf"\boxed{{{answer}}}")
    ours, trl = (f"<think>\nr\n</think>\n<answer>{text}</answer>" for text in (answer, boxed))
    theirs = _dollars(answer, wanted=answer_type == "set")
    return Case(kind, gold, answer, (ours, theirs, trl), expect, why, answer_type)


def written() -> list[Case]:
    """The answers of accuracy_cases.jsonl. A list of [text, times] pairs stands for the repeated text."""
    cases = []
    for line in (CASES / "accuracy_cases.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        if "completion" in case:
            text = case.pop("completion")
            cases.append(Case(**case, shown=text, completions=(text, text, text)))
        else:
            if isinstance(case["answer"], list):
                case["answer"] = "".join(text * times for text, times in case["answer"])
            cases.append(_case(**case))
    return cases


def constructed() -> list[Case]:
    return [
        _case(pair.family, pair.gold, pair.answer, float(pair.equal), "", type=pair.answer_type)
        for pair in generated()
    ]


def verdict(name: str, case: Case) -> Verdict:
    """What one of NAMES says of a case."""
    ours, theirs, trl = case.completions
    gold = _dollars(case.gold, wanted=case.answer_type == "set")
    if name == "ours":
        columns: dict[str, Any] = {"answer": [case.gold], "answer_type": [case.answer_type]}
        return REWARDS["accuracy"](completions=[ours], **columns)[0]
    if name == "math-verify":
        import math_verify

        parsed = math_verify.parse(gold)
        return float(math_verify.verify(parsed, math_verify.parse(theirs))) if parsed else None
    from trl.rewards import accuracy_reward

    value: float | None = accuracy_reward([[{"role": "assistant", "content": trl}]], [gold])[0]
    return value


def killable(name: str, number: int) -> Timed:
    """`verdict` on a written case in a process of its own, which is killed after SECONDS."""
    command = [sys.executable, __file__, name, str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            said, _ = child.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            return "killed", SECONDS
    if child.returncode:
        return f"died ({child.returncode})", 0
    value, seconds = json.loads(said)
    return value, seconds


def timed_verdict(name: str, case: Case) -> Timed:
    """What one of THEIRS says of a case, and in how many seconds."""
    said: list[Verdict] = []
    started = time.perf_counter()
    if name == THREAD:
        thread = threading.Thread(target=lambda: said.append(verdict("TRL", case)))
        thread.start()
        thread.join()
    else:
        said.append(verdict(name, case))
    return said[0], round(time.perf_counter() - started)


def measure_bombs() -> dict[str, list[Timed]]:
    """What THEIRS say of each bomb, by the bomb's reason."""
    cases = enumerate(written())
    return {c.why: [killable(name, n) for name in THEIRS] for n, c in cases if c.kind == BOMBS}


def bomb_verdicts() -> dict[str, list[Timed]]:
    """What `measure_bombs` found when it last ran."""
    found: dict[str, list[Timed]] = json.loads((CASES / "bombs.json").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Row:
    """A case and what the three of NAMES say."""

    case: Case
    said: tuple[Verdict, ...]

    @property
    def right(self) -> list[str]:
        return [name for name, value in zip(NAMES, self.said, strict=True) if value == self.case.expect]

    @property
    def differs(self) -> bool:
        return len(self.right) < len(NAMES)


def compare(cases: Sequence[Case]) -> list[Row]:
    return [Row(case, tuple(verdict(name, case) for name in NAMES)) for case in cases]


def format_rows() -> list[tuple[dict[str, Any], Verdict, Verdict]]:
    """Each case of format_cases.jsonl with what our think_format and TRL's think_format_reward say."""
    from trl.rewards import think_format_reward

    ours = REWARDS["think_format"].with_spec(SPECS["think_text"])
    rows: list[tuple[dict[str, Any], Verdict, Verdict]] = []
    for line in (CASES / "format_cases.jsonl").read_text(encoding="utf-8").splitlines():
        case = json.loads(line)
        text, prefill = case["completion"], case.get("prefill", "")
        (mine,) = ours(completions=[text], prefill=[prefill])
        (theirs,) = think_format_reward([[{"role": "assistant", "content": prefill + text}]])
        rows.append((case, mine, theirs))
    return rows


if __name__ == "__main__":
    with suppress(ValueError):  # macOS does not let it be set
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    print(json.dumps(timed_verdict(sys.argv[1], written()[int(sys.argv[2])])))
