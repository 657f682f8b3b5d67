"""A contact sheet: anchors of one loss call with their positives and drawn negatives, to look at.

Two forms of it: :func:`figure`, one picture for loggers and files, and
:func:`negplug.diagnostics.contact_sheet.html.page_of`, a page with everything that is known.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from negplug.diagnostics.contact_sheet.draws import AnchorDraws, Drawn
from negplug.diagnostics.contact_sheet.images import Images
from negplug.diagnostics.contact_sheet.whose import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from negplug.diagnostics.contact_sheet.images import Picture

#: What a negative with the anchor's label is marked with.
ALERT = "#b3261e"

_GREY = "0.35"


@dataclass(frozen=True)
class Cell:
    """A row of the batch or of a memory, to be shown.

    Attributes:
        picture: ``[H, W, 3]`` uint8; None if there is none.
        drawn: What the anchor was given; None of the anchor itself.
        rows: The row, or the two that it is mixed of.
        same_label: Whether it has the anchor's label; None if that is unknown.
    """

    picture: Picture | None
    drawn: Drawn | None
    rows: tuple[Row, ...]
    same_label: bool | None = None

    @property
    def label(self) -> str:
        """Its label, or both of a mixture; empty if unknown."""
        labels = [row.label for row in self.rows]
        return "" if None in labels else "+".join(map(str, labels))


@dataclass(frozen=True)
class Strip:
    """An anchor with what it was compared with."""

    anchor: Cell
    positive: Cell | None
    negatives: tuple[Cell, ...]
    draws: AnchorDraws


@dataclass(frozen=True)
class Sheet:
    """The anchors of one loss call.

    Attributes:
        title: What call it was.
        strips: One for each anchor.
        notes: What a reader has to know of the pictures, as sentences.
    """

    title: str
    strips: tuple[Strip, ...]
    notes: tuple[str, ...] = ()

    @property
    def false_negatives(self) -> float:
        """Fraction of the drawn negatives with the anchor's label; NaN if no label is known."""
        labelled = sum(strip.draws.labelled for strip in self.strips)
        false = sum(strip.draws.false for strip in self.strips)
        return false / labelled if labelled else math.nan

    @property
    def false_negative_share(self) -> float:
        """Mean part of the softmax over the negatives that they take; NaN if none is known."""
        shares = [strip.draws.false_share for strip in self.strips if strip.draws.labelled]
        return math.fsum(shares) / len(shares) if shares else math.nan


def sheet_of(title: str, draws: Sequence[AnchorDraws], images: Images) -> Sheet:
    """Return the sheet of some anchors.

    Args:
        title: What call it was.
        draws: What :func:`negplug.diagnostics.contact_sheet.draws.draws_of` returned.
        images: The pictures.
    """
    strips = []
    for each in draws:
        positive = None if each.positive is None else _cell(each, each.positive, images)
        negatives = tuple(_cell(each, drawn, images) for drawn in each.negatives)
        anchor = Cell(images.of(each.anchor), None, (each.anchor,))
        strips.append(Strip(anchor, positive, negatives, each))
    return Sheet(title, tuple(strips), tuple(_notes(draws, images)))


def figure(sheet: Sheet) -> Figure:
    """Return the sheet as a matplotlib figure: a line per anchor, most similar negatives first.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    columns = 2 + max((len(strip.negatives) for strip in sheet.strips), default=0)
    rows = max(len(sheet.strips), 1)
    # As wide as its headings at least.
    width, height = max(0.3 + 0.95 * columns, 5.8), 0.75 + 1.25 * rows
    made = Figure(figsize=(width, height), dpi=130, facecolor="white")
    axes = made.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    # A `$` in an expression is no formula; the page has the whole of a long one.
    title = shortened(sheet.title, int(11 * width))
    axes.text(0.15, 0.28, title, fontsize=9, fontweight="bold", va="center", parse_math=False)
    order = "negatives, most similar first; framed: those with the anchor's label"
    for column, name in enumerate(("anchor", "positive", order)):
        axes.text(0.15 + 0.95 * column, 0.58, name, fontsize=7, color=_GREY, va="center")
    for number, strip in enumerate(sheet.strips):
        top = 0.75 + 1.25 * number
        for column, cell in enumerate((strip.anchor, strip.positive, *strip.negatives)):
            if cell is not None:
                _draw(axes, cell, 0.15 + 0.95 * column, top, negative=column > 1)
    return made


def pixels(drawn: Figure) -> Picture:
    """Return a figure as ``[H, W, 3]`` uint8."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(drawn)  # which has no type information
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw(axes: Axes, cell: Cell, left: float, top: float, negative: bool) -> None:
    from matplotlib.patches import Rectangle

    side = 0.85
    false = negative and cell.same_label is True
    if cell.picture is None:
        middle = left + side / 2, top + side / 2
        axes.text(*middle, "no picture", fontsize=6, color=_GREY, ha="center", va="center")
    else:
        box = (left, left + side, top + side, top)
        axes.imshow(cell.picture, extent=box, interpolation="nearest", aspect="auto")
    edge, line = (ALERT, 2.0) if false else ("0.75", 0.6)
    frame = Rectangle((left, top), side, side, fill=False, edgecolor=edge, linewidth=line)
    axes.add_patch(frame)
    lines = [] if cell.drawn is None else [similarity_of(cell.drawn)]
    lines += [f"label {cell.label}"] if cell.label else []
    color = ALERT if false else "0.15"
    weight = "bold" if false else "normal"
    text = "\n".join(lines)
    axes.text(
        *(left, top + side + 0.04), text, fontsize=6, va="top", color=color, fontweight=weight
    )


def shortened(text: str, most: int) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def similarity_of(drawn: Drawn) -> str:
    """Return ``0.83``, and how often it was drawn if more than once."""
    return f"{drawn.similarity:.2f}" + (f" ×{drawn.times}" if drawn.times > 1 else "")


def _cell(draws: AnchorDraws, drawn: Drawn, images: Images) -> Cell:
    pictures = [images.of(row) for row in drawn.rows]
    labels = [row.label for row in drawn.rows]
    same = None
    if draws.anchor.label is not None and None not in labels:
        same = all(label == draws.anchor.label for label in labels)
    return Cell(_halves(pictures), drawn, drawn.rows, same)


def _halves(pictures: Sequence[Picture | None]) -> Picture | None:
    """Return a picture; of a mixture the left half of the first and the right of the second."""
    first, last = pictures[0], pictures[-1]
    if len(pictures) == 1 or first is None or last is None or first.shape != last.shape:
        return first if len(pictures) == 1 else None
    halves = first.copy()
    middle = first.shape[1] // 2
    halves[:, middle:] = last[:, middle:]
    return halves


def _notes(draws: Sequence[AnchorDraws], images: Images) -> list[str]:
    drawn = [d for each in draws for d in (each.positive, *each.negatives) if d is not None]
    rows = [*(each.anchor for each in draws), *(row for d in drawn for row in d.rows)]
    notes = []
    if any(len(d.rows) > 1 for d in drawn):
        notes.append("A mixture shows the left half of one sample and the right half of the other.")
    if images.size and any(row.place is not None and row.view is None for row in rows):
        notes.append(
            "The loss is not told which view a row is of, so each sample shows its first view."
        )
    if any(row.place is None and images.of(row) is not None for row in rows):
        notes.append("Rows of past steps are shown as the data set gives them now.")
    if any(row.label is None for row in rows):
        notes.append("Where no label stands, the batch has none.")
    if any(images.of(row) is None for row in rows):
        why = "their data set index is unknown" if not images.reason else images.reason
        if not images.size:
            why = "the batch holds no images [B, C, H, W]"
        notes.append(f"Rows without a picture: {why}.")
    return notes
