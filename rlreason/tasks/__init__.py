"""Where prompts and gold answers come from: generators, files, data sets; and worked solutions for them."""

from rlreason.tasks.derivations import DERIVATIONS, derives
from rlreason.tasks.documents import load_documents, split_documents
from rlreason.tasks.load import TaskConfig, TaskData, load_tasks, row_numbers
from rlreason.tasks.pairs import Pair, load_pairs
from rlreason.tasks.questions import holds, question_key
from rlreason.tasks.trace_files import Turn, load_traces
from rlreason.tasks.traces import Trace, traces

__all__ = [
    "DERIVATIONS",
    "Pair",
    "TaskConfig",
    "TaskData",
    "Trace",
    "Turn",
    "derives",
    "holds",
    "load_documents",
    "load_pairs",
    "load_tasks",
    "load_traces",
    "question_key",
    "row_numbers",
    "split_documents",
    "traces",
]
