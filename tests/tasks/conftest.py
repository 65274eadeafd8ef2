import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlreason.config.data import TaskConfig


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Write rows to a JSONL file and return its path."""

    def write(rows: list[dict[str, Any]], name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def table() -> Callable[..., TaskConfig]:
    """The config of a task that reads a file with the columns question and answer."""

    def config(path: str, **fields: Any) -> TaskConfig:
        columns = {"prompt": "question", "answer": "answer"}
        return TaskConfig(**{"source": "file", "name": path, "columns": columns, **fields})

    return config
