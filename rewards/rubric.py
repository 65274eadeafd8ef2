"""The named, weighted, gated sum of rewards."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from rewards.base import Reward, nearest
from rewards.guarded import guarded_scores
from rewards.pooled import Call, PooledReward
from rewards.score import Score


@dataclass(frozen=True)
class Term:
    """One reward of a rubric.

    With a `gate`, it counts only where the term of that name has full marks. `clip` bounds what it counts,
    from below and above, before it is weighted. `seconds` is the time budget of a completion in the workers
    of a pool; a reward that does not run there is not bounded. Raises ValueError for a weight or time that is
    no finite number, a time that is not above 0, and a clip that is not two finite numbers, the lower first.
    """

    name: str
    reward: Reward | PooledReward
    weight: float = 1.0
    gate: str | None = None
    clip: tuple[float, float] | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if not _is_finite(self.weight):
            raise ValueError(f"the weight of {self.name!r} is {self.weight!r}: give a finite number")
        clip = self.clip
        if clip is not None and not (
            isinstance(clip, list | tuple)
            and len(clip) == 2
            and all(map(_is_finite, clip))
            and clip[0] < clip[1]
        ):
            raise ValueError(
                f"the clip of {self.name!r} is {clip!r}: give two finite numbers, the lower one first"
            )
        if self.seconds is not None and not (_is_finite(self.seconds) and self.seconds > 0):
            raise ValueError(
                f"the seconds of {self.name!r} are {self.seconds!r}: give a number above 0, or None"
            )


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class RubricScore:
    """The weighted total, None for an abstention, and what each reward said, by the name of its term.

    `counted` holds for each term with a weight the value that was weighted: clipped, 0 behind a closed
    gate, None for an abstention. total = sum of weight * counted.
    """

    total: float | None
    parts: dict[str, Score]
    counted: dict[str, float | None] = field(default_factory=dict)


class Rubric:
    """total = sum of weight * value over the terms whose gate is open.

    A gate is open where its term's value is at least 1 and that term's own gate is open. Where a term that
    counts abstains, or a gate does, the total abstains; terms of weight 0 are only reported. A time-out
    counts as 0, or where the term has a clip as the worse end of it. Raises ValueError for a name given
    twice, and a gate that is unknown or circular.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = {term.name: term for term in terms}
        for name, count in Counter(term.name for term in terms).items():
            if count > 1:
                raise ValueError(f"the rubric has {count} terms named {name!r}: rename one")
        for term in terms:
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
        """Score completions, all of a step at once if that suits; arguments as in `Reward.__call__`.

        Errors inside a reward are failed scores. Raises ValueError for a missing column or a wrong length.
        """
        scores: dict[str, list[Score]] = {}
        calls: dict[str, Call] = {}
        for name, term in self.terms.items():
            if isinstance(term.reward, PooledReward):
                calls[name] = term.reward.begin(completions, prefill, columns or {}, seconds=term.seconds)
            else:
                scores[name] = guarded_scores(
                    term.reward, completions=completions, prefill=prefill, columns=columns or {}
                )
        for pool in dict.fromkeys(call.reward.pool for call in calls.values()):
            pool.run([call for call in calls.values() if call.reward.pool is pool])
        scores |= {name: call.result() for name, call in calls.items()}
        rows = [{name: scores[name][row] for name in self.terms} for row in range(len(completions))]
        return [self.add_up(parts) for parts in rows]

    def add_up(self, parts: dict[str, Score]) -> RubricScore:
        """The total that the terms' scores make, by the name of the term; saved ones can be added up anew."""
        counted = {name: self._counted(term, parts) for name, term in self.terms.items() if term.weight != 0}
        total: float | None = 0.0
        for name, value in counted.items():
            total = None if total is None or value is None else total + self.terms[name].weight * value
        return RubricScore(total, parts, counted)

    def _counted(self, term: Term, parts: dict[str, Score]) -> float | None:
        opened, score = self._opened(term.gate, parts), parts[term.name]
        if opened is False:
            return 0.0
        if opened is None or score.value is None:
            return None
        if term.clip is None:
            return score.value
        low, high = term.clip
        if score.failed:  # no value is known: the completion must not gain by that
            return low if term.weight > 0 else high
        return min(max(score.value, low), high)

    def _opened(self, gate: str | None, parts: dict[str, Score]) -> bool | None:
        """Whether a gate is open; None where that cannot be told because a gate abstains."""
        if gate is None:
            return True
        behind = self._opened(self.terms[gate].gate, parts)
        value = parts[gate].value
        if behind is False or (value is not None and value < 1):
            return False
        return None if behind is None or value is None else True
