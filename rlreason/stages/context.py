"""What every stage of a run works with."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlreason.config import RunConfig
from rlreason.evaluation.evaluator import Evaluation
from rlreason.evaluation.statistics import Answered
from rlreason.report.terminal import View
from rlreason.runs import RunDirectory
from rlreason.scoring import Scorer
from rlreason.stages.trackers import Trackers
from rlreason.tasks import TaskData


@dataclass
class RunContext:
    """`start` is the model directory that the next stage starts from; None means what the config names.
    `reward_model` is the one that the run has trained, if it has.

    `before` and `after` are the evaluations around the reinforcement-learning stage.
    """

    config: RunConfig
    run: RunDirectory
    view: View
    data: TaskData
    scorer: Scorer
    accelerator: Any
    start: Path | None = None
    reward_model: Path | None = None
    before: Evaluation | None = None
    after: Evaluation | None = None
    trackers: Trackers = field(default_factory=Trackers)

    def record(self, line: Mapping[str, Any]) -> None:
        """Write a line of metrics, and send its numbers to the trackers."""
        self.run.append_metrics(line)
        self.trackers.metrics(line)

    def save_evaluation(self, label: str, evaluation: Evaluation) -> None:
        """Keep an evaluation, every completion included, in `evaluations/<label>.json`."""

        def write(folder: Path) -> None:
            (folder / "completions.json").write_text(
                json.dumps({"summary": evaluation.summary, "completions": evaluation.records()}, indent=1),
                encoding="utf-8",
            )

        self.run.save_directory(f"evaluations/{label}", write)
        self.trackers.evaluation(label, evaluation.summary)

    def load_evaluation(self, label: str) -> Evaluation | None:
        """The evaluation that `save_evaluation` kept, or None."""
        folder = self.run.saved_directory(f"evaluations/{label}")
        if folder is None:
            return None
        saved = json.loads((folder / "completions.json").read_text(encoding="utf-8"))
        fields = set(Answered.__dataclass_fields__)
        questions: list[str] = []
        answered: list[list[Answered]] = []
        for record in saved["completions"]:
            if record["sample"] == 0:
                questions.append(record["question"])
                answered.append([])
            answered[-1].append(Answered(**{key: record[key] for key in fields}))
        return Evaluation(saved["summary"], questions, answered)
