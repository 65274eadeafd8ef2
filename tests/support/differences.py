"""Write docs/rewards-differences.md: where our rewards, math-verify and TRL differ, and who is right.

python tests/support/differences.py          a minute
python tests/support/differences.py bombs    the others on the bombs first, which takes ten
"""

import json
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version

from differential import (
    BOMBS,
    CASES,
    MEMORY,
    NAMES,
    ROOT,
    SECONDS,
    THEIRS,
    Row,
    Verdict,
    bomb_verdicts,
    compare,
    constructed,
    format_rows,
    measure_bombs,
    verdict,
    written,
)
from spellings import PAIRS

PAGE = ROOT / "docs" / "rewards-differences.md"


def code(text: str, limit: int = 70) -> str:
    """`text` as code in a cell of a Markdown table."""
    shown = text if len(text) <= limit else f"{text[:40]} ... ({len(text)} characters)"
    shown = (
        shown.encode("unicode_escape").decode().replace("\\\\", "\\") if not shown.isprintable() else shown
    )
    shown = shown.replace("|", "\\|")
    if not shown:
        return "(nothing)"
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


def mark(value: Verdict) -> str:
    return "none" if value is None else value if isinstance(value, str) else f"{value:g}"


def _table(head: str, rows: Iterable[Sequence[str]]) -> list[str]:
    columns = head.split(" | ")
    return [f"| {head} |", "|" + " --- |" * len(columns), *(f"| {' | '.join(row)} |" for row in rows), ""]


def _differences(rows: Sequence[Row], why: bool) -> list[str]:
    head = "gold | answer | right is | ours | math-verify | TRL | who is right" + (" | why" if why else "")
    return _table(
        head,
        (
            [code(row.case.gold), code(row.case.shown), mark(row.case.expect), *map(mark, row.said)]
            + [", ".join(row.right) or "nobody"]
            + ([row.case.why] if why else [])
            for row in rows
            if row.differs
        ),
    )


def _shares(rows: Sequence[Row]) -> list[str]:
    """For each kind: how many cases, and for each library how many right, paid wrongly, missed."""
    kinds = list(dict.fromkeys(row.case.kind for row in rows))
    head = "kind | cases | " + " | ".join(f"{name}: right | paid wrongly | missed" for name in NAMES)
    groups = [(kind, [row for row in rows if row.case.kind == kind]) for kind in kinds]
    return _table(head, ([kind, *counts(group)] for kind, group in [*groups, ("all", list(rows))]))


def counts(rows: Sequence[Row]) -> list[str]:
    """How many rows; then for each of NAMES how many right, paid wrongly, and right answers not paid."""
    cells = [str(len(rows))]
    for place in range(len(NAMES)):
        pairs = [(row.said[place], row.case.expect) for row in rows]
        cells.append(str(sum(said == expect for said, expect in pairs)))
        cells.append(str(sum(said == 1 != expect for said, expect in pairs)))
        cells.append(str(sum(expect == 1 != said for said, expect in pairs)))
    return cells


def bombs() -> list[str]:
    """The table of the bombs, all of them: what the others said is read from tests/parity/bombs.json."""
    measured = bomb_verdicts()
    return _table(
        "gold | answer | right is | ours | " + " | ".join(THEIRS) + " | why",
        (
            [code(case.gold), code(case.shown), mark(case.expect), mark(verdict("ours", case))]
            + [f"{mark(value)}, {seconds:g} s" for value, seconds in measured[case.why]]
            + [case.why]
            for case in written()
            if case.kind == BOMBS
        ),
    )


def form() -> list[str]:
    return _table(
        "completion | right is | ours | TRL | why",
        (
            [
                code(case.get("prefill", "") + case["completion"]),
                *map(mark, (case["expect"], ours, theirs)),
                case["why"],
            ]
            for case, ours, theirs in format_rows()
            if not ours == theirs == case["expect"]
        ),
    )


INTRODUCTION = f"""# Rewards beside math-verify and TRL

Where `accuracy` and `think_format` differ from math-verify {version("math-verify")} and from the rewards of
TRL {version("trl")}, and who is right. This page is written by

```
python tests/support/differences.py
```

and a test fails where it is out of date.

- Every library gets an answer in the form that it asks for: we between `<answer>` tags, TRL's
  `accuracy_reward` in `\\boxed{{}}`, math-verify's `verify(parse(gold), parse(answer))` between dollars where
  the answer is LaTeX.
- 1 is a reward, 0 is none, and "none" an abstention; of math-verify, that it finds nothing in the gold. Where
  the gold cannot be read, only an abstention is right.
- The right verdict of a written answer was decided by hand, by mathematics, before anything was run. A reason
  that begins with "rule" is no theorem but a choice of ours, and another choice may suit you as well.
- Ours was corrected where the written answers found it wrong, the others were not. So the shares are no
  ranking: read the rows.
- "Paid wrongly" counts rewards for wrong answers, which is what a policy under optimisation finds. "Missed"
  counts right answers that earn nothing, abstentions among them.
"""
BOMBS_TEXT = f"""Answers that are made to take for ever. The others ran in a process of their own, under
{MEMORY >> 30} GiB of memory, and were killed after {SECONDS} s; the seconds are of one run on one core.
math-verify and TRL limit their time by SIGALRM, which works on the main thread alone: in any other thread TRL
sets no limit. Ours takes less than a second for each, in every thread.
"""


@cache
def rows(kind: str) -> tuple[Row, ...]:
    """The written answers of a kind, or the generated ones of a family, and what the three say of them."""
    return tuple(compare([case for case in (*written(), *constructed()) if case.kind == kind]))


KINDS = tuple(dict.fromkeys(case.kind for case in written() if case.kind != BOMBS))
FAMILIES = tuple(dict.fromkeys(case.kind for case in constructed()))


def section(kind: str) -> str:
    """The part of the page on one kind of written answers."""
    return "\n".join([f"### {kind[0].upper()}{kind[1:]}\n", *_differences(rows(kind), why=True)])


def page() -> str:
    """The whole of docs/rewards-differences.md."""
    by_hand = [row for kind in KINDS for row in rows(kind)]
    made = [row for family in FAMILIES for row in rows(family)]
    parts = [INTRODUCTION, f"## {len(by_hand)} written answers\n", *_shares(by_hand), *map(section, KINDS)]
    parts += ["## Bombs\n", BOMBS_TEXT, *bombs()]
    parts += [
        f"## {len(made)} generated answers\n",
        f"{PAIRS} pairs of each kind: the same value in another spelling, or another value.\n",
        *_shares(made),
        *_differences(made, why=False),
        "## The form\n",
        "`think_format` for reasoning and then text (`think_text`) beside TRL's `think_format_reward`.\n"
        "TRL takes no `prefill` and got it as part of the text.\n",
        *form(),
    ]
    return "\n".join(parts).rstrip() + "\n"


def main(*arguments: str) -> None:
    if arguments == (BOMBS,):
        text = json.dumps(measure_bombs(), indent=1)
        (CASES / "bombs.json").write_text(text + "\n", encoding="utf-8")
    elif arguments:
        sys.exit(__doc__)
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
