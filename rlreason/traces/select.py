"""Which completions of a question are worth imitating."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from rewards import Response, RubricScore
from rlreason.seeds import derive_seed
from rlreason.types import Example

_SLACK = 1e-9


@dataclass(frozen=True)
class Candidate:
    """A completion of a question: `place` is the question's, `number` the completion's among its own.

    `ended` says that it ended by itself. `tokens` is its length: words, where nothing was tokenized. `style`
    is that of a derivation, and `text` what stands behind the prompt, the prefill included.
    """

    example: Example
    text: str
    response: Response
    score: RubricScore
    ended: bool
    tokens: int
    place: int
    number: int
    style: str = ""

    @property
    def total(self) -> float:
        """The rubric's total; an abstention lies below all others."""
        return -math.inf if self.score.total is None else self.score.total


@dataclass(frozen=True)
class Selection:
    """Rejection sampling: what is right is kept, and no mistake is imitated.

    STaR (Zelikman et al. 2022, arXiv 2203.14465) imitates the samples that reach the right answer; RFT (Yuan
    et al. 2023, arXiv 2308.01825) several different ones of each question.

    Kept are completions with full marks of the reward `main`, in the asked form, that ended by themselves and
    whose total is at least `min_reward`: at most `keep` of a question, those of the highest total first and,
    of equal ones, those that the seed draws; or with `shortest` those of the fewest tokens. A preference for
    short ones is a preference against working things out, which is why it has to be asked for.
    """

    main: str
    seed: int
    keep: int = 1
    min_reward: float | None = None
    shortest: bool = False

    def right(self, candidate: Candidate) -> bool:
        """Whether the main reward gives full marks."""
        value = candidate.score.parts[self.main].value
        return value is not None and value >= 1 - _SLACK

    def usable(self, candidate: Candidate) -> bool:
        """Whether a completion may be imitated."""
        paid = self.min_reward is None or candidate.total >= self.min_reward - _SLACK
        return self.right(candidate) and not candidate.response.problems and candidate.ended and paid

    def distinct(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Usable completions of one question, the best first, each once but for white space."""
        found: dict[tuple[str, ...], Candidate] = {}
        for candidate in sorted(filter(self.usable, candidates), key=self._order):
            said = (candidate.response.think or "", candidate.response.answer or "")
            found.setdefault(tuple(" ".join(part.split()) for part in said), candidate)
        return list(found.values())

    def _order(self, candidate: Candidate) -> tuple[float, float, int]:
        draw = derive_seed("kept trace", self.seed, candidate.place, candidate.number)
        if self.shortest:
            return candidate.tokens, -candidate.total, draw
        return -candidate.total, 0, draw
