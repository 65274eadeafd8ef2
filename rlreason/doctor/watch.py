"""The doctor: asks every rule after every step, and keeps what it has found."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlreason.doctor.history import LEARNED, Facts, HeldOut, History
from rlreason.doctor.learning import why_silent
from rlreason.doctor.rule import Level, Rule, Seen
from rlreason.doctor.rules import RULES

CALM = 10
"""Steps in a row in which a rule must not hold before its finding is over: it is told of once, not often."""
PAGE = "docs/doctor.md"


@dataclass
class Finding:
    """A rule that held: from step `since` on, last in step `held`, over after step `until` (None: it stands).

    `seen` is what was seen first, `latest` what was seen in step `held`. `level` is the worst so far.
    """

    rule: Rule
    level: Level
    since: int
    held: int
    seen: str
    latest: str
    means: str
    hints: tuple[str, ...]
    until: int | None = None
    quiet: int = field(default=0, repr=False)

    def text(self) -> str:
        """All of it in one paragraph, for the screen."""
        tried = f" Try {'; '.join(self.hints)}." if self.hints else ""
        said = f"{self.level}: {self.rule.title} ({self.rule.name}, {PAGE}). "
        said += f"Seen since step {self.since}: {self.latest}."
        return f"{said} It usually means: {self.means}.{tried}"


class Doctor:
    """Watches one run. The same lines lead to the same findings, live and long afterwards."""

    def __init__(self, facts: Facts, rules: Sequence[Rule] = RULES) -> None:
        self.history = History(facts)
        self.findings: list[Finding] = []
        self._rules = rules

    def step(self, line: Mapping[str, Any]) -> list[str]:
        """Take the metrics of one more step; return what is to be told of: what begins, worsens, is over."""
        self.history.add(line)
        now = self.history.steps[-1]
        told = []
        standing = {finding.rule.name: finding for finding in self.standing()}
        for rule in self._rules:
            seen, finding = rule.holds(self.history), standing.get(rule.name)
            if seen is not None and finding is None:
                finding = self._begin(rule, seen, now)
                self.findings.append(finding)
                told.append(finding.text())
            elif seen is not None and finding is not None:
                worse = seen.level == "warning" and finding.level == "note"
                finding.held, finding.latest, finding.quiet = now, seen.text, 0
                if worse:
                    finding.level = seen.level
                    told.append(finding.text())
            elif finding is not None:
                finding.quiet += 1
                if finding.quiet >= CALM:
                    finding.until = finding.held
                    told.append(f"over: {rule.title} ({rule.name}), step {finding.since} to {finding.held}")
        return told

    def measured(self, step: int, summary: Mapping[str, Any]) -> None:
        """Take an evaluation on held-out questions after `step`; the rules see it with the next step."""
        accuracy, interval, count = (summary.get(key) for key in ("accuracy", "ci95", "n"))
        if accuracy is None or interval is None or not count:
            return
        low, high = interval
        likely = (accuracy * count + 1) / (
            count + 2
        )  # an interval of nothing but right answers is too narrow
        error = max((high - low) / (2 * 1.96), (max(likely * (1 - likely), 0.0) / count) ** 0.5)
        self.history.held_out.append(HeldOut(step, float(accuracy), error))

    def standing(self) -> list[Finding]:
        """The findings that are not over."""
        return [finding for finding in self.findings if finding.until is None]

    def unjudged(self) -> list[tuple[Rule, list[str]]]:
        """The rules that could not say anything, and the numbers that no step has had."""
        names = {*self.history.names()} | ({"held_out"} if self.history.held_out else set())
        asked = [rule for rule in self._rules if self.history.facts.learned or LEARNED not in rule.needs]
        lacking = [(rule, [key for key in rule.needs if key not in names]) for rule in asked]
        return [(rule, missing) for rule, missing in lacking if missing]

    def why_no_signal(self, steps: int) -> str:
        """Why no group of the last `steps` steps had different rewards, and what to try."""
        means, *hints = why_silent(self.history, steps)
        return f"{means}. Try {'; '.join(self._spelled(hints))}" if hints else means

    def _begin(self, rule: Rule, seen: Seen, step: int) -> Finding:
        own = rule.trl if self.history.facts.trl else rule.hints
        hints = self._spelled(seen.hints or own)
        return Finding(rule, seen.level, step, step, seen.text, seen.text, seen.means or rule.means, hints)

    def _spelled(self, hints: Iterable[str]) -> tuple[str, ...]:
        """The hints for the stage that runs; those for the other stage alone are left out."""
        stage = self.history.facts.stage
        other = "`ppo." if stage == "grpo" else "`grpo."
        return tuple(hint.replace("{stage}", stage) for hint in hints if other not in hint)
