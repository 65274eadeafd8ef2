"""language: is the text in the language that was asked for?"""

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from itertools import groupby

from rewards.base import nearest
from rewards.response import Response
from rewards.score import Score

WINDOW = 30  # words whose language is told together

_SCRIPTS = {
    "ar": {"ARABIC"},
    "el": {"GREEK"},
    "he": {"HEBREW"},
    "hi": {"DEVANAGARI"},
    "ja": {"CJK", "HIRAGANA", "KATAKANA"},
    "ko": {"HANGUL"},
    "ru": {"CYRILLIC"},
    "th": {"THAI"},
    "uk": {"CYRILLIC"},
    "zh": {"CJK", "BOPOMOFO"},
}
# Written without spaces: each letter counts as a word.
_UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR"})

# The commonest small words of languages in Latin script. One that two languages share speaks for both.
_SMALL_WORDS = """\
en the of and to is that it in for was on are as with this be by at have from or which you we so if not an
de der die das und ist nicht ein eine zu von mit den im auf es sich wir dass auch wie also wenn für oder bei
fr le la les et est des un une que pour dans qui pas sur nous on donc si avec au ce il en du par de ou ne
es el la los las de que en un una por con para se no del al lo como entonces si son su nos es este hay
it il lo la gli di che un una per con non si del della sono come quindi se in nel anche da le questo ed
pt os as de que um uma para com se do da em no na por como então são mais ao dos das não ou este
nl de het een en van is dat niet op te zijn met voor er aan als dus we ook deze dan wordt die om in of dit
sv och att det en ett som på är av för med till den inte om vi så har de kan vara var från eller
pl na nie że to się do jest jak po za dla więc jeśli od przez co ale oraz czyli mamy być lub niż aby ma
tr ve bir bu için ile de da ne çok gibi daha sonra olan olarak ise kadar her tüm toplam ya değil olur
id dan yang di ke dari untuk dengan ini itu adalah tidak pada kita maka jadi akan jika juga atau ada dapat
vi và là của có một cho không được trong các với này ta thì để nếu vậy số đã hoặc thể khi những
"""
_LATIN: set[str] = set()
_SPEAKS_FOR: dict[str, list[str]] = {}
for _name, *_words_of_it in map(str.split, _SMALL_WORDS.splitlines()):
    _LATIN.add(_name)
    for _word in _words_of_it:
        _SPEAKS_FOR.setdefault(_word, []).append(_name)
LANGUAGES = frozenset(_SCRIPTS) | _LATIN

# Neutral in any language: tags, commands of LaTeX, and below the names of functions and of variables.
_MARKUP = re.compile(r"</?[A-Za-z_]+>|\\(?:begin|end)\{[A-Za-z*]+\}|\\[A-Za-z]+")
_FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp",
    "lim", "max", "min", "mod", "gcd", "lcm", "det",
})  # fmt: skip
# Vowel signs and accents of their own are no letters, and would cut a word into pieces.
_MARKS = re.compile(
    f"[{''.join(chr(code) for code in range(0x300, 0x1100) if unicodedata.category(chr(code))[0] == 'M')}]+"
)
_WORD = re.compile(r"[^\W\d_]+")


def language(response: Response, *, language: str = "en", reasoning_only: bool = False) -> Score:
    """The share of words, in reasoning and answer, that are of the asked `language`: in [0, 1].

    The language consistency of DeepSeek-R1 (arXiv 2501.12948, equation 7) without a model. The script of its
    letters tells the language of a word, and of scripts written without spaces each letter counts as one. For
    languages in Latin script the small words decide ("the", "und"), over 30 words at a time: those are of the
    language of which most different ones are among them, and of none where these are less than two. So it
    tells Chinese from English, and English from French if there are sentences. It does not tell Ukrainian
    from Russian or Chinese from Japanese without kana, nor Latin gibberish of a few words from anything.

    Tags, commands of LaTeX, single letters, names of functions and whatever is no letter say nothing. Code is
    read as text; `reasoning_only` leaves the answer out, for answers that are code. A text without words gets
    0. Raises ValueError for an unknown language.
    """
    if not isinstance(language, str) or language not in LANGUAGES:
        raise ValueError(
            f"reward 'language': language={language!r} is not known: {nearest(str(language), LANGUAGES)}"
        )
    text, answer = (_MARKUP.sub(" ", part or "") for part in (response.text, response.answer))
    if reasoning_only and answer:
        text = " ".join(text.rsplit(answer, 1))
    latin, others = _words(text)
    total = len(latin) + sum(others.values())
    if not total:
        return Score(0.0, "no words to tell a language by")
    if language in _SCRIPTS:
        right = sum(others[script] for script in _SCRIPTS[language])
    else:
        right = _count(language, latin)
    return Score(right / total, f"{right} of {total} words are {language}")


def _words(text: str) -> tuple[list[str], Counter[str]]:
    """Return the words in Latin letters, and how many there are of each other script."""
    latin: list[str] = []
    others: Counter[str] = Counter()
    if not text.isascii():
        text = _MARKS.sub("", text)
    for word in _WORD.findall(text):
        if word.isascii():
            latin.append(word)
            continue
        for script, letters in groupby(filter(str.isalpha, word), key=_script):
            run = "".join(letters)
            if script == "LATIN":
                latin.append(run)
            elif script in _UNSPACED:
                others[script] += len(run)
            elif script != "GREEK" or len(run) > 2:  # πr and Δx are formulas
                others[script] += 1
    small = map(str.lower, latin)
    return [word for word in small if len(word) > 1 and word not in _FUNCTIONS], others


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The first word of the character's name: LATIN, CYRILLIC, CJK, ..."""
    plain = unicodedata.normalize("NFKC", letter)[0]  # full-width, bold and such are variants of a letter
    name = re.split("[ -]", unicodedata.name(plain, "UNKNOWN"), maxsplit=1)[0]
    return {"IDEOGRAPHIC": "CJK"}.get(name, name)


def _count(language: str, words: list[str]) -> int:
    """How many of the words stand where the small words are those of the language."""
    found = 0
    # What is left over belongs to the last window, so that only a short text has one that is not full.
    starts = range(0, max(1, len(words) - WINDOW + 1), WINDOW)
    for start in starts:
        window = words[start:] if start == starts[-1] else words[start : start + WINDOW]
        hits = Counter(name for word in set(window) for name in _SPEAKS_FOR.get(word, ()))
        most = max(hits.values(), default=0)
        if 2 <= most == hits[language] or (len(window) < WINDOW and most < 2):
            found += len(window)
    return found
