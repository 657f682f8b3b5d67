"""The pictures of a sweep, each where the data allow it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from negplug.cli.sweep.figures.gradient_snr import gradient_snr_figure
from negplug.cli.sweep.figures.num_negatives import num_negatives_figure
from negplug.cli.sweep.figures.samplers import samplers_figure
from negplug.cli.sweep.summary import Summary


@dataclass(frozen=True)
class Picture:
    """A picture beside the report: its file name, its title and what it shows."""

    file: str
    title: str
    caption: str


def draw_pictures(summary: Summary, folder: Path) -> list[Picture]:
    """Draw what the finished runs allow.

    Args:
        summary: The finished runs.
        folder: Where the PNG files go.

    Returns:
        The pictures, in the order in which a report shows them.
    """
    kinds = (
        ("plot.png", f"{summary.metric} per sampler", samplers_figure),
        ("num_negatives.png", f"{summary.metric} by number of negatives", num_negatives_figure),
        ("gradient_snr.png", "gradient SNR over training", gradient_snr_figure),
    )
    pictures = []
    import matplotlib

    # A `$` in a metric's or a sampler's name is no formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        for file, title, draw in kinds:
            drawn = draw(summary)
            if drawn is not None:
                figure, caption = drawn
                figure.savefig(folder / file, metadata={"Software": ""})
                pictures.append(Picture(file, title, caption))
    return pictures
