"""Comparison of closed forms and expressions, such as 4\\sqrt{2}, 2\\pi or 2x + 1.

math-verify reads the text; what reaches it has passed a guard, because its time limits rest on SIGALRM and
so cannot be used off the main thread. Whether two expressions are equal is then decided by their values at
fixed points to 40 digits, relative to their size: that cannot run away as symbolic simplification does, and
tells 1/2004! from 1/2006!, which differ by less than any absolute tolerance.
"""

import hashlib
import logging
import math
import re
import threading
from functools import lru_cache
from typing import Any

MAX_CHARACTERS = 200
MAX_DEPTH = 10
# A bound on the product of all numbers in exponents bounds ((9^{9})^{9})^{9} too; towers are refused.
MAX_EXPONENT = 1000
MAX_EXPONENT_OF_FACTORIAL = 10
DIGITS = 40
TRIALS = 4

_FUNCTIONS = r"sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln"
_GREEK = "alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|rho|sigma"
_TOKEN = re.compile(
    rf"""\s*(?: (?P<command>\\(?:frac|sqrt(?:\[[2-9]\])?|pi|cdot|times|div|{_FUNCTIONS}|{_GREEK})(?![A-Za-z]))
    | (?P<factorial>[0-9]{{1,4}}!(?!\s*!)) | (?P<number>[0-9]{{1,30}}(?:\.[0-9]{{1,30}})?(?![0-9.!]))
    | (?P<power>\^\s*(?:[0-9]{{1,3}}(?![0-9.!])|[A-Za-z]|\{{[^{{}}]*\}})(?!\s*[\^!]))
    | (?P<letter>[A-Za-z]) | (?P<sign>[-+*/(){{}}]) )""",
    re.VERBOSE,
)
_BARE_NAME = re.compile(rf"(?<![\\A-Za-z])(?=(?:pi|sqrt|{_FUNCTIONS})(?![A-Za-z]))")
_ROOT = re.compile(r"(\\sqrt)\s*(?:\(([^()]*)\)|([0-9a-z])(?![0-9a-z.!]))")
_EXPONENT_IN_BRACKETS = re.compile(r"\^\s*\(([^(){}]*)\)")
_EXPONENT_FRACTION = re.compile(r"\^\s*\{\s*(-?)\s*\\frac\s*\{([0-9]+)\}\s*\{([0-9]+)\}\s*\}")
_EXPONENT = re.compile(r"[-+*/ 0-9a-z]{1,20}")
# Words are no products of letters, but for short runs of the usual names of variables.
_WORD = re.compile(r"(?<![\\A-Za-z])(?![abcdhkmnpqrstuvwxyz]{2,3}(?![A-Za-z]))[A-Za-z]{2,}")
_PARSING = threading.Lock()  # the parser's caches are shared and not guarded


def guard(text: str) -> str | None:
    """Return `text` as LaTeX that can be parsed and evaluated in bounded time, or None."""
    if len(text) > MAX_CHARACTERS:
        return None
    text = _BARE_NAME.sub(r"\\", text.replace("**", "^"))
    text = _ROOT.sub(lambda m: f"{m[1]}{{{m[2] or m[3]}}}", text)
    text = _EXPONENT_IN_BRACKETS.sub(r"^{\1}", text)
    text = _EXPONENT_FRACTION.sub(r"^{\1\2/\3}", text)
    if _WORD.search(text) or re.search(r"\\sqrt(?!\[|\s*\{)", text):
        return None
    pieces: list[str] = []
    exponents: list[int] = []
    depth, position, before = 0, 0, ""
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        kind, piece = str(match.lastgroup), match.group().strip()
        position = match.end()
        depth += (piece in "({") - (piece in ")}")
        if not 0 <= depth <= MAX_DEPTH or (kind in ("number", "factorial") and before in _OPERANDS):
            return None
        if kind == "power":
            exponent = piece[1:].strip().strip("{}")
            if not _EXPONENT.fullmatch(exponent):
                return None
            exponents += map(int, re.findall(r"[0-9]+", exponent))
            piece = f"^{{{exponent}}}"
        elif kind == "letter" and piece.isupper():
            piece = f"{piece}_{{u}}"  # the parser folds case; an index keeps N and n apart
        # Without the sign, 2(3) and 2\frac{1}{x} would be read as sums and f(x) as a function.
        if before in _OPERANDS and (piece == "(" or piece.startswith("\\frac")):
            pieces.append("\\cdot")
        pieces.append(piece)
        before = piece if kind == "sign" else kind
    bound = MAX_EXPONENT_OF_FACTORIAL if "!" in text else MAX_EXPONENT
    return " ".join(pieces) if depth == 0 and math.prod(filter(None, exponents)) <= bound else None


_OPERANDS = ("number", "factorial", "letter", "power", ")")


@lru_cache(maxsize=4096)
def read_expression(text: str) -> Any:
    """Return the sympy expression that `text` (as `rewards.text.plain` returns it) spells, or None.

    Raises ImportError where math-verify is not installed.
    """
    latex = guard(text)
    if not latex:
        return None
    try:
        import math_verify
        import sympy
        from latex2sympy2_extended import NormalizationConfig
    except ImportError as error:
        raise ImportError("comparing expressions needs math-verify: pip install math-verify") from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limit is off
    untouched = NormalizationConfig(
        basic_latex=False, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
    )
    with _PARSING:
        found = math_verify.parse(
            f"${latex}$",
            [math_verify.LatexExtractionConfig(normalization_config=untouched)],
            fallback_mode="no_fallback",
            extraction_mode="first_match",  # the whole text or nothing, never a part that happens to parse
            parsing_timeout=None,
        )
    if not found or not isinstance(found[0], sympy.Expr):
        return None
    expression = found[0].xreplace({s: sympy.I for s in found[0].free_symbols if s.name == "i"})
    return None if expression.has(sympy.nan, sympy.zoo, sympy.oo) else expression


def same_expression(*, gold: Any, predicted: Any, tolerance: float = 1e-25) -> bool:
    """Whether two expressions have the same value wherever both have one.

    They are compared at `TRIALS` fixed points; `tolerance` is relative. Two different expressions of
    this size agree at all of them with a probability that is nil (Schwartz-Zippel lemma).
    """
    names = {symbol.name for symbol in gold.free_symbols | predicted.free_symbols}
    compared = 0
    for trial in range(TRIALS if names else 1):
        left, right = _value(gold, trial), _value(predicted, trial)
        if left is None or right is None:
            continue
        distance = max(abs(a - b) for a, b in zip(left, right, strict=True))
        if distance > tolerance * max(map(abs, left + right)):
            return False
        compared += 1
    return compared > 0


def _value(expression: Any, trial: int) -> tuple[Any, Any] | None:
    """Return real and imaginary part, to DIGITS digits, at the trial's point, or None where there is none."""
    import sympy

    points = {}
    for symbol in expression.free_symbols:
        # By name: the two parses may differ in their assumptions about one letter. Half of them negative.
        digest = hashlib.sha256(f"{symbol.name}:{trial}".encode()).digest()
        size = sympy.Rational(int.from_bytes(digest[:4], "big") % 2_000_003 + 500_009, 1_000_003)
        points[symbol] = size if (digest[4] + trial) % 2 else -size
    value = expression.xreplace(points).evalf(DIGITS)
    return value.as_real_imag() if value.is_number and value.is_finite else None
