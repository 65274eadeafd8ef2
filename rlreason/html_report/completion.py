"""A completion as the page gets it: what it thought and what it answered set apart, long text cut.

Whatever the policy wrote is made harmless here: terminal escape codes and what turns the reading direction
around become visible characters. That it is never read as HTML is the page's business (embed.py).
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from rewards import parse
from rewards.spec import SPECS, TagSpec
from rlreason.html_report.embed import embedded
from rlreason.html_report.numbers import rounded
from rlreason.report.text import harmless

LONGEST_TEXT = 6_000
LONGEST_QUESTION = 2_000
LONGEST_REASON = 240
LONGEST_ANSWER = 400
_NUMBERS = 60  # bytes that the numbers of a completion take, about

THINK, ANSWER, PREFILL, REST, CUT = "think", "answer", "prefill", "rest", "cut"


def pieces(text: str, prefill: str, spec: TagSpec) -> list[tuple[str, str]]:
    """The completion in (role, text). Joined, they are prefill and text, without the middle where it is long.

    `think` is the reasoning, also one that has no end; `answer` is the answer; `prefill` what the prompt had
    written already, outside of the reasoning; `rest` everything else; `cut` says what was left out.
    """
    whole = prefill + text
    head, tail = _ends(len(whole))
    cuts = {0, len(prefill), head, tail, len(whole)}
    spans = _spans(whole, prefill, spec)
    for _, start, end in spans:
        cuts |= {start, end}
    found: list[tuple[str, str]] = []
    places = sorted(cuts)
    for start, end in pairwise(places):
        if head <= start and end <= tail:
            if not found or found[-1][0] != CUT:
                found.append((CUT, f"{tail - head:,}"))
            continue
        outside = PREFILL if end <= len(prefill) else REST
        role = next((name for name, first, last in spans if first <= start and end <= last), outside)
        if found and found[-1][0] == role:
            found[-1] = (role, found[-1][1] + whole[start:end])
        else:
            found.append((role, whole[start:end]))
    return [(role, harmless(part)) for role, part in found]


def _ends(length: int) -> tuple[int, int]:
    """Where the cut begins and ends: two thirds of what is shown are the beginning, as answers come last."""
    if length <= LONGEST_TEXT:
        return length, length
    head = 2 * LONGEST_TEXT // 3
    return head, length - (LONGEST_TEXT - head)


def _spans(whole: str, prefill: str, spec: TagSpec) -> list[tuple[str, int, int]]:
    """Where reasoning and answer stand. The parser says what they are; only reasoning without end is ours."""
    said = parse(whole, spec=spec)
    opened = whole.find(spec.think_open)
    behind = opened + len(spec.think_open)
    if said.think is None:
        return [(THINK, behind, len(whole))] if opened >= 0 and spec.think_close not in whole else []
    closed = whole.find(spec.think_close, behind)
    spans = [(THINK, behind, closed)]
    if said.answer:
        after = closed + len(spec.think_close)
        mark = whole.find(spec.answer_open.strip(), after)
        at = whole.find(said.answer, max(mark + len(spec.answer_open.strip()), after) if mark >= 0 else after)
        if at >= 0:
            spans.append((ANSWER, at, at + len(said.answer)))
    return spans


def room_for(record: Mapping[str, Any], *, first: bool) -> int:
    """Bytes that a completion takes in the page, about. The `first` of a group brings the question along."""
    whole = f"{record.get('prefill') or ''}{record['text']}"
    head, tail = _ends(len(whole))
    room = _NUMBERS + 40 + _bytes(whole[:head]) + _bytes(whole[tail:])
    scores = record.get("scores")
    if isinstance(scores, Mapping):
        for said in scores.values():
            reason = said.get("reason") if isinstance(said, Mapping) else None
            room += 16 + _bytes(str(reason or "")[:LONGEST_REASON])
    if first:
        room += _NUMBERS + _bytes(str(record.get("question"))[:LONGEST_QUESTION])
        room += _bytes(str(record.get("answer"))[:LONGEST_ANSWER])
    return room


def _bytes(text: str) -> int:
    """What a text takes in the page, where one byte may become six."""
    return len(embedded(harmless(text)).encode())


def spec_of(config: Mapping[str, Any]) -> TagSpec:
    """The form that a run's config asks for; the usual one where it cannot be told."""
    prompt = config.get("prompt")
    name = prompt.get("format") if isinstance(prompt, Mapping) else None
    return SPECS.get(str(name), SPECS["think_answer"])


class Member(NamedTuple):
    """A completion's line, and its place among all of its group in the file, from 0 on."""

    place: int
    record: Mapping[str, Any]


class Group(NamedTuple):
    """How many completions a group has, and those of them that are shown, one at least."""

    size: int
    members: list[Member]


class Packed:
    """The chosen completions of a run, packed for the page. A reason is stored once, however often given."""

    def __init__(self, spec: TagSpec) -> None:
        self._spec = spec
        self._rewards: dict[str, int] = {}
        self._reasons: dict[str, int] = {}
        self._groups: list[list[Any]] = []

    def add(self, step: int, number: int, group: Group) -> None:
        """Take a group: its question and gold answer once, then each completion that is shown."""
        first = group.members[0].record
        self._groups.append(
            [
                step,
                number,
                _short(first.get("question"), LONGEST_QUESTION),
                _short(first.get("answer"), LONGEST_ANSWER),
                [[*self._completion(member.record), member.place] for member in group.members],
                rounded(first.get("greedy_reward"), 4),
                group.size,
            ]
        )

    def record(self) -> dict[str, Any]:
        """The columns; see `unpack` in static/app/data.js, which is the only reader."""
        return {"rewards": list(self._rewards), "reasons": list(self._reasons), "groups": self._groups}

    def _completion(self, record: Mapping[str, Any]) -> list[Any]:
        parts = pieces(record["text"], str(record.get("prefill") or ""), self._spec)
        scores: list[Any] = []
        said = record.get("scores")
        for name, score in said.items() if isinstance(said, Mapping) else ():
            if isinstance(score, Mapping):
                scores.append(self._score(harmless(name), score))
        return [
            rounded(record.get("reward"), 4),
            rounded(record.get("advantage"), 4),
            record["tokens"] if isinstance(record.get("tokens"), int) else None,
            str(record.get("finish_reason") or "")[:40],
            [item for part in parts for item in part],
            scores,
        ]

    def _score(self, name: str, score: Mapping[str, Any]) -> list[Any]:
        number = self._rewards.setdefault(name, len(self._rewards))
        reason = _short(score.get("reason") or "", LONGEST_REASON)
        said = self._reasons.setdefault(reason, len(self._reasons))
        return [number, rounded(score.get("value"), 4), said, int(bool(score.get("failed")))]


def _short(value: Any, limit: int) -> str:
    text = "" if value is None else harmless(value)
    return text if len(text) <= limit else f"{text[:limit]} […]"
