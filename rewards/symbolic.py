"""Comparison of closed forms and expressions, such as 4\\sqrt{2}, 2\\pi or 2x + 1.

math-verify reads the text; what reaches it has passed a guard, because its time limits rest on SIGALRM and
so cannot be used off the main thread. What it read is then evaluated: fractions exactly, others in floating
point of many digits at fixed points, where two expressions are equal if their values are, relative to their
size. That cannot run away as symbolic simplification can, and it tells 1/2004! from 1/2006!, which an
absolute tolerance does not.
"""

import hashlib
import logging
import math
import re
import threading
from fractions import Fraction
from functools import lru_cache
from typing import Any

MAX_CHARACTERS = 200
MAX_DEPTH = 10
MAX_EXPONENT = (
    3000  # room for a year; of nested powers the product: ((9^{9})^{9})^{9} counts 729; towers are refused
)
MAX_EXPONENT_OF_FACTORIAL = 10
DIGITS = 120
PRECISION = 1e-50  # relative; the rest of the digits is for what cancels out
LARGEST_ARGUMENT = 10**100  # sin of more would need pi to as many digits
TRIALS = 4
MAX_BITS = 130_000  # of an exact value: those of 9999!

_FUNCTIONS = r"sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|log|ln"
_GREEK = "alpha|beta|gamma|delta|theta|lambda|mu|phi|omega|rho|sigma"
_TOKEN = re.compile(
    rf"""\s*(?: (?P<command>\\(?:frac|sqrt(?:\[[2-9]\])?|pi|cdot|times|div|{_FUNCTIONS}|{_GREEK})(?![A-Za-z_])
        |\\log_(?:[2-9](?![0-9])|\{{[0-9]{{1,3}}\}}))
    | (?P<factorial>[0-9]{{1,4}}!(?!\s*!)) | (?P<number>[0-9]{{1,100}}(?:\.[0-9]{{1,100}})?(?![0-9.!]))
    | (?P<power>\^\s*(?:[0-9]{{1,3}}(?![0-9.!])|[A-Za-z]|\{{[^{{}}]*\}})(?!\s*[\^!]))
    | (?P<letter>[A-Za-z](?:_(?:[A-Za-z0-9](?![0-9])|\{{[A-Za-z0-9]{{1,3}}\}}))?)
    | (?P<sign>[-+*/(){{}}]) )""",
    re.VERBOSE,
)
_MPMATH = ("exp", "log", "factorial", "sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan")
_BARE_NAME = re.compile(rf"(?<![\\A-Za-z])(?=(?:pi|sqrt|{_FUNCTIONS})(?![A-Za-z]))")
_SHORT_FRACTION = re.compile(r"\\frac\s*([0-9])\s*([0-9])")
_BARE_ARGUMENT = re.compile(r"\\(?:frac|sqrt)(?!\s*\{|\[|[A-Za-z])|\\frac\s*\{[^{}]*\}\s*[^{\s]")
_ROOT = re.compile(r"(\\sqrt)\s*(?:\(([^()]*)\)|([0-9a-z])(?![0-9a-z.!]))")
_BINOMIAL = re.compile(r"\\[dt]?binom\s*\{\s*([0-9]{1,3})\s*\}\s*\{\s*([0-9]{1,3})\s*\}")
_ABSOLUTE = re.compile(r"\|([^|i]*)\|")  # of a real number; i makes it complex
_EXPONENTIAL = re.compile(r"(?<![\\A-Za-z])\\?exp\s*\(([^(){}^]*)\)")
_FUNCTION_TO_A_POWER = re.compile(rf"(\\(?:{_FUNCTIONS}))\s*\^\s*(?:([0-9])|\{{([0-9])\}})\s*\(([^()]*)\)")
_EXPONENT_IN_BRACKETS = re.compile(r"\^\s*\(([^(){}]*)\)")
_EXPONENT_FRACTION = re.compile(r"\^\s*\{\s*(-?)\s*\\frac\s*\{([0-9]+)\}\s*\{([0-9]+)\}\s*\}")
_EXPONENT = re.compile(r"(?!.*[0-9a-z]\s+[0-9])[-+*/ 0-9a-z]{1,20}")
# Words are no products of letters, but for short runs of the usual names of variables.
_WORD = re.compile(r"(?<![\\A-Za-z])(?![abcdhkmnpqrstuvwxyz]{2,3}(?![A-Za-z]))[A-Za-z]{2,}")
_LOCK = threading.Lock()  # the parser's caches and mpmath's precision are shared by all threads

_OPERANDS = ("number", "factorial", "letter", "power", ")")  # kinds of token that end an operand

Values = tuple[Any, ...]


def guard(text: str, max_characters: int = MAX_CHARACTERS) -> str | None:
    """Return `text` as LaTeX that can be parsed and evaluated in bounded time, or None."""
    if len(text) > max_characters:
        return None
    text = _BARE_NAME.sub(r"\\", text.replace("**", "^"))
    text = _ROOT.sub(lambda m: f"{m[1]}{{{m[2] or m[3]}}}", text)
    text = _BINOMIAL.sub(lambda m: f"({math.comb(int(m[1]), int(m[2]))})", text)
    text = _ABSOLUTE.sub(r"\\sqrt{(\1)^{2}}", text)
    text = _EXPONENTIAL.sub(r"e^{\1}", text)
    text = _FUNCTION_TO_A_POWER.sub(lambda m: f"({m[1]}({m[4]}))^{{{m[2] or m[3]}}}", text)
    text = _EXPONENT_IN_BRACKETS.sub(r"^{\1}", text)
    text = _EXPONENT_FRACTION.sub(r"^{\1\2/\3}", text)
    text = _SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
    if _WORD.search(text) or _BARE_ARGUMENT.search(text):
        return None
    pieces: list[str] = []
    bound = MAX_EXPONENT_OF_FACTORIAL if "!" in text else MAX_EXPONENT
    exponents = [1]  # the largest in each open group
    position, before, last = 0, "", 1
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        kind, piece = str(match.lastgroup), match.group().strip()
        position = match.end()
        if kind in ("number", "factorial") and before in _OPERANDS:
            return None
        if kind == "power":
            exponent = piece[1:].strip().strip("{}")
            if not _EXPONENT.fullmatch(exponent):
                return None
            last *= math.prod(max(1, int(digits)) for digits in re.findall(r"[0-9]+", exponent))
            piece = f"^{{{exponent}}}"
        else:
            last = 1
        if piece in ("(", "{"):
            exponents.append(1)
        elif piece in (")", "}"):
            last = exponents.pop()
        if not 1 <= len(exponents) <= MAX_DEPTH or last > bound:
            return None
        exponents[-1] = max(exponents[-1], last)
        if kind == "letter":
            name = re.sub("[_{}]", "", piece)
            if (
                name != piece or name.isupper()
            ):  # the parser folds case; an index of digits keeps N and n apart
                piece = f"{name[0]}_{{{''.join(str(100 + ord(character)) for character in name)}}}"
        # Without the sign, 2(3) and 2\frac{1}{x} would be read as sums and f(x) as a function.
        if before in _OPERANDS and (piece == "(" or piece.startswith("\\frac")):
            pieces.append("\\cdot")
        pieces.append(piece)
        before = piece if kind == "sign" else kind
    return " ".join(pieces) if len(exponents) == 1 else None


@lru_cache(maxsize=4096)
def read_expression(text: str) -> Values | None:
    """Return the values, at TRIALS fixed points, of the expression that `text` spells, or None.

    `text` is as `rewards.text.plain` returns it. A value is a Fraction or an mpmath number, or None where
    the expression has none at that point; at least one point has one. Raises ImportError where math-verify is
    missing.
    """
    latex = guard(text)
    if not latex:
        return None
    try:
        import math_verify
        from latex2sympy2_extended import NormalizationConfig
    except ImportError as error:
        raise ImportError("comparing expressions needs math-verify: pip install math-verify") from error
    logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns that its time limit is off
    untouched = NormalizationConfig(
        basic_latex=False, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
    )
    with _LOCK:
        found = math_verify.parse(
            f"${latex}$",
            [math_verify.LatexExtractionConfig(normalization_config=untouched)],
            fallback_mode="no_fallback",
            extraction_mode="first_match",  # the whole text or nothing, never a part that happens to parse
            parsing_timeout=None,
        )
        exact = _exact(found[0]) if found else None
        if exact is not None:
            return (exact,) * TRIALS
        values = tuple(_value(found[0], trial) for trial in range(TRIALS)) if found else ()
    return values if any(value is not None for value in values) else None


def same_values(*, gold: Values, predicted: Values, tolerance: float = 0) -> bool:
    """Whether two expressions agree, to a relative `tolerance`, at every point where both have a value.

    Fractions are compared exactly, other numbers at best to PRECISION. Different expressions of this size
    agree at all points with a probability that is nil (Schwartz-Zippel).
    """
    pairs = [(a, b) for a, b in zip(gold, predicted, strict=True) if a is not None and b is not None]
    return bool(pairs) and all(_close(a, b, tolerance) for a, b in pairs)


def factor_between(one: Values, other: Values) -> float | None:
    """Return the real number by which `one` is a multiple of `other` at every point, or None."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    # A fraction is the same at all points: 0 = 0 or 1 = 2, which says nothing of any letter.
    constant = any(isinstance(value, Fraction) or not value for pair in pairs for value in pair)
    if len(pairs) < 2 or constant:
        return None
    a, b = pairs[0]
    if not same_values(gold=tuple(x * b for x, _ in pairs), predicted=tuple(y * a for _, y in pairs)):
        return None
    factor = complex(a / b)
    return factor.real if abs(factor.imag) <= PRECISION * abs(factor) else None


def _close(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return abs(a - b) <= Fraction(tolerance) * max(abs(a), abs(b))
    a, b = (_numbers().mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x for x in (a, b))
    return bool(abs(a - b) <= max(tolerance, PRECISION) * max(abs(a), abs(b)))


def _value(expression: Any, trial: int) -> Any:
    """Return the number that a sympy expression has at the trial's point, or None."""
    try:
        value = _evaluate(expression, trial)
    except (ArithmeticError, ValueError):  # a pole, or a node that has no place in a closed form
        return None
    return value if _numbers().isfinite(value) else None


def _exact(node: Any) -> Fraction | None:
    """Return the value of a sympy tree of rational numbers with + * ! and whole powers, or None."""
    if node.is_Rational:
        return Fraction(int(node.p), int(node.q))
    numbers: list[Fraction] = []
    for child in node.args:
        number = _exact(child)
        if number is None or max(number.numerator.bit_length(), number.denominator.bit_length()) > MAX_BITS:
            return None
        numbers.append(number)
    kind = type(node).__name__
    if kind in ("Add", "UnevaluatedExpr"):
        return sum(numbers, Fraction(0))
    if kind == "Mul":
        return math.prod(numbers, start=Fraction(1))
    if kind == "factorial" and numbers[0].denominator == 1 and 0 <= numbers[0] < 10_000:
        return Fraction(math.factorial(int(numbers[0])))
    whole = kind == "Pow" and numbers[1].denominator == 1 and abs(numbers[1]) <= MAX_EXPONENT
    return numbers[0] ** int(numbers[1]) if whole and (numbers[0] or numbers[1] > 0) else None


@lru_cache(maxsize=1)
def _numbers() -> Any:
    import mpmath

    context = mpmath.mp.clone()
    context.dps = DIGITS
    return context


def _evaluate(node: Any, trial: int) -> Any:
    """Evaluate a sympy tree without sympy, which would look for closed forms of, say, (5/7)^(11/13)."""
    mp, kind = _numbers(), type(node).__name__
    if node.is_Rational:
        return mp.mpf(node.p) / node.q
    if node.is_Float:
        return mp.mpf(node._mpf_)
    if node.is_Symbol and node.name != "i":
        # By name, as two parses may differ in what they assume of a letter. Half of the points are negative.
        digest = hashlib.sha256(f"{node.name}:{trial}".encode()).digest()
        return (mp.mpf(int.from_bytes(digest[1:5], "big")) / 2**31 + 0.25) * (-1) ** (digest[0] + trial)
    if kind in ("Exp1", "Pi", "ImaginaryUnit", "Symbol"):
        return {"Exp1": mp.e, "Pi": mp.pi}.get(kind, mp.j) * 1
    values = [_evaluate(child, trial) for child in node.args]
    if kind == "Add":
        return mp.fsum(values)
    if kind == "Mul":
        return mp.fprod(values)
    if kind == "Pow":
        return mp.power(*values)
    if kind == "UnevaluatedExpr":
        return values[0]
    if kind not in _MPMATH or any(abs(value) > LARGEST_ARGUMENT for value in values):
        raise ValueError(kind)
    return getattr(mp, kind)(*values)
