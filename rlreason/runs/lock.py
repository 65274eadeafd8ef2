"""One process per run directory."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from rlreason.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
PID = ".pid"
_NO_LOCKS_HERE = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class DirectoryLock:
    """Holds `folder` for this process until `release`, or until the process ends.

    The system's file lock is used where there is one: it goes with the process, however that dies.
    Elsewhere (Windows, some network file systems) a file that only one process can create stands in; it
    stays behind after a crash, and the error that then meets the user says so.

    Raises UserError naming the process that holds the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pid_file: Path | None = None
        self._descriptor: int | None = None
        if not self._lock_file():
            self._create_pid_file()

    def release(self) -> None:
        """Let the next process in. Calling it twice is fine."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            # While it is held: who has opened it in the meantime sees that it is gone, and opens another.
            with suppress(OSError):
                (self._folder / LOCK).unlink(missing_ok=True)
            # Unlocking by name, since a forked worker may hold a copy of the descriptor open.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = None
        if self._pid_file is not None:
            self._pid_file.unlink(missing_ok=True)
            self._pid_file = None

    def _lock_file(self) -> bool:
        """Take the system's lock; False where there is none to take."""
        if fcntl is None:
            return False
        while not self._try_lock():
            pass
        return self._descriptor is not None

    def _try_lock(self) -> bool:
        """Whether it is decided: locked, or no such locks here. False if the file went away meanwhile."""
        descriptor = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_the_file(descriptor):
                os.close(descriptor)
                return False
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            holder = os.pread(descriptor, 32, 0)
            os.close(descriptor)
            if error.errno in _NO_LOCKS_HERE:
                return True
            if isinstance(error, BlockingIOError):
                raise UserError(self._taken(holder)) from None
            raise
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def _is_the_file(self, descriptor: int) -> bool:
        """Whether the open file is still the one of that name: its last holder may have removed it."""
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self._folder / LOCK))
        except FileNotFoundError:
            return False

    def _create_pid_file(self) -> None:
        path = self._folder / PID
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            remedy = f" If no such process runs any more, delete {path}."
            raise UserError(self._taken(path.read_bytes()) + remedy) from None
        self._pid_file = path
        try:
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except BaseException:
            self.release()
            raise
        finally:
            os.close(descriptor)

    def _taken(self, content: bytes) -> str:
        holder = content.decode("ascii", "replace").strip()
        process = f"process {holder}" if holder.isdigit() else "another process"
        return (
            f"{self._folder} is in use by {process}. Wait for it to end or stop it, or choose another "
            "`name=` for a second run."
        )
