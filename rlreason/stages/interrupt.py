"""Ctrl-C and SIGTERM: finish the step, then stop; a second one stops at once."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

_ECHO_SECONDS = 1.0


class Interrupts:
    """Within the `with` block, the first SIGINT or SIGTERM sets `requested` to its name.

    Outside the main thread, where Python delivers no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._at = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupts":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:
                break
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            # Launchers pass a Ctrl-C of the terminal on to processes that have had it already.
            if time.monotonic() - self._at > _ECHO_SECONDS:
                raise KeyboardInterrupt(self.requested)
            return
        self._at = time.monotonic()
        self.requested = signal.Signals(number).name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
