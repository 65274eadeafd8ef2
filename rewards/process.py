"""The pool's end of one worker: starting it, talking to it without ever waiting for it, ending it."""

import json
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

HEADER = struct.Struct(">Q")
"""What goes before each message: its length in bytes."""

DIED = 128
"""A worker's exit code is that of its runner, or this plus the number of the signal that ended it."""

_LARGEST_REPLY = 1 << 20  # bytes; a longer one was not written by a worker
_CLOSE_SECONDS = 10.0
_ROOT = str(Path(__file__).parents[1])
# A worker is one of several: it should not start a thread for each core.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class WorkerProcess:
    """One worker process and the pipes to it. `replies` and `life` are what to poll for reading.

    `forbidden` is set in the workers themselves: a script whose own functions are its rewards is loaded there
    as well, and would start workers that start workers. Raises ValueError where it is set.
    """

    forbidden = False

    def __init__(self, *, memory: int, folder: str) -> None:
        if self.forbidden:
            raise ValueError(
                "a worker process cannot start workers of its own: put what starts them under "
                "`if __name__ == '__main__':`, as the file is loaded there too"
            )
        requests, self.requests = os.pipe()
        self.replies, replies = os.pipe()
        self.life, lifeline = socket.socketpair()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the worker)
        self._inbox, self._outbox = bytearray(), bytearray()
        theirs = (requests, replies, lifeline.fileno())
        added = {name: value for name, value in _ENVIRONMENT.items() if name not in os.environ}
        path = os.pathsep.join(filter(None, [_ROOT, os.environ.get("PYTHONPATH")]))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "rewards.worker", *map(str, theirs), str(memory)],
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # the terminal's Ctrl-C is for the trainer
                cwd=folder,
                env={**os.environ, **added, "PYTHONPATH": path},
            )
        except BaseException:
            self._hang_up()
            raise
        finally:
            os.close(requests)
            os.close(replies)
            lifeline.close()
        os.set_blocking(self.requests, False)
        os.set_blocking(self.replies, False)
        self.life.setblocking(False)
        self.send({"setup": {"path": sys.path, "environment": {"PYTHONPATH": os.environ.get("PYTHONPATH")}}})

    @property
    def sending(self) -> bool:
        """Whether some of what was sent is still to be written: poll `requests` for writing."""
        return bool(self._outbox)

    def send(self, request: Any) -> None:
        """Queue a request; `flush` writes it."""
        payload = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        self._outbox += HEADER.pack(len(payload)) + payload
        self.flush()

    def flush(self) -> None:
        """Write what the pipe takes at once. One that nobody reads any more is left to `life` to tell."""
        with suppress(BlockingIOError, BrokenPipeError):
            while self._outbox:
                del self._outbox[: os.write(self.requests, self._outbox)]

    def receive(self) -> Iterator[dict[str, Any]]:
        """Yield the replies that have come in since. Raises ValueError at one that no worker wrote."""
        with suppress(BlockingIOError):
            while data := os.read(self.replies, 1 << 16):
                self._inbox += data
        while len(self._inbox) >= HEADER.size:
            (size,) = HEADER.unpack(self._inbox[: HEADER.size])
            if size > _LARGEST_REPLY:
                raise ValueError(f"a reply of {size} bytes")
            if len(self._inbox) < HEADER.size + size:
                break
            message = json.loads(self._inbox[HEADER.size : HEADER.size + size])
            if not isinstance(message, dict):
                raise ValueError(f"a reply that is {message!r:.40}")
            del self._inbox[: HEADER.size + size]
            yield message

    @property
    def alive(self) -> bool:
        """Whether the worker still holds its end of the lifeline."""
        try:
            return self.life.recv(1) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> tuple[str, str]:
        """End the worker and all that it started. Returns how it ended, in words, and a crash's traceback."""
        self._hang_up()
        try:
            code = self._process.wait(_CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        with self._errors:
            self._errors.seek(0)
            trace = self._errors.read(1 << 16).decode(errors="replace").strip()[-2000:]
        number = code - DIED if code > DIED else max(-code, 0)
        if number:
            with suppress(ValueError):
                return f"was killed by {signal.Signals(number).name}", trace
        return f"ended with exit code {code}", trace

    def _hang_up(self) -> None:
        self.life.close()
        os.close(self.requests)
        os.close(self.replies)
