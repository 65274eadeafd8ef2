"""accuracy: is the answer behind the reasoning the gold answer?

A text has at most one reading, and a gold answer one way to be met. So nothing is gained by what a policy
tries instead of an answer: several candidates, a doubt, a denial, the question once more.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from rewards.base import nearest
from rewards.collection import read_elements, read_tuple
from rewards.quantity import read_quantity, same_quantity, same_unit
from rewards.relation import read_equation, read_matrix, read_range, read_ranges, read_system
from rewards.response import Response
from rewards.score import Score
from rewards.sides import WORDS, behind_lead_in, is_name, split_unit, symbols, value_side, values_of
from rewards.symbolic import Values, factor_between, read_expression, same_values
from rewards.text import fold, plain
from rewards.words import Known, known_words, option_key, question_of, unknown_word

MAX_CHARACTERS = 4000

_INFINITY = re.compile(r"([-+]?)\s*(?:\\infty|infinity|inf)", re.IGNORECASE)
_HAS_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])")
_CLOCK = re.compile(r"0?([0-9]|1[0-9]|2[0-3])((?::[0-5][0-9]){1,2})(?:\s*([AaPp])\.?[Mm]\.?)?")
_MIXED_CASE = re.compile(r"[a-z][A-Z]")
_OPTION = re.compile(
    r"(?:option\s+|choice\s+)?[(\[]?([A-Za-z0-9])[)\].:]+[ \t]+([^\n]{1,200})", re.IGNORECASE
)
_CHOICE = re.compile(r"(?:option\s+|choice\s+)?[(\[]?([A-Za-z0-9])[)\].:]?", re.IGNORECASE)

# What a table holds where there is no answer; an answer of type "exact" may be such a word.
_MISSING = frozenset({"", "nan", "none", "null", "n/a"})
_SOLUTION = re.compile(r"(?:\A|\n)[ \t]*####[ \t]*(\S[^\n]*)\s*\Z")  # of GSM8K

Compare = Callable[[str, Known], bool | None]  # an answer, and the words that it may have


def _same_names(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether the letters that two answers name do not contradict each other."""
    return not one or not other or bool(one & other)


def _number(gold: str) -> Compare | None:
    side = value_side(gold, None)
    wanted = None if side is None else read_quantity(side)
    if wanted is None:
        return None
    names = symbols(gold)

    def compare(answer: str, known: Known) -> bool | None:
        side = value_side(answer, known)
        found = None if side is None else read_quantity(side, known)
        # Only a number counts, no sum that is still to be worked out: it could be copied from the question.
        if found is None:
            return None
        in_percent = known is not None and "%" in known
        same = same_quantity(gold=wanted, predicted=found, in_percent=in_percent)
        return same and _same_names(names, symbols(answer))

    return compare


def _math(gold: str) -> Compare | None:
    number = _number(gold)
    if number is not None:
        return number
    side = value_side(gold, None)
    value = None if side is None else _value(side)
    names = symbols(gold)
    if value is not None and names:
        value = _named(value, names)
    return _matrix(gold) or _ranges(gold) or _system(gold, value) or _equation(gold, value) or value


def _value(gold: str) -> Compare | None:
    return _tuple(gold) or _infinity(gold) or _clock(gold) or _expression(gold) or _words(gold)


def _named(value: Compare, names: frozenset[str]) -> Compare:
    """What `value` takes, but for answers that name another letter."""

    def compare(answer: str, known: Known) -> bool | None:
        return value(answer, known) and _same_names(names, symbols(answer))

    return compare


def _tuple(gold: str) -> Compare | None:
    """Points and intervals: the same brackets, and in them the same elements in the same order."""
    wanted = read_tuple(gold)
    compares = [_math(element) for element in wanted[1]] if wanted else []
    if wanted is None or None in compares:
        return None
    brackets = wanted[0]

    def compare(answer: str, known: Known) -> bool | None:
        side = value_side(answer, known)
        found = (None if side is None else read_tuple(side)) or read_range(behind_lead_in(answer))
        if found is None:
            return None
        if found[0] != brackets or len(found[1]) != len(compares):
            return False
        pairs = zip(compares, found[1], strict=True)
        return all(element is not None and element(text, known) for element, text in pairs)

    return compare


def _matrix(gold: str) -> Compare | None:
    wanted = read_matrix(gold)
    compares = [[_math(cell) for cell in row] for row in wanted or ()]
    if wanted is None or any(None in row for row in compares):
        return None

    def compare(answer: str, known: Known) -> bool | None:
        found = read_matrix(answer)
        if found is None:
            return None
        if (len(found), len(found[0])) != (len(compares), len(compares[0])):
            return False
        rows = zip(compares, found, strict=True)
        cells = (pair for row, texts in rows for pair in zip(row, texts, strict=True))
        return all(cell is not None and cell(text, known) for cell, text in cells)

    return compare


def _ranges(gold: str) -> Compare | None:
    """Inequalities in one letter and unions of intervals, in any order."""
    text = behind_lead_in(gold)
    wanted = None if read_tuple(text) else read_ranges(text)
    compares = [(brackets, [_math(end) for end in ends]) for brackets, ends in wanted or ()]
    if wanted is None or any(None in ends for _, ends in compares):
        return None

    def compare(answer: str, known: Known) -> bool | None:
        found = read_ranges(behind_lead_in(answer))
        if found is None:
            return None
        left = list(found)
        for brackets, ends in compares:
            met = [
                one
                for one in left
                if one[0] == brackets
                and all(end is not None and end(text, known) for end, text in zip(ends, one[1], strict=True))
            ]
            if not met:
                return False
            left.remove(met[0])
        return not left

    return compare


def _system(gold: str, value: Compare | None) -> Compare | None:
    """A value for each name, in any order; or what `value` takes."""
    wanted = read_system(behind_lead_in(gold))
    compares = {name: _math(value) for name, value in (wanted or {}).items()}
    if wanted is None or None in compares.values():
        return None

    def compare(answer: str, known: Known) -> bool | None:
        found = read_system(behind_lead_in(answer))
        if found is None:
            return None if value is None else value(answer, known)
        same = found.keys() == compares.keys()
        return same and all(met is not None and met(found[name], known) for name, met in compares.items())

    return compare


def _equation(gold: str, value: Compare | None) -> Compare | None:
    """An equation or inequality of letters, moved around or multiplied by a number; or what `value` takes."""
    wanted = _difference(gold, None)
    if wanted is None:
        return None

    def compare(answer: str, known: Known) -> bool | None:
        said = None if value is None else value(answer, known)
        found = None if said else _difference(answer, known)
        if found is None:
            return said
        factor = factor_between(wanted[1], found[1]) if wanted[0] == found[0] else None
        return factor is not None and (wanted[0] == "=" or factor > 0)

    return compare


def _difference(text: str, known: Known) -> tuple[str, Values] | None:
    """Return the sign of a relation and what its left side has over its right; None if a side is a value."""
    equation = read_equation(behind_lead_in(text))
    # x = \sqrt{2} is an answer, 2x = 2 \sqrt{2} is still to be solved.
    if equation is None or (is_name(equation[0], known) and not _HAS_LETTER.search(equation[2])):
        return None
    values = read_expression(f"({equation[0]})-({equation[2]})")
    return None if values is None else (equation[1], values)


def _infinity(gold: str) -> Compare | None:
    wanted = _INFINITY.fullmatch(gold)
    if wanted is None:
        return None

    def compare(answer: str, known: Known) -> bool | None:
        found = _INFINITY.fullmatch(value_side(answer, known) or "")
        return None if found is None else (found[1] == "-") == (wanted[1] == "-")

    return compare


def _expression(gold: str) -> Compare | None:
    bare, gold_unit = split_unit(gold, None)
    wanted = read_expression(bare)
    if wanted is None:
        return None

    def compare(answer: str, known: Known) -> bool | None:
        side, unit = split_unit(value_side(answer, known) or "", known)
        found = values_of(side, known)
        if found is None:
            return None
        if not same_unit(gold_unit, unit):
            return False
        # A decimal stands for a number that has no exact one: sqrt(2) as 1.414214.
        rounded = "." in f"{side}{bare}"
        return same_values(gold=wanted, predicted=found, tolerance=1e-6 if rounded else 0)

    return compare


def _clock(gold: str) -> Compare | None:
    """A clock time: 9:05 is 09:05, and 9:05 PM both 9:05 and 21:05."""
    wanted = _times(gold)
    if wanted is None:
        return None

    def compare(answer: str, known: Known) -> bool | None:
        found = _times(value_side(answer, known) or "")
        if found is None:
            return None
        # A time without am or pm may be of 12 hours or of 24.
        return found == wanted if len(found) == len(wanted) else bool({*found} & {*wanted})

    return compare


def _times(text: str) -> list[str] | None:
    """Return the time as it is written, and where it says am or pm also that of 24 hours."""
    match = _CLOCK.fullmatch(text)
    if match is None:
        return None
    written = f"{int(match[1])}{match[2]}"
    if match[3] is None:
        return [written]
    return [written, f"{int(match[1]) % 12 + (12 if match[3] in 'pP' else 0)}{match[2]}"]


def _words(gold: str) -> Compare | None:
    if not WORDS.fullmatch(gold):
        return None

    def compare(answer: str, known: Known) -> bool | None:
        found = value_side(answer, known) or ""
        # Ab and aB are two genotypes, but Yes, YES and yes one word.
        mixed = _MIXED_CASE.search(found) or _MIXED_CASE.search(gold)
        return fold(found) == fold(gold) and (not mixed or found == gold)

    return compare


def _set(gold: str) -> Compare | None:
    """The same elements in any order, each once."""
    wanted = read_elements(behind_lead_in(gold))
    compares = [compare for compare in map(_math, wanted or ()) if compare is not None]
    if wanted is None or len(compares) < len(wanted):
        return None
    if any(sum(bool(compare(element, None)) for element in wanted) != 1 for compare in compares):
        return None  # an element is there twice

    def compare(answer: str, known: Known) -> bool | None:
        found = read_elements(behind_lead_in(answer))
        if found is None:
            return None
        said = [[compare(element, known) for compare in compares] for element in found]
        if compares and any(verdicts.count(None) == len(verdicts) for verdicts in said):
            return None
        met = [verdicts.index(True) for verdicts in said if True in verdicts]
        return len(met) == len(found) and sorted(met) == list(range(len(compares)))

    return compare


def _choice(gold: str) -> Compare | None:
    wanted = _CHOICE.fullmatch(behind_lead_in(gold)) or _OPTION.fullmatch(behind_lead_in(gold))
    if wanted is None:
        return None

    def compare(answer: str, known: Known) -> bool | None:
        text = behind_lead_in(answer)
        found = _CHOICE.fullmatch(text)
        if found is None and (option := _OPTION.fullmatch(text)):
            # The option as it stands in the question; any other words could take the letter back.
            found = option if known and option_key(option[1], option[2]) in known else None
        return None if found is None else found[1].upper() == wanted[1].upper()

    return compare


def _exact(gold: str) -> Compare | None:
    if fold(gold) == "nan":
        return None
    return (lambda answer, known: fold(answer) == fold(gold)) if fold(gold) else None


ANSWER_TYPES: dict[str, Callable[[str], Compare | None]] = {
    "math": _math,
    "number": _number,
    "choice": _choice,
    "exact": _exact,
    "set": _set,
}


@lru_cache(maxsize=1024)
def _reading(kind: str, gold: str) -> Compare | None:
    """Read a gold answer once for all completions of its group."""
    if len(gold) > MAX_CHARACTERS:
        return None
    if kind == "exact":
        return ANSWER_TYPES[kind](gold)
    solution = _SOLUTION.search(gold)
    gold = solution[1] if solution else gold
    return None if gold.strip().casefold() in _MISSING else ANSWER_TYPES[kind](gold)


def accuracy(
    response: Response,
    *,
    answer: str | int | float | None,
    answer_type: str | None = None,
    prompts: Any = None,
) -> Score:
    """1.0 if the response's answer equals the gold `answer`, else 0.0; abstains where the gold is unreadable.

    `answer_type` (default "math") says how: "number" reads one exact number; "math" also expressions, points,
    intervals and, where the gold is a word, a ratio or a clock time, that; "set" elements in any order, each
    read as "math"; "choice" one letter; "exact" folds case and white space. `prompts` is the question, a text
    or messages: its words may stand beside a value. Raises ValueError for any other type.
    """
    kind = answer_type or "math"
    if kind not in ANSWER_TYPES:
        raise ValueError(f"answer_type {kind!r} is not known: {nearest(kind, ANSWER_TYPES)}")
    missing = answer is None or answer != answer  # not a number
    gold = "" if missing else str(answer)
    compare = _reading(kind, gold)
    if compare is None:
        return Score(None, f"the gold answer {str(answer)!r:.80} cannot be read as {kind}")
    if response.answer is None:
        return Score(0.0, f"no answer: {', '.join(response.problems)}")
    if len(response.answer) > MAX_CHARACTERS:
        return Score(0.0, f"unreadable answer: {len(response.answer)} characters")
    if response.answer == gold.strip():
        return Score(1.0, "correct")
    known = known_words(gold, question_of(prompts))
    equal = compare(response.answer, known)
    if equal is None:
        word = unknown_word(plain(response.answer), known) if kind != "choice" else None
        unknown = f": {word!r} is no known unit and in no question" if word else ""
        return Score(0.0, f"unreadable answer: {response.answer!r:.80}{unknown}")
    return Score(1.0, "correct") if equal else Score(0.0, f"wrong: {response.answer!r:.80}, not {gold!r:.80}")
