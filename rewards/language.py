"""language: is the text in the language that was asked for?"""

import re
import unicodedata
from functools import lru_cache

from rewards.base import nearest
from rewards.response import Response
from rewards.score import Score

WINDOW = 20  # words whose language is told together

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
# The commonest small words of languages in Latin script. One that two languages share speaks for both.
_SMALL_WORDS = {
    "en": "the of and to is that it in for was on are as with this be by at have from or which you we so if",
    "de": "der die das und ist nicht ein eine zu von mit den im auf es sich wir dass auch wie dann also wenn",
    "fr": "le la les et est des un une que pour dans qui pas sur nous on donc si avec au ce il en du par",
    "es": "el la los las y es de que en un una por con para se no del al lo como entonces si son su nos",
    "it": "il lo la gli e di che un una per con non si del della sono come quindi se in nel anche da le i",
    "pt": "o os as e de que um uma para com se do da em no na por como então são mais ao dos das não",
    "nl": "de het een en van is dat niet op te zijn met voor er aan als dus we ook deze dan wordt die om",
    "sv": "och att det en ett som på är av för med till den inte om vi så har de kan vara var från",
    "pl": "i w z na nie że to się do jest jak o po za dla więc jeśli od przez co ale oraz czyli mamy",
    "tr": "ve bir bu için ile de da ne o çok gibi daha sonra olan olarak ise kadar her tüm toplam",
    "id": "dan yang di ke dari untuk dengan ini itu adalah tidak pada kita maka jadi akan jika juga",
    "vi": "và là của có một cho không được trong các với này ta thì để nếu vậy số",
}
_WORDS_OF = {language: frozenset(words.split()) for language, words in _SMALL_WORDS.items()}
LANGUAGES = frozenset(_SCRIPTS) | frozenset(_WORDS_OF)

# Neutral in any language: tags, commands of LaTeX, and below the names of functions and of variables.
_MARKUP = re.compile(r"</?[A-Za-z_]+>|\\[A-Za-z]+")
_FUNCTIONS = frozenset(
    (
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "log",
        "ln",
        "exp",
        "lim",
        "max",
        "min",
        "mod",
        "gcd",
        "lcm",
        "det",
    )
)
_WORD = re.compile(r"[^\W\d_]+")


def language(response: Response, *, language: str = "en") -> Score:
    """The share of letters, in reasoning and answer, that are of the asked `language`: in [0, 1].

    The language consistency of DeepSeek-R1 (arXiv 2501.12948) without a model. The script of the letters
    decides; for languages in Latin script, the small words do ("the", "und"), for 20 words at a time: those
    in which another of the known languages has more of them are that language's. So it tells Chinese from
    English, and English from French if there are sentences. It does not tell Ukrainian from Russian, or
    Chinese from Japanese without kana, and takes Latin words that no list knows for the asked language.
    Markup, single letters and names of functions say nothing. A text without words gets 0. Raises ValueError
    for an unknown language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language {language!r} is not known: {nearest(str(language), LANGUAGES)}")
    latin: list[str] = []
    letters = {"LATIN": 0}
    for word in _WORD.findall(_MARKUP.sub(" ", response.text)):
        if word.isascii():
            latin += [word.lower()] if len(word) > 1 and word.lower() not in _FUNCTIONS else []
            continue
        scripts = [_script(letter) for letter in word]
        if set(scripts) <= {"LATIN", "GREEK"} and len(word) == 1:
            continue
        if set(scripts) == {"LATIN"}:
            latin.append(word.lower())
            continue
        for script in scripts:
            letters[script] = letters.get(script, 0) + 1
    letters["LATIN"] += sum(map(len, latin))
    total = sum(letters.values())
    if not total:
        return Score(0.0, "no words to tell a language by")
    if language in _SCRIPTS:
        right = sum(letters.get(script, 0) for script in _SCRIPTS[language])
    else:
        right = sum(map(len, _words_in(language, latin)))
    return Score(right / total, f"{right} of {total} letters are {language}")


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The first word of the character's name: LATIN, CYRILLIC, CJK, ..."""
    name = re.split("[ -]", unicodedata.name(letter, "UNKNOWN"), maxsplit=1)[0]
    return {"IDEOGRAPHIC": "CJK"}.get(name, name)


def _words_in(language: str, words: list[str]) -> list[str]:
    """The words that do not stand among small words of another language."""
    found = []
    for start in range(0, len(words), WINDOW):
        window = words[start : start + WINDOW]
        hits = {name: sum(word in small for word in window) for name, small in _WORDS_OF.items()}
        if hits[language] >= max(hits.values()) or max(hits.values()) < 2:
            found += window
    return found
