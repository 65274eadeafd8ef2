"""One process per run directory."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlreason.errors import UserError
from rlreason.runs import lock
from rlreason.runs.lock import DirectoryLock

REPOSITORY = Path(__file__).parents[2]
_HOLD = """
import sys, time
from pathlib import Path
from rlreason.runs.lock import DirectoryLock
held = DirectoryLock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(UserError, match=rf"in use by process {holder.pid}\. .*`name=`"):
                DirectoryLock(tmp_path)
        finally:
            holder.send_signal(signal.SIGKILL)
    # A process that was killed holds nothing.
    DirectoryLock(tmp_path).release()


def test_the_same_process_is_refused_too(tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path)
    with pytest.raises(UserError, match=f"in use by process {os.getpid()}"):
        DirectoryLock(tmp_path)
    first.release()
    first.release()
    DirectoryLock(tmp_path).release()


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        first.release()
        DirectoryLock(tmp_path).release()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.fixture(params=["no module", "refused by the file system"])
def without_file_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "no module":
        monkeypatch.setattr(lock, "fcntl", None)
        return

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)


@pytest.mark.usefixtures("without_file_locks")
def test_without_file_locks_a_pid_file_stands_in(tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path)
    with pytest.raises(UserError, match=rf"in use by process {os.getpid()}.*delete .*\.pid"):
        DirectoryLock(tmp_path)
    first.release()
    first.release()
    DirectoryLock(tmp_path).release()
    assert not (tmp_path / ".pid").exists()
