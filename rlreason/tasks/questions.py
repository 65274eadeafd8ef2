"""When two questions are the same question, and how a name that does not exist is answered."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

from rlreason.types import Example, Message


def question_key(example: Example) -> str:
    """The text of a question by which duplicates, and training questions in a held-out set, are found.

    It is the whole conversation without its system message, because "And then?" is another question after
    another beginning. Upper and lower case, runs of white space and Unicode composition make no difference:
    a held-out question that was trained on in capitals has been trained on.
    """
    return message_key(example.prompt)


def message_key(prompt: Iterable[Message]) -> str:
    """`question_key` of a conversation."""
    return folded("\n".join(message["content"] for message in prompt if message["role"] != "system"))


def folded(text: str) -> str:
    """`text` without what makes no difference to `question_key`."""
    return " ".join(unicodedata.normalize("NFC", text.casefold()).split())


def holds(text: str, questions: Iterable[str]) -> bool:
    """Whether a text, folded, holds one of `questions` (keys), alone or among other words.

    "What is 2 + 3" is not held by "What is 2 + 30": where a question begins or ends, no word goes on.
    """
    return any(
        question in text and re.search(rf"(?<!\w){re.escape(question)}(?!\w)", text) for question in questions
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: "did you mean 'x'? There are x, y", the list cut to a dozen."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"{guess}There are {', '.join(names[:12]) or 'none'}{more}"
