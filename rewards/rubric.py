"""The named, weighted, gated sum of rewards."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards.base import Reward, nearest
from rewards.score import Score


@dataclass(frozen=True)
class Term:
    """One reward of a rubric. With a `gate`, it counts only where the term of that name has full marks."""

    name: str
    reward: Reward
    weight: float = 1.0
    gate: str | None = None


@dataclass(frozen=True)
class RubricScore:
    """The weighted total, None for an abstention, and what each reward said, by the name of its term."""

    total: float | None
    parts: dict[str, Score]


class Rubric:
    """total = sum of weight * value over the terms whose gate is open.

    A gate is open where its term's value is at least 1 and that term's own gate is open. Where a term that
    counts abstains, or a gate does, the total abstains; terms of weight 0 are only reported. Raises
    ValueError for a name given twice, a weight that is not finite, and a gate that is unknown or circular.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = {term.name: term for term in terms}
        for name, count in Counter(term.name for term in terms).items():
            if count > 1:
                raise ValueError(f"the rubric has {count} terms named {name!r}: rename one")
        for term in terms:
            if not math.isfinite(term.weight):
                raise ValueError(f"the weight of {term.name!r} is {term.weight}: give a finite number")
            seen = [term.name]
            while (gate := self.terms[seen[-1]].gate) is not None:
                if gate not in self.terms:
                    raise ValueError(
                        f"the gate {gate!r} of {seen[-1]!r} is no term: {nearest(gate, self.terms)}"
                    )
                if gate in seen:
                    raise ValueError(f"the gates {' -> '.join([*seen, gate])} form a circle: open one")
                seen.append(gate)

    def score(
        self,
        completions: list[Any],
        *,
        prefill: list[str] | None = None,
        columns: Mapping[str, Any] | None = None,
    ) -> list[RubricScore]:
        """Score completions, all of a step at once if that suits; arguments as in `Reward.__call__`."""
        scores = {
            name: term.reward.scores(completions=completions, prefill=prefill, **(columns or {}))
            for name, term in self.terms.items()
        }
        rows = [{name: column[row] for name, column in scores.items()} for row in range(len(completions))]
        return [RubricScore(self._total(parts), parts) for parts in rows]

    def _total(self, parts: dict[str, Score]) -> float | None:
        total = 0.0
        for name, term in self.terms.items():
            if term.weight == 0:
                continue
            opened = self._opened(term.gate, parts)
            value = parts[name].value
            if opened is None or (opened and value is None):
                return None
            if opened and value is not None:
                total += term.weight * value
        return total

    def _opened(self, gate: str | None, parts: dict[str, Score]) -> bool | None:
        """Whether a gate is open; None where that cannot be told because a gate abstains."""
        if gate is None:
            return True
        behind = self._opened(self.terms[gate].gate, parts)
        value = parts[gate].value
        if behind is False or (value is not None and value < 1):
            return False
        return None if behind is None or value is None else True
