"""Bring the text of an answer to one plain spelling, without touching what it means."""

import re

_SPELLINGS = {
    "\u2212": "-", "\u2013": "-", "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ",
    "\u00f7": "/", "\u03c0": "\\pi ", "\u221a": "\\sqrt ", "\u00b2": "^2", "\u00b3": "^3",
    "\u00b0": " degrees", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\\$": "$", "\\%": "%", "{,}": ",",
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\quad": " ", "~": " ",
}  # fmt: skip
_SPELLING = re.compile("|".join(map(re.escape, _SPELLINGS)))
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)(?![A-Za-z])")
_SIZE = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])")
_THIN_SPACE = re.compile(r"\\[,!;: ]")
_GROUPED_DIGITS = re.compile(r"(?<=[0-9])\\[,!](?=[0-9]{3})")
_TEXT = re.compile(r"\\(?:text|mathrm|mbox|textbf|mathbf)\s*\{([^{}]*)\}")
_WRAPPERS = (
    ("\\boxed{", "}"), ("\\fbox{", "}"), ("\\(", "\\)"), ("\\[", "\\]"),
    ("$$", "$$"), ("$", "$"), ("**", "**"), ("__", "__"), ("*", "*"), ("`", "`"),
)  # fmt: skip


def unwrap(text: str) -> str:
    """Strip white space, closing punctuation and what only sets an answer off: **, $ $, \\boxed{ }."""
    for _ in range(8):  # more layers than that are no answer
        before = text
        text = text.strip().rstrip(".,;").rstrip()
        for opener, closer in _WRAPPERS:
            inner = text[len(opener) : -len(closer)]
            wrapped = len(text) > len(opener) + len(closer) and text.startswith(opener)
            # "**4** or **5**" and "\boxed{4}, \boxed{5}" are not one wrapped text.
            if wrapped and text.endswith(closer) and _is_one(inner, opener, closer):
                text = inner
                break
        if text == before:
            break
    return text


def _is_one(inner: str, opener: str, closer: str) -> bool:
    if closer != "}":
        return opener not in inner and closer not in inner
    depth = 0
    for character in inner:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def plain(text: str) -> str:
    """Return `text` unwrapped, with one spelling for signs, spaces and LaTeX's ways to set plain text."""
    text = _SPELLING.sub(lambda match: _SPELLINGS[match.group()], unwrap(text))
    text = _GROUPED_DIGITS.sub("", text)
    for pattern, replacement in ((_DEGREES, " degrees"), (_SIZE, ""), (_THIN_SPACE, " "), (_TEXT, r" \1 ")):
        text = pattern.sub(replacement, text)
    return unwrap(text)


def fold(text: str) -> str:
    """Fold case and white space."""
    return " ".join(text.casefold().split())
