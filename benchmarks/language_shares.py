"""What the reward `language` says of one text in 22 languages, asked for each of them.

    pip install django
    python benchmarks/language_shares.py
    python benchmarks/language_shares.py nb ms fi

The text is that of the messages of Django, in whole sentences and without the places that are filled in. A
row is the language it is written in, one of those given or each that the reward knows; a column is the one
that is asked for.
"""

import gettext
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rewards import REWARDS
from rewards.language import LANGUAGES

_FILLED_IN = re.compile(r"%\([a-z_]+\)[sd]|%[sd]|\{[a-z_]*\}|<[^>]+>")
_FOLDERS = {"zh": "zh_Hans"}
_WORDS = 5  # of the English message, for a sentence


def messages(django: Path, language: str) -> list[str]:
    """The messages in a language; those in English are what the others translate."""
    folder = "de" if language == "en" else _FOLDERS.get(language, language)
    found: dict[str, str] = {}
    for path in sorted(django.glob(f"**/locale/{folder}/LC_MESSAGES/django.mo")):
        with path.open("rb") as file:
            catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        for key, text in catalog.items():
            english = (key[0] if isinstance(key, tuple) else key).rpartition("\x04")[2]
            if len(english.split()) >= _WORDS and isinstance(text, str):
                found[english] = english if language == "en" else text
    return [_FILLED_IN.sub(" ", text) for text in found.values()]


def main() -> None:
    try:
        import django
    except ImportError:
        sys.exit("the messages are Django's: pip install django")
    names = sorted(LANGUAGES)
    print("     ", *names, sep="   ")
    for written in sys.argv[1:] or names:
        text = "\n".join(messages(Path(django.__file__).parent, written))
        shares = (REWARDS["language"].with_options(language=asked)(completions=[text]) for asked in names)
        print(f"{written:>4} ", *(f"{share:4.2f}" for (share,) in shares), f" {len(text.split())} words")


if __name__ == "__main__":
    main()
