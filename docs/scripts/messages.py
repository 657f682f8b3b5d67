"""Every message of negplug's source: what is raised, warned of, or ends a command.

``messages()`` reads the syntax trees, so that nothing needs to be installed. The site lists them
behind the cures, so that one page is to be searched; ``tests/house/test_site.py`` holds the cures
to them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    *("negplug", "integrations/negplug_adapters"),
    *("integrations/negplug_lightly", "integrations/negplug_solo"),
)

# Calls that say something to a user, beside those of exceptions, and what they are called here.
SAYING = {"warn": "warning", "warning": "warning", "fail": "ends a command"}

PLACE = "<!-- every message: written from the source while the site is built -->"
"""Where on the page of cures the messages are listed."""


@dataclass(frozen=True)
class Message:
    """A message, the exception or call that says it, and where."""

    file: str
    line: int
    kind: str
    text: str


def messages(root: Path) -> Iterator[Message]:
    """Yield the messages of all packages, file after file."""
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            name = path.relative_to(root).as_posix().removeprefix("integrations/")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                kind = _kind(node)
                if kind is not None:
                    call, kind_name = kind
                    text = " ".join(_text(call.args[0]).split())
                    if len(text) > 12:
                        yield Message(name, call.lineno, kind_name, text)


def messages_list(root: Path) -> str:
    """Return all messages as Markdown, by the file that says them."""
    lines = []
    file = ""
    for message in messages(root):
        if message.file != file:
            file = message.file
            lines.append(f"\n**`{file}`**\n")
        text = message.text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
        text = text.replace("_", "\\_").replace("`", "").replace("[", "\\[")
        lines.append(f"- **{message.kind}**: {text}")
    return "\n".join(lines) + "\n"


def _kind(node: ast.AST) -> tuple[ast.Call, str] | None:
    """Return the call that carries a message, and what it is called."""
    if isinstance(node, ast.Call) and node.args:
        name = _name(node)
        if name in SAYING:
            return node, SAYING[name]
        if name[:1].isupper() and name.endswith("Error"):
            return node, name
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
        # A function that makes the exception names none.
        if not _name(node.exc)[:1].isupper():
            return node.exc, "error"
    return None


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _text(node: ast.expr) -> str:
    """Return a text with … for all that is put in."""
    if isinstance(node, ast.Constant):
        return re.sub(r"%[rsdg]", "…", str(node.value))
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"
