"""A contact sheet as a page that stands alone."""

from __future__ import annotations

import io
import math
from html import escape
from typing import TYPE_CHECKING

from negplug.diagnostics.contact_sheet.sheet import Cell, Sheet, Strip, similarity_of
from negplug.diagnostics.contact_sheet.whose import Row
from negplug.diagnostics.page import data_uri, page

if TYPE_CHECKING:
    from negplug.diagnostics.contact_sheet.images import Picture

_STYLE = """
section { border-top: 1px solid var(--line); margin-top: 1.5rem; }
.cells { display: flex; flex-wrap: wrap; gap: 0.75rem; }
figure { margin: 0; width: 7rem; font-size: 0.8rem; line-height: 1.35; }
figure img, figure .none { width: 7rem; height: 7rem; border: 1px solid var(--line);
  border-radius: 4px; image-rendering: pixelated; object-fit: cover; display: block; }
figure .none { display: flex; align-items: center; justify-content: center;
  color: var(--soft); background: var(--raised); }
figure.false img, figure.false .none { border: 3px solid var(--alert); }
figure.false strong { color: var(--alert); }
figcaption span { color: var(--soft); display: block; }
.anchor, .positive { padding-bottom: 0.5rem; }
"""


def page_of(sheet: Sheet) -> str:
    """Return the sheet as HTML: every picture in it, with all that is known of it.

    Raises:
        ImportError: If matplotlib, which encodes the pictures, is not installed.
    """
    summary = []
    if math.isfinite(sheet.false_negatives):
        summary.append(
            f"<p>{sheet.false_negatives:.1%} of the negatives have their anchor's label; they take "
            f"{sheet.false_negative_share:.1%} of the softmax over the negatives. A thick frame "
            "marks them.</p>"
        )
    notes = "".join(f"<li>{escape(note)}</li>" for note in sheet.notes)
    body = [f"<h1>{escape(sheet.title)}</h1>", *summary, f"<ul>{notes}</ul>" if notes else ""]
    body += [_section(number, strip) for number, strip in enumerate(sheet.strips)]
    return page(sheet.title, "\n".join(body), _STYLE)


def _section(number: int, strip: Strip) -> str:
    total, shown = strip.draws.total, len(strip.negatives)
    which = f"the {shown} most similar of {total}" if shown else "none"
    cells = [_figure(strip.anchor, "anchor")]
    if strip.positive is not None:
        cells.append(_figure(strip.positive, "positive"))
    cells += [_figure(cell, "negative") for cell in strip.negatives]
    return (
        f"<section>\n<h2>Anchor {number + 1}</h2>\n<p>Negatives: {which}.</p>\n"
        f'<div class="cells">\n{"".join(cells)}</div>\n</section>'
    )


def _figure(cell: Cell, kind: str) -> str:
    false = kind == "negative" and cell.same_label is True
    name = f"{kind}, label {cell.label}" if cell.label else kind
    if cell.picture is None:
        picture = '<div class="none">no picture</div>'
    else:
        picture = f'<img src="{data_uri(png_of(cell.picture))}" alt="{escape(name)}">'
    lines = [f"<strong>{kind if cell.drawn is None else similarity_of(cell.drawn)}</strong>"]
    if cell.drawn is not None and kind != "negative":
        lines.append(f"<span>{kind}</span>")
    if cell.label:
        lines.append(f"<span>label {cell.label}{' (the anchor’s)' if false else ''}</span>")
    if kind == "negative" and cell.drawn is not None:
        lines.append(f"<span>{cell.drawn.share:.1%} of softmax</span>")
    lines.append(f"<span>{' + '.join(map(_origin, cell.rows))}</span>")
    classes = f"{kind} false" if false else kind
    return (
        f'<figure class="{classes}">{picture}<figcaption>{"".join(lines)}</figcaption></figure>\n'
    )


def _origin(row: Row) -> str:
    parts = [] if row.place is None else [f"batch row {row.place}"]
    if row.view is not None:
        parts[-1] += f", view {row.view}"
    if row.index is not None:
        parts.append(f"index {row.index}")
    return ", ".join(parts) or "unknown sample"


def png_of(picture: Picture) -> bytes:
    """Return a picture as a PNG file."""
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, picture, format="png", metadata={"Software": ""})
    return file.getvalue()
