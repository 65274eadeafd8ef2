"""language: shares by hand, what is told apart and what is not, and what cannot be gained by hiding."""

# ruff: noqa: RUF001 (texts of many languages)

import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import REWARDS
from rewards.language import LANGUAGES, WINDOW

ENGLISH = (
    "We need the sum of all the numbers that divide twelve. First we write them down, and then we add them. "
    "It is easy to see that there are six of them, so the result must be twenty-eight."
)
FRENCH = (
    "Nous devons calculer la somme de tous les nombres qui divisent douze. On les écrit donc dans une liste, "
    "puis on fait la somme. Il est facile de voir que le résultat est vingt-huit."
)
GERMAN = (
    "Wir brauchen die Summe aller Zahlen, durch die man zwölf teilen kann. Zuerst schreiben wir sie auf, und "
    "dann addieren wir. Es ist leicht zu sehen, dass das Ergebnis achtundzwanzig ist."
)
SPANISH = (
    "Necesitamos la suma de todos los números que dividen a doce. Primero los escribimos en una lista, y "
    "entonces hacemos la suma. Es fácil ver que el resultado es veintiocho."
)
CHINESE = "我们需要求出所有能整除十二的数的和。首先把它们写下来，然后相加，结果是二十八。"
RUSSIAN = "Нам нужна сумма всех чисел, на которые делится двенадцать. Сначала запишем их, потом сложим."
SENTENCES = {"en": ENGLISH, "fr": FRENCH, "de": GERMAN, "es": SPANISH, "zh": CHINESE, "ru": RUSSIAN}


def share(text: str, asked: Any = "en", **options: Any) -> float:
    (value,) = REWARDS["language"].with_options(language=asked, **options)(completions=[text])
    assert value is not None
    return value


@pytest.mark.parametrize("asked", SENTENCES)
@pytest.mark.parametrize("written", SENTENCES)
def test_sentences_are_of_their_own_language_only(written: str, asked: str) -> None:
    assert share(f"<think>\n{SENTENCES[written]}\n</think>\n<answer>28</answer>", asked) == float(
        written == asked
    )


@pytest.mark.parametrize(
    ("text", "asked", "value"),
    [
        # Three words in Latin letters, two Chinese characters.
        ("the sum is 我们", "en", 3 / 5),
        ("the sum is 我们", "zh", 2 / 5),
        # Words count, not letters: one of two.
        ("incomprehensibilities да", "ru", 1 / 2),
        # Kana and characters are Japanese; only the two characters could be Chinese.
        ("数字です", "ja", 1.0),
        ("数字です", "zh", 2 / 4),
        # One run of letters with characters of two scripts: x is a name, two characters are words.
        ("x轴上", "zh", 1.0),
        # Hangul has spaces: two words, beside one.
        ("합은 넷이다 four", "ko", 2 / 3),
        # Vowel signs do not cut a word into pieces: two words of Devanagari, one in Latin letters.
        ("योग चार four", "hi", 2 / 3),
        # An accent written as a character of its own: one word.
        ("e\u0301tude 我", "fr", 1 / 2),
        # Full-width and bold letters are letters.
        ("ｗｏｒｄ 𝐰𝐨𝐫𝐝", "en", 1.0),
        # Formulas say nothing: five neutral parts, one word.
        (r"\frac{a}{b} \sin x² + Δx = πr² \begin{pmatrix} 1 \end{pmatrix} 数", "zh", 1.0),
        ("sin cos log mod gcd 数", "zh", 1.0),
        # Tags say nothing.
        ("<think>数</think><answer>数</answer>", "zh", 1.0),
        # A short text without small words is taken for the asked language, with two of another it is not.
        ("Subtract three.", "fr", 1.0),
        ("Subtract three, then the sum of four.", "fr", 0.0),
        ("", "en", 0.0),
    ],
)
def test_shares_by_hand(text: str, asked: str, value: float) -> None:
    assert share(text, asked) == pytest.approx(value)


# Thirty words each.
THIRTY_ENGLISH = (
    "we see that the sum of the two numbers is not in the list so it must be even more than what we had as a "
    "first guess for this one"
)
THIRTY_FRENCH = (
    "on voit que la somme des deux nombres est dans une liste et donc il faut aussi une autre qui ne soit "
    "pas dans le premier groupe de cinq nombres"
)


def test_the_language_is_told_for_thirty_words_at_a_time() -> None:
    words = [len(re.findall(r"\w\w+", text)) for text in (THIRTY_ENGLISH, THIRTY_FRENCH)]
    assert words == [WINDOW, WINDOW]  # single letters say nothing
    mixed = f"{THIRTY_ENGLISH} {THIRTY_FRENCH} {THIRTY_ENGLISH} {THIRTY_ENGLISH}"
    assert share(mixed, "en") == 3 / 4
    assert share(mixed, "fr") == 1 / 4
    # What is left over belongs to the last thirty words: 30 + 39 words, of which the last 39 are one window.
    mixed = f"{THIRTY_FRENCH} {THIRTY_ENGLISH} {' '.join(THIRTY_FRENCH.split()[:9])}"
    assert share(mixed, "en") == 39 / 69


def test_without_small_words_a_longer_text_is_of_no_language() -> None:
    """Else a policy that is asked for French could go on in English, in the style of a telegram."""
    telegram = (
        "Subtract three, both sides. Divide two. Result four. Check: eight plus three equals eleven. "
        "Correct. Answer four. Verify again. Eleven equals eleven. Final answer four. Four seems right. "
        "Done. Next."
    )
    assert len(telegram.split()) == WINDOW
    shares = {asked: share(telegram, asked) for asked in ("en", "fr", "de", "zh")}
    assert shares == {"en": 0.0, "fr": 0.0, "de": 0.0, "zh": 0.0}
    # The same small word again and again is one.
    assert share("lorem " * 500) == share("the lorem " * 500) == 0.0


def test_one_good_sentence_does_not_cover_for_the_rest() -> None:
    assert share(f"{FRENCH} {ENGLISH * 10}", "fr") < 0.15
    assert share(f"{CHINESE}{ENGLISH * 10}", "zh") < 0.15


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{ENGLISH}</think>\\boxed{{{FRENCH}}}",
        f"```\n{ENGLISH}\n```\n{FRENCH}",
        f"<!-- {ENGLISH} -->{FRENCH}",
        f"\\text{{{ENGLISH}}} {FRENCH}",
        f"<think>{FRENCH}</think><think>{ENGLISH}</think><answer>{FRENCH}</answer>",
        f"<think>{FRENCH}</think><answer>28</answer>{ENGLISH}",
    ],
)
def test_words_are_read_wherever_they_stand(text: str) -> None:
    assert 0.2 < share(text, "fr") < 0.8
    assert 0.2 < share(text, "en") < 0.8


CODE = "def add(first, second):\n    return first + second\n"


def test_reasoning_only_leaves_out_the_answer() -> None:
    text = f"<think>{CHINESE}</think><answer>```python\n{CODE}```</answer>"
    assert share(text, "zh") < 0.9
    assert share(text, "zh", reasoning_only=True) == 1.0
    # All the same words elsewhere are read, as the answer is left out once.
    assert share(f"<think>{CHINESE}{CODE}</think><answer>{CODE}</answer>", "zh", reasoning_only=True) < 0.9
    assert share(f"<think>{CHINESE}</think><answer>{CODE}</answer> so it is", "zh", reasoning_only=True) < 1.0
    # Without an answer that counts, all is read.
    assert share(f"<think>{CHINESE}<answer>{CODE}</answer>", "zh", reasoning_only=True) < 0.9


@pytest.mark.parametrize("answer", ["a", "e", "n", "er", "<b>", "answer", "\\alpha"])
def test_an_answer_that_looks_like_a_part_of_its_tag(answer: str) -> None:
    text = f"<think>{CHINESE}</think><answer>{answer}</answer>"
    assert share(text, "zh", reasoning_only=True) == 1.0


def test_a_column_sets_the_language_of_each_row() -> None:
    values = REWARDS["language"](completions=[FRENCH, FRENCH, CHINESE], language=["fr", "en", "zh"])
    assert values == [1.0, 0.0, 1.0]


pieces = st.sampled_from(
    ["the sum of ", "und ", "que ", "我们", "и ", "<think>", "</think>", "\\frac", "x", "\u0301", "```"]
)
anything = st.text() | st.lists(pieces | st.text(max_size=3)).map("".join)


@settings(deadline=None, max_examples=300)
@given(text=anything, asked=st.sampled_from(sorted(LANGUAGES)), reasoning_only=st.booleans())
def test_any_text_has_a_share(text: str, asked: str, reasoning_only: bool) -> None:
    assert 0.0 <= share(text, asked, reasoning_only=reasoning_only) <= 1.0


@settings(deadline=None)
@given(text=anything)
def test_scripts_share_a_text(text: str) -> None:
    """No two of these languages have a script in common."""
    assert sum(share(text, asked) for asked in ("en", "ru", "zh", "ko", "th", "ar")) <= 1.0 + 1e-9


def test_case_says_nothing() -> None:
    assert share(ENGLISH.upper()) == 1.0
    assert share(FRENCH.title(), "fr") == 1.0


@pytest.mark.parametrize(
    "piece",
    ["the sum of ", "中文", "<aaaa", "a", "e\u0301", "aЖ", "<", "\\begin{", "\u0301\u0323", "²", "हिन्दी "],
)
def test_a_megabyte_takes_less_than_seconds(piece: str) -> None:
    text = piece * (2**20 // len(piece))
    began = time.perf_counter()
    share(text)
    assert time.perf_counter() - began < 4.0  # 0.4 s at most on an idle core


@pytest.mark.parametrize("asked", ["English", "EN", "", None, 3, ["en"]])
def test_an_unknown_language_is_an_error(asked: Any) -> None:
    with pytest.raises(
        ValueError, match=r"reward 'language': language=.* is not known: .*ar, de, el, en, es"
    ):
        share("text", asked)


@pytest.mark.parametrize(
    "text", ["", " \n", "2 + 2 = 4", "<think></think>", r"\alpha + \frac{1}{2}", "x y z", "²³", "."]
)
def test_a_text_without_words_earns_nothing(text: str) -> None:
    (score,) = REWARDS["language"].scores(completions=[text])
    assert (score.value, score.reason) == (0.0, "no words to tell a language by")


def test_the_reason_counts_words() -> None:
    (score,) = REWARDS["language"].scores(completions=["the sum is 我们"])
    assert score.reason == "3 of 5 words are en"
