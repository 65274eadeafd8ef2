"""Parts of a report that is printed once and read from top to bottom: sections, lines, completions.

Text from outside is shown as it is: neither terminal escape codes nor rich markup in it have any effect.
"""

import io
import sys
from collections.abc import Callable, Iterator

from rich.cells import chop_cells
from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.text import Text

from rlreason.report.text import harmless, omitted, shown_ends

WIDTH = 110
QUIET = "bright_black"
_PLAIN_WIDTH = 100
_LINE_END = "\u23ce"


def section(title: str, text: str = "", style: str = "") -> RenderableType:
    """A heading behind an empty line, and what there is to say beside it."""
    return Text.assemble("\n", (harmless(title), "bold"), "  " if text else "", (harmless(text), style))


def line(text: str, style: str = "", indent: int = 2) -> RenderableType:
    """An indented line, wrapped as a block."""
    return Padding(Text(harmless(text), style, overflow="fold"), (0, 0, 0, indent), expand=False)


def counted(count: int, what: str) -> str:
    """Return "1 hole", "2 holes"."""
    return f"{count:,} {what}{'s' if count != 1 else ''}"


class Completion:
    """A completion on one line: line ends as a sign, the middle left out where it is longer than `limit`.

    It breaks at the edge of the screen and nowhere else, so that its spaces stay what they are.
    """

    def __init__(self, text: str, *, indent: int, limit: int = 160) -> None:
        self._lines = harmless(text).split("\n")
        self._indent = indent
        self._limit = limit

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        end = _LINE_END if options.encoding.startswith("utf") else "\\n"
        text = end.join(self._lines) or "(an empty completion)"
        head, tail = shown_ends(text, characters=self._limit, lines=1)
        shown = text if head == tail else f"{text[:head]} {omitted(tail - head)} {text[tail:]}"
        room = max(options.max_width - self._indent, 20)
        for part in chop_cells(shown, room):
            yield Text(" " * self._indent + part, "cyan", no_wrap=True)


def printed(draw: Callable[[Console], None]) -> str:
    """Return what `draw` prints, for standard output: in colour and as wide as a terminal, else plain.

    Characters that the encoding lacks are escaped; plain lines have no blanks at their end.
    """
    terminal = sys.stdout.isatty()
    out = io.TextIOWrapper(io.BytesIO(), encoding=sys.stdout.encoding or "utf-8", errors="backslashreplace")
    width = min(Console(file=sys.stdout).width, WIDTH) if terminal else _PLAIN_WIDTH
    console = Console(file=out, width=width, force_terminal=terminal, highlight=False, legacy_windows=False)
    draw(console)
    out.flush()
    text = out.buffer.getvalue().decode(out.encoding)
    return text if terminal else "".join(f"{row.rstrip()}\n" for row in text.splitlines())
