"""Python imports this at its start where it is on the path: each way to a network is recorded, and shut.

The record is the file `$NETWORK_RECORD`, a line for each try, those of this machine's own addresses too.
"""

import os
import socket
import sys
import traceback

_OUT = ("connect", "connect_ex", "sendto", "bind")


def _record(what: str, target: object) -> None:
    stack = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
    where = f"{stack[-1].filename}:{stack[-1].lineno}" if stack else "?"
    with open(os.environ["NETWORK_RECORD"], "a", encoding="utf-8") as record:
        record.write(f"{what} {target!r} from {where} of {sys.argv[:2]}\n")
    raise OSError(f"there is no network in this test: {what} {target!r}")


class _Shut(socket.socket):
    def __getattribute__(self, name: str) -> object:
        if name in _OUT and super().__getattribute__("family") in (socket.AF_INET, socket.AF_INET6):
            return lambda *arguments: _record(name, arguments[-1])
        return super().__getattribute__(name)


if "NETWORK_RECORD" in os.environ:
    socket.socket = _Shut  # type: ignore[misc]
    for _name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "create_connection"):
        setattr(socket, _name, lambda *arguments, _name=_name, **_: _record(_name, arguments))
