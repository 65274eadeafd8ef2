"""The page itself: its skeleton, style and scripts put together with the data, under a strict policy.

The policy (Content-Security-Policy) names the hashes of the one style and the one script and allows nothing
else: no request of any kind, and no script or style that is not ours, wherever it might come from.
"""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib.resources import files

MARK = "<!-- rlreason report -->"

# In the order in which they are joined: each uses what stands before it.
_SCRIPTS = (
    "data.js",
    "format.js",
    "dom.js",
    "theme.js",
    "state.js",
    "chart.js",
    "curves.js",
    "summary.js",
    "findings.js",
    "time.js",
    "search.js",
    "completion.js",
    "group.js",
    "browser.js",
    "main.js",
)
_STYLES = ("uplot/uPlot.min.css", "base.css", "sections.css", "browser.css")


def render(title: str, data: str, completions: Sequence[str]) -> str:
    """The whole page. `data` and `completions` are JSON as `embed.embedded` makes it.

    The completions come last, behind the script: the page is painted before they are read.
    """
    style, library, script = _style(), _read("uplot/uPlot.iife.min.js"), _script()
    hashes = " ".join(_hash(text) for text in (library, script))
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    blocks = "\n".join(
        f'<script type="application/json" id="completions-{number}">{block}</script>'
        for number, block in enumerate(completions)
    )
    parts = {
        "mark": MARK,
        "policy": policy,
        "title": escape(title),
        "style": style,
        "data": data,
        "library": library,
        "script": script,
        "completions": blocks,
    }
    # Split at the placeholders, not replaced one by one: a value may hold the name of another.
    pieces = _read("page.html").split("%%")
    return "".join(parts[piece] if odd % 2 else piece for odd, piece in enumerate(pieces))


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def _style() -> str:
    return "\n".join(_read(name) for name in _STYLES)


@cache
def _script() -> str:
    body = "\n".join(_read(f"app/{name}") for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}\n}})();\n'


@cache
def _read(name: str) -> str:
    return (
        files("rlreason.html_report")
        .joinpath("static")
        .joinpath(*name.split("/"))
        .read_text(encoding="utf-8")
    )
