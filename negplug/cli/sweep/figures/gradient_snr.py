"""``gradient_snr.png``: signal-to-noise ratio of the gradient over training, a line per sampler."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from negplug.cli.sweep.figures.num_negatives import family, measured_numbers
from negplug.cli.sweep.figures.style import GREY, fits, legend, new_figure, tidy, wrapped
from negplug.cli.sweep.recorded import averaged
from negplug.cli.sweep.summary import Summary
from negplug.cli.treatment import BASELINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours tell numbers of negatives apart, styles what draws them.
_STYLES = ("-", "--", ":", "-.")


def gradient_snr_figure(summary: Summary) -> tuple[Figure, str] | None:
    """Draw the gradient's signal-to-noise ratio over training.

    Args:
        summary: The finished runs.

    Returns:
        The figure and its caption; ``None`` unless some run recorded the ratio at two steps.
    """
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    curves = {
        sampler: averaged([result.gradient_snr for result in summary.best(sampler)])
        for sampler in summary.samplers
    }
    curves = {
        sampler: [point for point in curve if fits(point[1]) and fits(point[2])]
        for sampler, curve in curves.items()
    }
    curves = {sampler: curve for sampler, curve in curves.items() if len(curve) > 1}
    if not curves:
        return None
    numbers = measured_numbers(summary)
    # From few negatives to many, the baseline, which has all, at the end.
    order = sorted(curves, key=lambda name: (name == BASELINE, numbers.get(name, math.inf)))
    levels = list(dict.fromkeys(numbers.get(name) for name in order if name != BASELINE))
    families = list(dict.fromkeys(family(name) for name in order if name != BASELINE))

    figure = new_figure(3.0)
    axes = figure.add_subplot()
    tidy(axes, grid="y")
    for sampler in order:
        color, style = GREY, _STYLES[1]
        if sampler != BASELINE:
            level = levels.index(numbers.get(sampler)) / max(len(levels) - 1, 1)
            color = to_hex(colormaps["viridis"](0.85 * level))
            style = _STYLES[families.index(family(sampler)) % len(_STYLES)]
        steps, means, spreads = zip(*curves[sampler], strict=True)
        axes.plot(steps, means, style, color=color, linewidth=1.5, label=wrapped(sampler))
        if any(spreads):
            lower = [center - spread for center, spread in zip(means, spreads, strict=True)]
            upper = [center + spread for center, spread in zip(means, spreads, strict=True)]
            axes.fill_between(steps, lower, upper, color=color, alpha=0.15, linewidth=0)
    axes.set_xlabel("training step", fontsize=9)
    axes.set_ylabel("gradient SNR", fontsize=9)
    legend(figure, *axes.get_legend_handles_labels())
    return figure, _caption(summary)


def _caption(summary: Summary) -> str:
    where = ", each sampler at its best setting" if summary.names else ""
    sentences = [
        "Signal-to-noise ratio of the gradient over training: |mean| / standard deviation of each "
        f"parameter, averaged over the parameters{where}."
    ]
    if summary.repeated:
        sentences.append(
            "Lines: mean over the seeds; bands: ± 1 standard deviation over the seeds."
        )
    return " ".join(sentences)
