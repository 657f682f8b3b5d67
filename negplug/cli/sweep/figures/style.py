"""What the pictures of a sweep share: size, colours, and axes without clutter."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE = "#0b66a8"
#: The baseline and other lines of reference.
GREY = "0.35"
#: Told apart by colour-blind readers too (Okabe & Ito).
PALETTE = (BLUE, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


_WIDTH = 7.5  # inches

# Matplotlib cannot divide an axis that reaches further.
_FURTHEST = 1e100


def fits(value: float) -> bool:
    """Return whether there is an axis for a number; what diverged logs any."""
    return abs(value) < _FURTHEST


def or_gap(value: float) -> float:
    """Return a number that :func:`fits`, or NaN, which leaves a gap in a line."""
    return value if fits(value) else math.nan


def new_figure(height: float) -> Figure:
    """Return an empty figure of this height in inches, that no display has to know of."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), dpi=200, layout="constrained")


def tidy(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Leave of the axes what helps to read values.

    Args:
        axes: The axes.
        grid: ``"x"`` or ``"y"``: the axis of the values, which gets the lines.
    """
    from matplotlib.ticker import MaxNLocator

    values = axes.xaxis if grid == "x" else axes.yaxis
    values.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.grid(axis=grid, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def legend(figure: Figure, lines: Sequence[Any], labels: Sequence[str]) -> None:
    """Put the legend above the axes, and make the figure as much higher as it takes."""
    rows = math.ceil(len(labels) / 2)
    figure.set_figheight(figure.get_figheight() + 0.2 * rows)
    font = {"family": "monospace", "size": 8}
    figure.legend(lines, labels, loc="outside upper left", ncols=2, frameon=False, prop=font)


def wrapped(expression: str, width: int = 42) -> str:
    """Break a long expression behind its commas."""
    lines = textwrap.wrap(expression, width, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)
