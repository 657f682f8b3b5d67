"""``report.html``: the report of a sweep as a page that stands alone, its pictures inside.

It is ``report.md``, rendered by markdown-it (CommonMark and tables). Names of metrics and logs are
what scripts make of them, so HTML in them is shown as text, and a picture is one that the sweep
drew or none: nothing is loaded from elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from negplug.cli.sweep.figures import Picture

if TYPE_CHECKING:
    from markdown_it.renderer import RendererHTML
    from markdown_it.token import Token

# What a report writes in HTML: the table of all settings, folded away.
_OWN = re.compile(r"\s*(<details>\s*<summary>[^<>]*</summary>|</details>)\s*")

_STYLE = """
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { padding: 0.35rem 0.8rem 0.35rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child { text-align: left; }
pre { background: var(--raised); padding: 0.8rem 1rem; border-radius: 6px; overflow-x: auto; }
td code, p code { background: var(--raised); padding: 0.1em 0.3em; border-radius: 4px; }
img { display: block; max-width: 100%; margin: 1.5rem 0 0.5rem; background: #ffffff;
  border-radius: 6px; }
summary { cursor: pointer; color: var(--soft); }
"""


def write_html(
    report: Path, pictures: Sequence[Picture], path: Path, title: str = "negplug sweep"
) -> None:
    """Write the twin of a report.

    Args:
        report: ``report.md``.
        pictures: The pictures that lie beside it.
        path: Where the page goes.
        title: Of the page.
    """
    from markdown_it import MarkdownIt

    # Here, for torch comes along, and commands start without it.
    from negplug.diagnostics.page import data_uri, page

    known = {each.file: data_uri((report.parent / each.file).read_bytes()) for each in pictures}
    renderer = MarkdownIt("commonmark", {"html": True}).enable("table")
    for name, rule in (
        ("html_block", _html),
        ("html_inline", _inline_html),
        ("image", _image),
        ("table_open", _table_open),
        ("table_close", _table_close),
    ):
        renderer.add_render_rule(name, rule)
    body = renderer.render(report.read_text(encoding="utf-8"), {"pictures": known})
    path.write_text(page(title, body, _STYLE), encoding="utf-8")


def _html(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Mapping[str, Any]
) -> str:
    content = tokens[index].content
    return content if _OWN.fullmatch(content) else escape(content)


def _inline_html(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Mapping[str, Any]
) -> str:
    return escape(tokens[index].content)


def _image(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Mapping[str, Any]
) -> str:
    token = tokens[index]
    source, title = env["pictures"].get(token.attrs["src"]), escape(token.content)
    return title if source is None else f'<img src="{source}" alt="{title}">'


def _table_open(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Mapping[str, Any]
) -> str:
    return '<div class="scroll"><table>\n'


def _table_close(
    self: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Mapping[str, Any]
) -> str:
    return "</table></div>\n"
