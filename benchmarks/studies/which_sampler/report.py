"""Writes the guide's tables and draws its pictures, from the rows of ``study.py`` and ``cost.py``.

Usage: python report.py
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from choices import CHOICES, RECIPES, TUNED
from neighbours import RESULTS, Interval, Row, stored, with_tables
from summary import by_choice, costs_of, gain, settings, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAGE = Path(__file__).resolve().parents[3] / "docs" / "which-sampler.md"

# The picture ends here: what is lost beyond is written beside the mark.
_LEAST = -6.0


def written(page: str, rows: Iterable[Row], costs: Sequence[Row]) -> str:
    """Returns the page with its tables written anew; each stands between two comments."""
    tables = {name: table(own, costs_of(name, costs)) for name, own in settings(rows)}
    return with_tables(page, tables)


def draw(rows: Iterable[Row], recipe: str, path: Path) -> None:
    """Draws the gain of every choice, with its interval, in a panel per data set and batch size."""
    from matplotlib.figure import Figure

    panels = []
    for name, each in settings(rows):
        own_recipe, data, size, look = name.split()
        if own_recipe == recipe and look == "first":
            found = by_choice(each)
            gains = {n: gain(own, found[TUNED], "linear_acc") for n, own in found.items()}
            panels.append((data, size, gains))
    tried = {name for *_, gains in panels for name in gains} - {TUNED}
    names = [name for name in CHOICES if name in tried]
    seeds = {each.count for *_, gains in panels for each in gains.values()}
    picture = Figure(figsize=(2.8 + 2.3 * len(panels), 0.3 * len(names) + 1.4), dpi=160)
    picture.set_layout_engine("constrained")
    for axes, (data, size, gains) in zip(
        picture.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        _panel(axes, gains, names)
        axes.set_title(f"{data}, B = {size}", fontsize=8.5, loc="left")
    count = "/".join(map(str, sorted(seeds)))
    caption = (
        "linear accuracy, points above the untouched recipe at its best temperature;",
        f"bars: 95 % intervals over {count} paired seeds, coloured if they exclude zero",
    )
    picture.supxlabel(("\n" if len(panels) < 3 else " ").join(caption), fontsize=8)
    picture.savefig(path, metadata={"Software": ""})


def _panel(axes: Axes, gains: dict[str, Interval], names: list[str]) -> None:
    """Draws one data set and batch size; a choice that was not tried there has no mark."""
    axes.axvline(0, color="0.6", linewidth=0.8)
    for place, name in enumerate(names):
        if (found := gains.get(name)) is None:
            continue
        colour = "0.45" if not found.verdict else "tab:green" if found.verdict > 0 else "tab:red"
        if found.middle < _LEAST:
            beyond = f"◂ {found.middle:.0f}".replace("-", "−")
            axes.annotate(beyond, (_LEAST, place), fontsize=7.5, color=colour, va="center")
            continue
        axes.plot([max(found.low, _LEAST), found.high], [place, place], color=colour, linewidth=1.4)
        axes.plot([found.middle], [place], "o", color=colour, markersize=4)
    axes.set_xlim(left=_LEAST - 0.3)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="0.93", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Writes all of them."""
    rows = stored("which_sampler", RESULTS)
    costs = stored("which_sampler_cost", RESULTS)
    PAGE.write_text(written(PAGE.read_text("utf-8"), rows, costs), "utf-8")
    for recipe in RECIPES:
        draw(rows, recipe, RESULTS / f"which_sampler_{recipe}.png")


if __name__ == "__main__":
    main()
