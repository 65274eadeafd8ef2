"""Which words may stand beside a value: a closed vocabulary, the words of the question, and no others.

Words have no end, and neither have the ways to take a value back. So a word counts only if it is known.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

# What may stand in an answer beside the closed vocabulary: folded words, "%" and powers such as "2^10".
# None for a gold answer, which may hold any word.
Known = frozenset[str] | None

MAX_CHARACTERS = 20_000  # of a question

MAX_OPTIONS = 50

# Words that change the value of a number beside them, take it back, hedge it, or add another. They never
# count, not even where the question has them.
DOUBT = re.compile(
    r"or|and|not?|nor|never|none|neither|cannot|isn|isnt|wrong|incorrect|invalid|false|untrue|opposite|unless|except"
    r"|if|but|either|maybe|perhaps|guess|unsure|unknown|doubt|about|around|approx|almost|nearly|ish|circa|to|than"
    r"|probably|possibly|likely|unlikely|hopefully|supposedly|presumably|roughly|approximately|hardly|(?:wrong|false)ly"
    r"|through|until|between|versus|least|most|more|less|fewer|over|under|above|below|plus|minus|times|divided|by"
    r"|squared?|cubed?|factorials?|mod|modulo|choose|remainder|power|root|percents?|percentage|negative|positive"
    r"|hal(?:f|ves)|thirds?"
    r"|quarters?|fourths?|fifths?|sixths?|sevenths?|eighths?|ninths?|tenths?|hundredths?|thousandths?|once|twice|thrice"
    r"|double|triple|zero|one|two|three|four|five|six|seven|eight|nine|tens?|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen|twenty|thirty"
    r"|forty|fifty|sixty|seventy|eighty|ninety|hundreds?|thousands?|[mb]illions?|trillions?|dozens?|pi|sqrt|sin|cos|tan"
    r"|cot|sec|csc|log|ln|exp|infinity|infty"
    r"|halved?|doubled|tripled|quadrupled?|reciprocals?|inverse|invert(?:ed)?|negat(?:e|ed|ion)|flip(?:ped)?"
    r"|reversed?|increased?|decreased?|reduced?|rounded|multipl(?:y|ied)|divide|subtract(?:ed)?|add(?:ed)?"
    r"|binary|hex|hexadecimal|octal|lakhs?|crores?|mln|milliards?|permille|ppm|kilo|gross"
    r"|nope|reject(?:ed)?|ruled|impossible|scratch|wait|actually|alternatively|rather|instead|otherwise"
    r"|too|high|low|unequal|mistaken?|error|ignore|disregard|exclude[ds]?|without|lacks?"
    r"|[ivxlcdm]{2,}"
)

# Units of length, area, mass, volume, time, money, angle, temperature and so on. Two sides that both name
# some of these must name the same.
_UNITS = """
    mm cm km inch foot feet yard mile mg kg g m l h s meter metre gram liter litre kilometer kilometre
    centimeter centimetre millimeter millimetre kilogram milligram milliliter millilitre in ft yd mi lb
    oz ml hr min sec ms msec mph kph pound ounce ton tonne stone gallon quart pint tablespoon teaspoon
    acre hectare second minute hour day week month year decade century millisecond dollar cent euro yen
    penny pence pennies nickel dime rupee yuan peso franc ruble shilling buck usd eur gbp radian celsius
    fahrenheit kelvin knot joule watt kilowatt megawatt volt ampere amp ohm newton pascal hertz calorie
    kilocalorie byte kilobyte megabyte gigabyte terabyte bit am pm
"""
# What is counted, as exercises count it, and words behind it that leave a number as it is.
_COUNTED = """
    unit degree item object thing piece part point apple orange banana pear peach plum cherry cherries
    lemon lime mango melon grape berry berries strawberry strawberries tomato potato carrot onion egg
    cookie cake cupcake muffin pie pizza slice sandwich burger donut doughnut candy candies chocolate
    sweet lollipop bread loaf loaves bagel biscuit meal snack bottle can cup glass bowl plate spoon fork
    knife knives box bag basket bucket jar packet pack package bundle case crate carton barrel tray book
    page notebook magazine newspaper letter word sentence line paragraph chapter story stories pencil
    pen crayon marker eraser ruler sheet paper card stamp sticker envelope ticket coin bill marble toy
    doll ball balloon bead block brick tile game puzzle clip button shirt shoe sock hat coat dress
    jacket glove pair person people man men woman women child children kid boy girl baby babies adult
    student pupil teacher friend player worker employee member guest customer passenger visitor driver
    runner swimmer soldier doctor nurse patient farmer family families team group class animal dog puppy
    puppies cat kitten bird duck goose geese chicken hen cow bull pig sheep goat horse rabbit fish frog
    bee ant butterfly butterflies spider insect elephant lion tiger monkey bear fox wolf mouse mice tree
    plant flower rose tulip leaf leaves seed branch bush garden car truck bus bike bicycle train plane
    boat ship wheel tire seat house home room door window floor wall table chair desk bed lamp light
    computer phone robot machine camera movie film song album video photo picture painting poster
    question problem test quiz exam lesson course grade goal match race trip lap mile step stair jump
    ride visit way method path route arrangement permutation combination possibility outcome solution
    digit number integer divisor element subset set pattern triangle circle rectangle polygon side edge
    vertex vertices corner face diagonal angle sphere row column layer shelf shelves stack pile bunch
    string rope ribbon stick rock stone shell star planet city town country countries street road bridge
    school office store shop altogether total overall left
    remaining each old long tall wide deep apart away
"""
_BETWEEN = frozenset({"per", "of"})
_SCALES = frozenset({"hundred", "thousand", "million", "billion", "trillion"})
ARTICLES = frozenset({"the", "our", "my", "final", *_BETWEEN})
_LEADS = """
    answer result solution value total sum area perimeter volume length width height
    depth distance speed rate time cost price profit tax number amount count average mean median mode
    range probability radius diameter circumference angle slope intercept difference product quotient
    age weight mass temperature score salary income revenue interest expected required surface
"""

ALIASES = {
    "usd": "dollar", "eur": "euro", "gbp": "pound",
    "in": "inch", "inche": "inch", "feet": "foot", "ft": "foot", "yd": "yard", "mi": "mile", "lb": "pound",
    "oz": "ounce", "hr": "hour", "h": "hour", "min": "minute", "sec": "second", "s": "second",
    "mph": "mile hour", "kph": "km hour", "msec": "ms", "millisecond": "ms",
}  # fmt: skip
_METRIC = {"kilo": "k", "centi": "c", "milli": "m", "": ""}
_STEMS = {"meter": "m", "metre": "m", "gram": "g", "liter": "l", "litre": "l"}
ALIASES |= {p + s: _METRIC[p] + _STEMS[s] for p in _METRIC for s in _STEMS}

_ANY_WORD = re.compile(r"[^\W\d_]+")
_LETTERED = re.compile(r"(?<![A-Za-z0-9])[(\[]?([A-Za-z0-9])[)\].:]+[ \t]+(?=\S)")
_PERCENT = re.compile(r"%|\bper ?cent(?:age)?s?\b", re.IGNORECASE)
_POWER = re.compile(r"(?<![0-9])([0-9]{1,9})\s*(?:\^|\*\*)\s*[{(]?\s*(-?[0-9]{1,9})")


def names(word: str) -> list[str]:
    """Return one spelling for the short and the long name of a unit, and for singular and plural."""
    if len(word) > 2:
        word = word.removesuffix("s")
    words = ALIASES.get(word, word).split()
    return [name.rstrip("es") if len(name) > 3 else name for name in words]


def _folded(words: str) -> frozenset[str]:
    return frozenset(name for word in words.split() for name in names(word))


UNITS = _folded(_UNITS)
VOCABULARY = UNITS | _folded(_COUNTED)
LEADS = VOCABULARY | _folded(_LEADS) | _folded(" ".join(ARTICLES))


def between(word: str) -> bool:
    """Whether `word` only joins two others, as in "miles per hour"."""
    return word in _BETWEEN


def may_stand(word: str, known: Known, vocabulary: frozenset[str] = VOCABULARY) -> bool:
    """Whether a word, in small letters, may stand beside a value in an answer."""
    folded = names(word)
    if all(name in vocabulary for name in folded):
        return True
    return not DOUBT.fullmatch(word) and (known is None or all(name in known for name in folded))


def question_of(prompt: Any) -> str:
    """Return what was asked last: a prompt as it is, of a conversation the last message of the user."""
    if isinstance(prompt, list | tuple):
        said = [m for m in prompt if isinstance(m, Mapping) and m.get("role") == "user"]
        content = said[-1].get("content") if said else ""
        if isinstance(content, list):
            texts = [part.get("text") for part in content if isinstance(part, Mapping)]
            content = " ".join(text for text in texts if isinstance(text, str))
        prompt = content
    return prompt[:MAX_CHARACTERS] if isinstance(prompt, str) else ""


@lru_cache(maxsize=1024)
def known_words(gold: str, question: str) -> frozenset[str]:
    """Return what the gold answer and the question bring to the closed vocabulary."""
    words = _ANY_WORD.findall(f"{gold} {question}".casefold())
    found = {name for word in words for name in names(word)}
    if _PERCENT.search(question):
        found.add("%")
    found |= {f"{int(base)}^{int(power)}" for base, power in _POWER.findall(question)}
    return frozenset(found) | _options(f"{gold}\n{question}")


def _options(text: str) -> set[str]:
    """Return the options of a question: each to the end of its line, and up to the next on that line."""
    cuts = [*_LETTERED.finditer(text)][:MAX_OPTIONS]
    found = set()
    for place, cut in enumerate(cuts):
        end = cuts[place + 1].start() if place + 1 < len(cuts) else len(text)
        found.add(option_key(cut[1], text[cut.end() : end].split("\n")[0]))
    return found


def option_key(letter: str, text: str) -> str:
    """Return one spelling for an option of the question, such as "B) Paris"."""
    return f"{letter.casefold()}) {' '.join(text.casefold().split()).rstrip('.,; ')}"


def unknown_word(text: str, known: Known) -> str | None:
    """Return the first of the words at the end of `text` that may not stand there, or None."""
    words: list[str] = []
    for word in reversed(text.casefold().split()[1:]):
        if not _ANY_WORD.fullmatch(word):
            break
        words.insert(0, word)
    skipped = _BETWEEN | _SCALES
    return next((word for word in words if word not in skipped and not may_stand(word, known)), None)
