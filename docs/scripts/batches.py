"""The picture of the composers: a batch of each, on a toy data set.

    python docs/scripts/batches.py            writes docs/figures/batches.svg

The data set of the samplers' pictures lies on the circle, as embeddings of two dimensions and unit
length do; the real composers order it.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch

import negplug
from negplug import Draws, Epoch
from negplug.contract.dataset import DatasetAccess

FIGURE = Path(__file__).parents[1] / "figures" / "batches.svg"

# What a panel is called: the expression that is drawn, None for the recipe's own order.
DRAWN = {
    "the recipe's own": None,
    "random_walk": "random_walk(num_neighbors=4, num_candidates=30)",
    "clustered": "clustered(num_neighbors=4)",
    "balanced": "balanced(by='labels')",
}
BATCH = 12


def batch(expression: str | None, angles: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """Return the first batch of an epoch."""
    radians = angles.deg2rad()
    rows = torch.stack([radians.cos(), radians.sin()], 1)
    count = len(rows)
    random = Draws(2, 1).random(-1, torch.device("cpu"))
    samples = random.permutation(count)
    sizes = (BATCH,) * (count // BATCH)
    data = DatasetAccess(count, column=lambda name: labels)
    epoch = Epoch(samples, sizes, random, data, rows[samples])
    if expression is not None:
        samples = samples[negplug.make_composer(expression).order(epoch)]
    return list(map(int, samples[:BATCH]))


def draw() -> None:
    """Draw one panel for each composer."""
    import matplotlib.pyplot as plt

    gallery = _gallery()
    angles, labels = gallery.data()
    figure, frames = plt.subplots(1, len(DRAWN), figsize=(2.6 * len(DRAWN), 2.8))
    for axes, (title, expression) in zip(frames, DRAWN.items(), strict=True):
        axes.set_title(title, fontsize=10)
        axes.set_aspect("equal")
        axes.axis("off")
        axes.set(xlim=(-1.25, 1.25), ylim=(-1.25, 1.25))
        chosen = batch(expression, angles, labels)
        there = torch.zeros(len(angles), dtype=torch.bool)
        there[chosen] = True
        for label, marker in enumerate("os^"):
            inside, outside = there & (labels == label), ~there & (labels == label)
            filled = {"color": gallery.BLUE, "s": 60, "alpha": 0.75, "lw": 0, "zorder": 3}
            hollow = {"facecolors": "none", "edgecolors": "#b4b4b4", "s": 14, "lw": 0.7}
            for rows, style in ((inside, filled), (outside, hollow)):
                turns = angles[rows].deg2rad()
                axes.scatter(turns.cos().numpy(), turns.sin().numpy(), marker=marker, **style)
    gallery.save(figure, FIGURE)


def _gallery() -> Any:
    import sys

    path = Path(__file__).with_name("gallery.py")
    spec = importlib.util.spec_from_file_location("gallery", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gallery"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    import matplotlib as mpl

    mpl.use("svg")
    draw()
