"""Coverage-guided fuzzing of the parser: what it says of any text must hold together, in every form.

    pip install atheris
    python tests/fuzz/fuzz_parse.py -max_total_time=600

A folder as a further argument keeps the texts that reached something new. A text that breaks a promise ends
the run with the error and is written to a file `crash-...`; given as the argument, it is tried again alone.
pytest does not collect this file; `test_harnesses.py` tries it on a few texts.
"""

import re
import sys
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
try:
    import atheris
except ImportError:  # the checks can be called without it
    atheris = None

with atheris.instrument_imports(include=["rewards"]) if atheris else nullcontext():
    from rewards import SPECS, TagSpec, parse
    from rewards.spec import visible

# A byte above 127 stands for one of these, so that a mutation can insert a whole tag.
TOKENS = [
    *("<think>", "</think>", "<answer>", "</answer>", "\\boxed{", "\\boxed", "}", "{", "\\}", "\\\\"),
    *("\n#### ", "####", "#", "\n", "\r\n", "\u2028", "\u200b", "\u3164", "think>", "</", "42", " "),
]


def text_of(data: bytes) -> str:
    """A text for any bytes: ASCII as it is, tokens, and behind 0xff any character by its number."""
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


def group(text: str) -> str | None:
    """What stands in the braces that `text` begins with, by counting them one character at a time."""
    depth, escaped = 0, False
    for place, character in enumerate(text):
        if escaped:
            escaped = False
        elif character == "\\":
            # Before anything else, as in "\frac", a backslash makes no difference.
            escaped = text[place + 1 : place + 2] in ("\\", "{", "}")
        elif character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return text[1:place]
    return None


def answer_of(rest: str, spec: TagSpec) -> str | None:
    """The answer in a text behind the reasoning where the form is kept, read in the plainest way."""
    if spec.answer_form == "text":
        return rest
    if spec.answer_form == "tags":
        match = re.fullmatch(r"(.*?)<answer>(.*?)</answer>(.*)", rest, re.DOTALL)
        lone = rest.count("<answer>") == rest.count("</answer>") == 1
        return match[2] if match and lone and not visible(match[1] + match[3]) else None
    if spec.answer_form == "braces":
        boxes = re.split(r"\\boxed(?![A-Za-z])", rest)
        box = boxes[-1].lstrip()
        return group(box) if len(boxes) == 2 and box.startswith("{") else None
    lines = [line.lstrip() for line in rest.split("\n")]
    answers = [line[4:] for line in lines if line.startswith("####") and not line.startswith("#####")]
    return answers[0] if len(answers) == 1 else None


def kept(text: str, spec: TagSpec) -> tuple[str, str] | None:
    """Reasoning and answer where the form is kept, else None: an independent reading of what a form is."""
    parts = re.fullmatch(r"(.*?)<think>(.*?)</think>(.*)", text, re.DOTALL)
    if parts is None or text.count("<think>") != 1 or text.count("</think>") != 1:
        return None
    before, think, rest = parts.groups()
    if spec.answer_form == "tags" and ("<answer>" in think or "</answer>" in before + think):
        return None
    answer = answer_of(rest, spec)
    if visible(before) or not visible(think) or answer is None or not visible(answer):
        return None
    return think.strip(), answer.strip()


def check(data: bytes) -> None:
    """Parse the text that `data` spells in every form. Raises AssertionError where a promise is broken."""
    text = text_of(data[1:])
    for spec in SPECS.values():
        response = parse(text, spec=spec)
        said = (response.think, response.answer, response.problems)
        assert response.text == text
        if response.think is not None:
            assert response.think in text.partition("<think>")[2].rpartition("</think>")[0]
        if response.answer is not None:
            assert visible(response.answer)
            behind = text.rpartition("</think>")[2]
            assert response.answer in behind
            assert "<think>" not in behind
        well_formed = kept(text, spec)
        assert (well_formed is None) == bool(response.problems)
        if well_formed is not None:
            assert (response.think, response.answer) == well_formed
            again = parse(spec.render(*well_formed), spec=spec)
            assert (again.think, again.answer, again.problems) == said
        # Where the prompt ends and the completion begins makes no difference, nor do blanks around both.
        cut = data[0] % (len(text) + 1) if data else 0
        assert parse(text[cut:], prefill=text[:cut], spec=spec) == response
        wide = parse(f"\n {text}\n ", spec=spec)
        assert (wide.think, wide.answer, wide.problems) == said


if __name__ == "__main__":
    if atheris is None:
        sys.exit("fuzzing needs atheris: pip install atheris")
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
