"""Where prompts and gold answers come from: generators, files, data sets; and worked solutions for them."""

from rlreason.tasks.derivations import DERIVATIONS, derives
from rlreason.tasks.load import TaskConfig, TaskData, load_tasks, row_numbers
from rlreason.tasks.questions import question_key
from rlreason.tasks.traces import Trace, load_traces, traces

__all__ = [
    "DERIVATIONS",
    "TaskConfig",
    "TaskData",
    "Trace",
    "derives",
    "load_tasks",
    "load_traces",
    "question_key",
    "row_numbers",
    "traces",
]
