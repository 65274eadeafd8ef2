"""From rows to Examples: which column asks, which one answers, and what cannot be used."""

import math
from decimal import Decimal
from typing import Any

from rlreason.tasks.tables import Rows, refuse, require_column
from rlreason.types import Example, Message

ROLES = ("system", "user", "assistant")


def to_examples(rows: Rows, *, prompt: str, answer: str, origin: str, remedy: str) -> list[Example]:
    """Map the columns named `prompt` and `answer`; all others become metadata, None where a row lacks one.

    `origin` names the file or data set and the field that chose it, and `remedy` where the columns are set,
    both for messages. Raises UserError for a missing column, for prompts that are neither text nor chat
    messages that end with the user's, and for gold answers that are empty or no plain value: a question
    without a gold answer would be marked wrong, or right, whatever the model says.
    """
    for column in (prompt, answer):
        require_column(rows, column, origin=origin, remedy=remedy)
    prompts = {number: prompt_messages(row.get(prompt)) for number, row in rows}
    golds = {number: gold_text(row.get(answer)) for number, row in rows}
    refuse(
        [number for number, messages in prompts.items() if messages is None],
        len(rows),
        origin=origin,
        problem=f"the prompt (column {prompt!r}) is empty or unreadable",
        remedy="it must be text, or a list of messages {role, content} of which the last is the user's",
    )
    refuse(
        [number for number, gold in golds.items() if gold is None],
        len(rows),
        origin=origin,
        problem=f"the gold answer (column {answer!r}) is empty or unreadable",
        remedy="it must be text or a number; fill these in or remove the rows",
    )
    others = dict.fromkeys(name for _, row in rows for name in row if name not in (prompt, answer))
    return [
        Example(prompts[number] or [], golds[number] or "", {name: row.get(name) for name in others})
        for number, row in rows
    ]


def gold_text(value: Any) -> str | None:
    """A gold answer as text, or None where there is none to read.

    Whole floats lose their ".0": a column of whole numbers in which one cell is empty comes out of pandas
    as floats, and 42 is what its owner wrote.
    """
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float | Decimal) and math.isfinite(value):
        return str(int(value)) if value == int(value) else str(value)
    return None


def prompt_messages(value: Any) -> list[Message] | None:
    """A prompt as chat messages, or None where it cannot be one."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}] if value.strip() else None
    if not isinstance(value, list) or not value:
        return None
    messages = []
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            return None
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            return None
        messages.append({"role": message["role"], "content": message["content"]})
    return messages if messages[-1]["role"] == "user" else None
