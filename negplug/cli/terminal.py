"""Tables; and text of others, made fit for a terminal: no escape codes, no megabytes."""

from __future__ import annotations

import os
import re
import unicodedata
from pathlib import Path

from rich.console import Console
from rich.table import Table

# Of a log, from which its last lines are taken, in bytes.
_TAIL_BYTES = 2**16

_LONGEST_LINE = 400

# Of a table that is no terminal's, in columns.
_WIDEST = 10_000

# Control sequences (colours, cursor), strings (titles, links) and two-character codes of ECMA-48.
_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
)


def console() -> Console:
    """Return what tables are printed with: as wide as they are where no terminal limits them."""
    printing = Console()
    if not (printing.is_terminal or os.environ.get("COLUMNS")):
        printing = Console(width=_WIDEST, soft_wrap=True)
    return printing


def table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table of which no cell is cut: what is too long goes on in the next line."""
    made = Table(title=title, title_justify="left")
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


# These turn around the direction of what follows, which then reads as something else.
_DIRECTIONS = frozenset("\u200e\u200f\u061c\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def plain(text: str) -> str:
    """Return a text without escape codes and control characters; lines and tabs stay."""
    return "".join(filter(_is_plain, _ESCAPE.sub("", text)))


def _is_plain(c: str) -> bool:
    if c in "\n\t":
        return True
    return unicodedata.category(c) not in ("Cc", "Cs") and c not in _DIRECTIONS


def shortened(text: str, longest: int = _LONGEST_LINE) -> str:
    """Return a text as it is, or, if it is long, its beginning and its end."""
    if len(text) <= longest:
        return text
    kept = longest // 2
    return f"{text[:kept]} … {len(text) - 2 * kept} characters … {text[-kept:]}"


def last_lines(log: Path, count: int, start: int) -> str:
    """Return the last lines of a log, plain and each shortened.

    Args:
        log: The file.
        count: How many lines.
        start: Where they begin at the earliest, in bytes.
    """
    try:
        if log.exists() and not log.is_file():  # but a pipe, say, whose end may never come
            return "(the log is no file any more)"
        with log.open("rb") as file:
            file.seek(max(start, file.seek(0, 2) - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(the log cannot be read: {error.strerror})"
    return "\n".join(shortened(plain(line)) for line in text.splitlines()[-count:])
