"""Text for terminals: model output made harmless, long text shortened, numbers at fixed precision."""

import math
import re
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇"  # without the full one, which would touch the line above

# A completion is written by a policy under optimisation. Control characters (C0, C1) move cursors and set
# colours, format characters turn the reading direction around, lone surrogates cannot be encoded. Each is
# replaced by one visible character, so that counts and positions stay those of the original.
_HARMLESS = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
    | {0x7F: 0x2421}
    | {code: 0xFFFD for code in (*range(0x80, 0xA0), *range(0xD800, 0xE000))}
    | {code: 0xFFFD for code in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A))}
    | {0xFEFF: 0xFFFD, ord("\t"): ord(" ")}
)

# Which metrics are shares of 1, and so read as percentages.
_SHARES = frozenset(
    {"accuracy", "format", "truncated", "informative", "clipped", "accuracy_given_format", "derives"}
    | {"pass_at", "maj_at", "failed", "abstained"}
)
_SMALL = frozenset({"lr"})
_TAG = re.compile(r"<(/?)(think|answer)>")
_TAGS = {"<think>": "think", "<answer>": "answer", "</think>": "text", "</answer>": "text"}


def harmless(text: object) -> str:
    """Return `text` with every character that a terminal would act on replaced by a visible one."""
    return str(text).translate(_HARMLESS)


def one_line(text: object, limit: int) -> str:
    """Return `text` made harmless, on one line of at most about `limit` characters."""
    line = " ".join(harmless(text).split())
    if len(line) <= limit:
        return line
    return f"{line[:limit]} {omitted(len(line) - limit)}"


def omitted(count: int) -> str:
    """The mark that stands for `count` characters that are not shown."""
    return f"[… {count:,} character{'s' if count != 1 else ''}]"


def shown_ends(text: str, *, characters: int, lines: int) -> tuple[int, int]:
    """Return (a, b): show `text[:a]` and `text[b:]`, which keep within both limits.

    Two thirds of either limit go to the beginning, the rest to the end, where the answer is. a equals b
    when all of it fits.
    """
    head_lines = max(2 * lines // 3, 1)
    tail_lines = max(lines - head_lines, 1)
    fits_lines = text.count("\n") + 1 <= head_lines + tail_lines
    if len(text) <= characters and fits_lines:
        return len(text), len(text)
    head = 2 * characters // 3
    tail = max(len(text) - (characters - head), 0)
    if not fits_lines:
        first, last = -1, len(text)
        for _ in range(head_lines):
            first = text.index("\n", first + 1)
        for _ in range(tail_lines):
            last = text.rindex("\n", 0, last)
        head, tail = min(head, first), max(tail, last + 1)
    return min(head, tail), tail


def role_at(text: str, position: int) -> str:
    """The role of a completion's text at `position`: "think", "answer" or "text", for display only.

    Scoring has its own parser; this one colours whatever is there. Text before a first `</think>` is
    reasoning whose opening tag stood in the prompt.
    """
    before = {tag: text.rfind(tag, 0, position) for tag in _TAGS}
    last = max(before, key=lambda tag: before[tag])
    if before[last] >= 0:
        return _TAGS[last]
    after = {tag: found for tag in _TAGS if (found := text.find(tag, position)) >= 0}
    return "think" if after and min(after, key=lambda tag: after[tag]) == "</think>" else "text"


def roles(text: str, role: str | None = None) -> list[tuple[int, int, str]]:
    """Split a completion into (start, end, role), "tag" being one too; `role` is that of a part's start."""
    role = role_at(text, 0) if role is None else role
    spans, position = [], 0
    for tag in _TAG.finditer(text):
        spans.append((position, tag.start(), role))
        spans.append((tag.start(), tag.end(), "tag"))
        role = "text" if tag[1] else tag[2]
        position = tag.end()
    spans.append((position, len(text), role))
    return [span for span in spans if span[0] < span[1]]


def number(name: str, value: float | int | None) -> str:
    """Return a metric as people read it: shares as percentages, the rest to about four digits."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(float(value))
    if name in _SHARES:
        return f"{100 * value:.1f}%"
    if name in _SMALL:
        return f"{value:.1e}"
    if isinstance(value, int):
        return f"{value:,}"
    # Zero first: a KL of 0 is the rule at the first step.
    if value != 0 and (abs(value) < 5e-5 or abs(value) >= 1e6):
        return f"{value:.1e}"
    size = abs(value)
    return f"{value:.{4 if size < 0.1 else 3 if size < 10 else 1 if size < 1000 else 0}f}"


def duration(seconds: float | None) -> str:
    """Return seconds as m:ss or h:mm:ss."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    whole = max(round(seconds), 0)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """Draw `values` as at most `width` blocks, the newest on the right, from their lowest to their highest.

    Neighbours are averaged where there are more of them than columns. A value that is missing or not
    finite leaves a gap; values that are all equal draw a line at half height.
    """
    columns = min(width, len(values))
    means = []
    for column in range(columns):
        part = values[column * len(values) // columns : (column + 1) * len(values) // columns]
        finite = [value for value in part if value is not None and math.isfinite(value)]
        means.append(math.fsum(finite) / len(finite) if finite else None)
    known = [mean for mean in means if mean is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    top = len(BLOCKS) - 1

    def block(mean: float | None) -> str:
        if mean is None:
            return " "
        return BLOCKS[round(top * (mean - low) / (high - low))] if high > low else BLOCKS[top // 2]

    return "".join(block(mean) for mean in means)
