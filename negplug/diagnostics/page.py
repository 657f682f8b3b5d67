"""HTML pages that stand alone: no script, no file beside them, readable in light and in dark."""

from __future__ import annotations

import base64
from html import escape

_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #5d656d; --ground: #ffffff;
  --raised: #f3f5f7; --line: #d9dee3; --alert: #b3261e; --link: #0b66a8; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e4e7ea; --soft: #a2abb4; --ground: #14171a; --raised: #1f2429;
    --line: #363d44; --alert: #ff8a80; --link: #6cb8f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; color: var(--text);
  background: var(--ground); font: 16px/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
a { color: var(--link); }
code, pre { font-family: ui-monospace, monospace; font-size: 0.875em; }
"""


def page(title: str, body: str, style: str = "") -> str:
    """Return a whole HTML page.

    Args:
        title: Plain text.
        body: HTML.
        style: CSS in addition to that of all pages. Colours are the variables ``--text``,
            ``--soft``, ``--ground``, ``--raised``, ``--line``, ``--alert`` and ``--link``.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def data_uri(png: bytes) -> str:
    """Return a PNG picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
