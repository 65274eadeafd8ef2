"""Coverage-guided fuzzing of the answer guard: accuracy must not raise, dawdle, or pay for another value.

    pip install atheris
    python tests/fuzz/fuzz_accuracy.py -max_total_time=600

A folder as a further argument keeps the answers that reached something new. An answer that breaks a promise
ends the run with the error and is written to a file `crash-...`; given as the argument, it is tried again.
pytest does not collect this file; `test_harnesses.py` tries it on a few answers.

Whether an answer is another value is said by oracles that share no code with the rewards and are generous:
where they are in doubt they have no opinion.
"""

import cmath
import math
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
try:
    import atheris
except ImportError:  # the checks can be called without it
    atheris = None

with atheris.instrument_imports(include=["rewards"]) if atheris else nullcontext():
    from rewards import REWARDS, SPECS

MOST_SECONDS = 3.0  # of processor time for one answer, instrumented; far more than any takes
REWARD = REWARDS["accuracy"].with_spec(SPECS["think_text"])

# A byte above 127 stands for one of these.
TOKENS = [
    *("42", "-5", "1,000", "0.5", "3/4", "1/3", "B", "New York", "x", "\\pi", "e", "i", "="),
    *(
        "\\frac{",
        "}{",
        "{",
        "}",
        "\\sqrt{",
        "\\sqrt",
        "\\boxed{",
        "\\text{",
        "^{",
        "^",
        "!",
        "\\cdot ",
        "\\times ",
    ),
    *(
        "(",
        ")",
        "\\left(",
        "\\right)",
        "[",
        "]",
        "\\{",
        "\\}",
        "$",
        "$$",
        "**",
        "`",
        "\\(",
        "\\)",
        "\\[",
        "\\]",
    ),
    *(
        " or ",
        " and ",
        "not ",
        " maybe",
        ", ",
        ";",
        ".",
        ":",
        "%",
        "\\%",
        "\n",
        "\\,",
        "{,}",
        "'",
        " ",
        "\u00a0",
    ),
    *(
        "\\ln ",
        "\\log_{2} ",
        "\\sin ",
        "\\infty",
        "\\pm ",
        "\\overline{",
        "\\degree",
        "^\\circ",
        "10^",
        "e9",
        "**9",
    ),
    *(
        " clips",
        " km",
        " cm^2",
        " thousand",
        " million",
        " dozen",
        "The answer is ",
        "answer: ",
        "\u2212",
        "\u00b2",
    ),
    *(
        "\uff14",
        "\u0664",
        "\u200b",
        "\u202e",
        "\u00bd",
        "\u2080",
        "9",
        "0",
        "1",
        "2",
        "\\in ",
        "\\cup ",
        "|",
        "<",
        "\\neq ",
    ),
]
HEDGE = re.compile(r"(?<![a-z])(?:or|not|never|nor|neither|either|maybe|perhaps|unless|wrong)(?![a-z])")
SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
NEGATIVE = re.compile("[-\u2010\u2212\u2013\u207b]|minus|negative")
LIST = re.compile(r"[0-9]\D*(?:[;\n]|,(?![0-9]))\D*[0-9]")

Oracle = Callable[[str], bool]


def text_of(data: bytes) -> str:
    """An answer for any bytes: ASCII as it is, tokens, and behind 0xff any character by its number."""
    pieces, place = [], 0
    while place < len(data):
        byte = data[place]
        if byte == 0xFF:
            pieces.append(chr(int.from_bytes(data[place + 1 : place + 3], "big")))
            place += 2
        else:
            pieces.append(chr(byte) if byte < 0x80 else TOKENS[(byte - 0x80) % len(TOKENS)])
        place += 1
    return "".join(pieces)


def with_digits(answer: str) -> str:
    """The answer with the digits of all scripts as ASCII ones, and what has no width left out."""
    answer = "".join(c for c in answer if unicodedata.category(c) != "Cf")
    return "".join(str(unicodedata.decimal(c, c)) for c in answer)


def number(gold: Fraction) -> Oracle:
    """An oracle for a number: no way to put the numerals of the answer together gives the gold value."""

    def different(answer: str) -> bool:
        text = re.sub(r"frac\s*([0-9])", r"frac{\1}", with_digits(answer))  # \frac12 has two numerals
        folded = text.casefold()
        if HEDGE.search(folded):
            return True
        if any(unicodedata.numeric(c, None) is not None and not c.isascii() for c in text) or re.search(
            r"[(\\][0-9]|overline", text
        ):
            return False  # one half in one character, repeating decimals: no opinion
        apart = re.findall(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+", text)
        # In braces or a fraction, a line break is a space.
        blanks = r"\{,\}|\\[,! ;:]|\n" if re.search("[{/]", text) else r"\{,\}|\\[,! ;:]"
        listed = LIST.search(re.sub(blanks, "", text))
        if "=" not in text and listed and len({Fraction(numeral) for numeral in apart}) > 1:
            return True
        if re.fullmatch(r"\s*[-\u2212\u2013]\s*[0-9.]+\s*", text) and gold > 0:
            return True
        if gold < 0 and not NEGATIVE.search(folded):
            return True
        joined = re.sub(r"(?<=[0-9])(?:[ ,'_\u00a0\u2009\u202f]|\\[,! ;:]|\{,\}|~)+(?=[0-9])", "", text)
        numerals = {*apart, *re.findall(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+", joined)}
        if joined.count(".") > 1:
            numerals |= set(re.findall("[0-9]+", joined.replace(".", "")))
        if len(numerals) > 8 or any(len(numeral) > 40 for numeral in numerals):
            return False
        # As a computer prints 1/3, it is 1/3.
        near = abs(gold) / 10**11 if gold.denominator % 3 == 0 else 0
        return all(abs(value - abs(gold)) > near for value in readings(folded, set(map(Fraction, numerals))))

    return different


def readings(text: str, values: set[Fraction]) -> set[Fraction]:
    """Every value that numerals can spell together in a text of this kind, without their signs."""
    if re.search(r"/|frac|\\over|\\div|\u00f7|\u2044|\u2215|:", text):
        quotients = {a / b for a in values for b in values if b}
        values = values | quotients | {a + quotient for a in values for quotient in quotients}
    if re.search(r"10\s*(?:\^|\*\*)|[0-9.]e", text):
        exponents = [int(b) for b in values if b.denominator == 1 and b < 1000]
        values = values | {a * Fraction(10) ** sign for a in values for b in exponents for sign in (b, -b)}
    if re.search(r"\^|\*\*", text):
        whole = [int(value) for value in values if value.denominator == 1 and 1 < value < 10_000]
        powers = {Fraction(a) ** b for a in whole for b in whole if b < 64}
        values = values | powers | {1 / power for power in powers} | {Fraction(1, a) for a in whole}
    scales = [Fraction(SCALES[word]) for word in SCALES if word in text]
    if re.search("%|per ?cent", text):
        scales += [Fraction(100), Fraction(1, 100)]
    return values | {value * scale for value in values for scale in scales}


def choice(gold: str) -> Oracle:
    """An oracle for a letter: it is not there, or another one stands alone beside it."""

    def different(answer: str) -> bool:
        text = re.sub(r"\\[A-Za-z]+", " ", unicodedata.normalize("NFKC", answer))
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
        alone = re.findall(r"(?<![A-Za-z0-9])[A-Za-z0-9](?![A-Za-z0-9])", text)
        return {letter.upper() for letter in alone} != {gold} or bool(HEDGE.search(text.casefold()))

    return different


def exact(gold: str) -> Oracle:
    """An oracle for a text: the letters and digits differ, but for what may stand in front."""

    def letters(text: str) -> str:
        text = re.sub(r"\\[A-Za-z]+", "", text)
        return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())

    return lambda answer: not letters(answer).endswith(letters(gold))


def members(gold: list[int]) -> Oracle:
    """An oracle for a set of whole numbers: where there is nothing but such, they are other ones."""

    def different(answer: str) -> bool:
        if not re.fullmatch(r"[0-9 ,;{}\\$\n]*", answer) or re.search(
            r"[0-9]\s*\\[,! ]|\{,|[0-9],[0-9]{3}", answer
        ):
            return False
        return sorted(map(int, re.findall("[0-9]{1,9}", answer))) != gold

    return different


# Gold, answer type, oracle, and answers that are right: most of what is tried is one of them with something
# put into it.
GOLDS: list[tuple[str, str, Oracle, list[str]]] = [
    (
        "42",
        "math",
        number(Fraction(42)),
        ["42", "$42$", "**42**", "42 clips", "x = 42", "84/2", "\\boxed{42}"],
    ),
    ("-5", "math", number(Fraction(-5)), ["-5", "-5.0", "\u22125", "-\\frac{10}{2}", "x = -5", "-5 km"]),
    ("1000", "number", number(Fraction(1000)), ["1000", "1,000", "1{,}000", "1e3", "$1,000.00"]),
    ("0.5", "math", number(Fraction(1, 2)), ["0.5", "1/2", "\\frac12", "50%", "50\\%", ".5"]),
    (
        "\\frac{3}{4}",
        "number",
        number(Fraction(3, 4)),
        ["3/4", "0.75", "\\frac{3}{4}", "\\dfrac{6}{8}", "75%"],
    ),
    ("1/3", "math", number(Fraction(1, 3)), ["1/3", "\\frac13", "2/6", "0.3333333333333333"]),
    ("B", "choice", choice("B"), ["B", "(b)", "B.", "**B**", "\\text{B}"]),
    ("New York", "exact", exact("New York"), ["New York", "new  york", "NEW YORK"]),
    ("{1, 2}", "set", members([1, 2]), ["{1, 2}", "2, 1", "1 and 2", "\\{1, 2\\}"]),
]

Value = Callable[[complex], complex]
POINTS = (0.731, -1.37, 2.61)
# Expressions as golds, with their values by hand-written Python.
EXPRESSIONS: list[tuple[str, Value]] = [
    ("4\\sqrt{2}", lambda x: 4 * math.sqrt(2)),
    ("\\frac{\\pi}{4}", lambda x: math.pi / 4),
    ("2x + 1", lambda x: 2 * x + 1),
    ("x^2 - 1", lambda x: x**2 - 1),
    ("\\frac{1}{x+1}", lambda x: 1 / (x + 1)),
    ("2^{10} \\cdot 3", lambda x: 3072),
    ("\\sqrt{2} + \\sqrt{3}", lambda x: math.sqrt(2) + math.sqrt(3)),
]


def expression(data: Iterator[int], depth: int = 0) -> tuple[str, Value]:
    """An expression spelled by bytes, and its value. Brackets are everywhere, so that it has one reading."""
    kind = next(data, 0) % (4 if depth > 3 else 10)
    if kind <= 1:
        digit = next(data, 1) % 13
        return str(digit), lambda x: digit
    if kind == 2:
        return "x", lambda x: x
    if kind == 3:
        return "\\pi", lambda x: math.pi
    a, f = expression(data, depth + 1)
    if kind == 4:
        return f"\\sqrt{{{a}}}", lambda x: cmath.sqrt(f(x))
    if kind == 5:
        power = next(data, 2) % 5
        return f"({a})^{{{power}}}", lambda x: f(x) ** power
    if kind == 6:
        return f"(-({a}))", lambda x: -f(x)
    b, g = expression(data, depth + 1)
    if kind == 7:
        return f"\\frac{{{a}}}{{{b}}}", lambda x: f(x) / g(x)
    if kind == 8:
        return f"({a}) \\cdot ({b})", lambda x: f(x) * g(x)
    sign = next(data, 0) % 2
    return (f"({a} + {b})", lambda x: f(x) + g(x)) if sign else (f"({a} - ({b}))", lambda x: f(x) - g(x))


def apart(gold: Value, answer: Value) -> bool:
    """Whether two expressions differ clearly at some point at which both have a value."""
    for point in POINTS:
        try:
            a, b = complex(gold(point)), complex(answer(point))
        except (ArithmeticError, ValueError):
            continue
        if cmath.isfinite(a) and cmath.isfinite(b) and abs(a - b) > 1e-3 * max(1.0, abs(a), abs(b)):
            return True
    return False


def score(answer: str, gold: str, kind: str) -> float | None:
    start = time.process_time()
    (value,) = REWARD(completions=[f"<think>so</think>{answer}"], answer=[gold], answer_type=[kind])
    seconds = time.process_time() - start
    assert seconds < MOST_SECONDS, f"{seconds:.1f} s for {answer!r}"
    return value


def tried(data: bytes, right: list[str]) -> str:
    """The answer that bytes spell: any text, or a right answer with any text put into it."""
    if data[:1] < b"\x40":
        return text_of(data[1:])
    start = right[data[0] % len(right)]
    cut = data[1] % (len(start) + 1) if len(data) > 1 else 0
    return start[:cut] + text_of(data[2:]) + start[cut:]


def check(data: bytes) -> None:
    """Score the answer that `data` spells. Raises AssertionError where a promise is broken."""
    chosen = data[0] % 32 if data else 0
    if chosen < 32 - len(EXPRESSIONS):  # more often these: the rewards read them faster, and more of them
        gold, kind, different, right = GOLDS[chosen % len(GOLDS)]
        answer = tried(data[1:], right)
        other = different(answer)
    else:
        kind = "math"
        gold, truth = EXPRESSIONS[chosen - 32]
        if data[1:2] > b"\x7f":  # nothing is known of what comes out
            answer, other = tried(data[2:], [gold]), False
        else:
            answer, found = expression(iter(data[2:]))
            other = apart(truth, found)
    value = score(answer, gold, kind)
    assert value in (0.0, 1.0), (answer, gold, value)  # the golds can all be read
    assert value == 0.0 or not other, f"{answer!r} earns {value} for the gold {gold!r}"


if __name__ == "__main__":
    if atheris is None:
        sys.exit("fuzzing needs atheris: pip install atheris")
    score("\\sqrt{2}", "\\sqrt{2}+0", "math")  # loads math-verify, which is not to be timed
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
