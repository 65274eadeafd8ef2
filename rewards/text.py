"""Bring the text of an answer to one plain spelling, without touching what it means."""

import re
import unicodedata
from functools import lru_cache

_SPELLINGS = {
    "\u2212": "-", "\u2013": "-", "\u2010": "-", "\u2014": "-", "\u00f7": "/", "\u2044": "/", "\u2215": "/",
    "\u2019": "'",
    "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u221a": "\\sqrt ", "\u221e": "\\infty ",
    "\u00b1": "\\pm ", "\u2208": "\\in ", "\u2205": "\\emptyset ", "\u00b0": " degrees", "\u202f": " ",
    "\u2009": " ", "\u03b1": "\\alpha ", "\u03b2": "\\beta ", "\u03b3": "\\gamma ", "\u03b4": "\\delta ",
    "\u03b8": "\\theta ", "\u03bb": "\\lambda ", "\u03bc": "\\mu ", "\u03c0": "\\pi ", "\u03c1": "\\rho ",
    "\u03c3": "\\sigma ", "\u03c6": "\\phi ", "\u03c9": "\\omega ",
    "\\$": "$", "\\%": "%", "{,}": ",", "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac",
    "\\quad": " ", "~": " ",
}  # fmt: skip
# Behind a backslash a brace is a brace, and behind \\frac a tie is what stands above the line.
_BUT_BEHIND = {"{,}": r"(?<!\\)", "~": r"(?<!frac)"}
_SPELLING = re.compile("|".join(_BUT_BEHIND.get(key, "") + re.escape(key) for key in _SPELLINGS))
# Characters without width. Those that turn the direction of the text are not among them: what is read would
# not be what is seen.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_SUPERSCRIPTS = str.maketrans(
    "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b", "0123456789-"
)
_SUPERSCRIPT = re.compile("[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b]+")
_ROOT_OF_DIGITS = re.compile(r"\u221a\s*([0-9]{2,})(?![0-9.!^A-Za-z])")
_FOREIGN = re.compile(r"[^\x00-\x7f]")
_SAME_CHARACTER = ("<wide>", "<narrow>", "<font>", "<noBreak>")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)(?![A-Za-z])")
_SIZE = re.compile(r"\\(?:left|right|displaystyle|textstyle|limits)(?![A-Za-z])")
_THIN_SPACE = re.compile(r"\\[,!;: ]")
_GROUPED_DIGITS = re.compile(r"(?<=[0-9])(?:\\[,!]|\{,\})(?=[0-9]{3}(?![0-9]))")
_TEXT = re.compile(r"\\(?:text|textrm|textnormal|mathrm|mbox|textbf|mathbf|textit|mathit)\s*\{([^{}]*)\}")
_TEXT_TO_A_POWER = re.compile(rf"{_TEXT.pattern}\s*(?=\^)")
_REPLACEMENTS = (
    (_DEGREES, " degrees"), (_SIZE, ""), (_THIN_SPACE, " "), (_TEXT_TO_A_POWER, r" \1"), (_TEXT, r" \1 ")
)  # fmt: skip
_CLOSING = (".", ",", ";")
# "$5$ apples": the number alone is set off.
_SET_OFF = re.compile(
    r"(?:\$([^$]+)\$|\*\*([^*]+)\*\*|\\\(([^()\\]*)\\\)|\\boxed\{([^{}]*)\})(\s+[A-Za-z ]+)"
)
_WRAPPERS = (
    ("\\boxed{", "}"), ("\\fbox{", "}"), ("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"),
    ("**", "**"), ("__", "__"), ("*", "*"), ("```", "```"), ("`", "`"),
    ('"', '"'), ("'", "'"), ("\u201c", "\u201d"), ("\u2018", "\u2019"),
)  # fmt: skip


def _closed(text: str) -> str:
    """Drop the mark that ends a text: one ends a sentence, three leave something out."""
    head = text[:-1].rstrip() if text.endswith(_CLOSING) else text
    return text if head.endswith(_CLOSING) else head


def unwrap(text: str) -> str:
    """Strip white space, closing punctuation and what only sets an answer off: ** $ \\boxed{ } quotes."""
    for _ in range(8):  # more layers than that are no answer
        before = text
        text = _closed(text.strip())
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
    return closes_last(inner, "{", "}") if closer == "}" else opener not in inner and closer not in inner


def closes_last(inner: str, opener: str, closer: str) -> bool:
    """Whether a bracket opened before `inner` is closed behind it and not within."""
    depth = 0
    for character in inner:
        depth += (character == opener) - (character == closer)
        if depth < 0:
            return False
    return depth == 0


def plain(text: str) -> str:
    """Return `text` unwrapped, with one spelling for signs, digits, spaces and LaTeX's plain text."""
    if not text.isascii():
        text = _SUPERSCRIPT.sub(_power, _INVISIBLE.sub("", text))
        text = _FOREIGN.sub(lambda match: _in_ascii(match.group()), text)
        text = _ROOT_OF_DIGITS.sub(r"\\sqrt{\1}", text)
    text = unwrap(text)
    if text.startswith(("~", "\\sim")):  # "about"; elsewhere ~ is a space
        return text
    text = _GROUPED_DIGITS.sub("", text)
    text = _SPELLING.sub(lambda match: _SPELLINGS[match.group()], text)
    for pattern, replacement in _REPLACEMENTS:
        text = pattern.sub(replacement, text)
    text = unwrap(text)
    set_off = _SET_OFF.fullmatch(text)
    return "".join(part for part in set_off.groups() if part) if set_off else text


def _power(match: re.Match[str]) -> str:
    exponent = match.group().translate(_SUPERSCRIPTS)
    return f"^{exponent}" if len(exponent) == 1 else f"^{{{exponent}}}"


@lru_cache(maxsize=4096)
def _in_ascii(character: str) -> str:
    """Return the same digit, letter or sign of ASCII where there is one, else the character.

    Full-width, mathematical and other scripts' digits are digits. Subscripts and circled digits are not.
    """
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    kind, _, codes = unicodedata.decomposition(character).partition(" ")
    if kind == "<fraction>":
        return " " + "".join(chr(int(code, 16)) for code in codes.split())
    return unicodedata.normalize("NFKC", character) if kind in _SAME_CHARACTER else character


def fold(text: str) -> str:
    """Fold case, white space, and what looks the same: composed letters and characters without width."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return " ".join(text.casefold().split())
