"""The pictures of the samplers: which negatives one anchor gets, how often, and with what weight.

    python docs/scripts/gallery.py            writes docs/figures/samplers/*.svg

A toy data set of 60 samples with three labels lies on the circle, as embeddings of two dimensions
and unit length do. Batches of 16 are drawn, each with the anchor; the real sampler is asked in a
real `ContrastiveLoss`, and what it gives the anchor is counted over some hundred steps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import negplug
from negplug import Columns, ContrastiveBatch, Mixtures, Negatives, Rows

FIGURES = Path(__file__).parents[1] / "figures" / "samplers"

# Sampler: the expression that is drawn.
DRAWN = {
    "in_batch": "in_batch()",
    "gather": "gather()",
    "uniform": "uniform(num_negatives=8)",
    "queue": "queue(size=128)",
    "memory_bank": "memory_bank()",
    "hierarchical": (
        "hierarchical(uniform(num_negatives=8), hard(num_negatives=8, source=queue(size=64)))"
    ),
    "schedule": "schedule(in_batch(), hard(num_negatives=8), from_steps=(0, 180))",
    "stratified": "stratified(num_negatives=8, same=0.75)",
    "hard": "hard(num_negatives=8)",
    "filtered": 'filtered(by="labels")',
    "false_negatives": "false_negatives(top=5, threshold=0.9)",
    "synthetic": "synthetic(num_mixed=6, num_mixed_with_anchor=6, num_hardest=8)",
    "gumbel_max": "gumbel_max(num_negatives=8)",
    "emc2": "emc2()",
    "isir": "isir()",
}

SAMPLES, LABELS, BATCH = 60, 3, 16
WARM, COUNTED = 60, 240
TURN = WARM + COUNTED // 2  # the step at which the schedule's second sampler begins
TEMPERATURE = 0.3
ANCHOR = 0
BLUE, PINK = "#3f51b5", "#d81b60"


@dataclass
class Seen:
    """What the anchor was offered and given.

    Attributes:
        offered: How often a row was in a pool, by its sample and the ring that it is drawn on.
        given: How often it was a negative, likewise.
        weight: The sum of its weights, likewise.
        made: Angles of synthetic negatives, in degrees.
        attracted: How often a row was attracted, by its sample.
    """

    offered: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    given: dict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    weight: dict[tuple[int, int], float] = field(default_factory=lambda: defaultdict(float))
    made: list[float] = field(default_factory=list)
    attracted: dict[int, int] = field(default_factory=lambda: defaultdict(int))


@dataclass
class Surroundings:
    """What says on which ring a row is drawn: 0 for the batch, further ones for what is not in it.

    Attributes:
        batch: What the sampler was asked about.
        elsewhere: Samples that another rank would have.
        past: Embeddings of the steps before, the last one first; empty if their age is not drawn.
        chains: Whether remembered rows and the batch's are one pool.
    """

    batch: ContrastiveBatch
    elsewhere: set[int]
    past: list[Tensor]
    chains: bool

    def rings(self, rows: Rows) -> list[int]:
        """Return the ring of each row."""
        assert rows.indexes is not None
        indexes = rows.indexes.tolist()
        if rows.same_as(self.batch.keys):
            return [int(index in self.elsewhere) for index in indexes]
        if self.chains:
            assert self.batch.keys.indexes is not None
            present = set(self.batch.keys.indexes.tolist())
            return [int(index not in present) for index in indexes]
        if not self.past:
            return [1] * len(indexes)
        nearest = torch.stack([(rows.embeddings @ keys.T).amax(1) for keys in self.past], 1)
        return [1 + age for age in nearest.argmax(1).tolist()]


def data() -> tuple[Tensor, Tensor]:
    """Return the angles ``[60]`` and the labels ``[60]`` of the samples."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(SAMPLES) % LABELS
    centres = torch.tensor([90.0, 210.0, 330.0])[labels]
    angles = centres + 34 * torch.randn(SAMPLES, generator=generator).clamp(-1.9, 1.9)
    angles[ANCHOR] = 78.0
    return angles, labels


def counted(name: str, first: int | None = None, last: int | None = None) -> Seen:
    """Take step after step, without training, and count what the anchor's first view is given.

    ``first`` and ``last`` bound the steps that count; by default those are all once it is warm. The
    age of a queue's rows can be drawn for one step alone, the last one.
    """
    last = WARM + COUNTED if last is None else last
    if first is None:
        first = last - 1 if name == "queue" else WARM
    angles, labels = data()
    generator = torch.Generator().manual_seed(5)
    loss_fn = negplug.ContrastiveLoss(DRAWN[name], temperature=TEMPERATURE, seed=1)
    seen = Seen()
    found: list[Any] = []
    loss_fn.sampler.register_forward_hook(lambda _, given, out: found.append((given[0], out)))
    past: list[Tensor] = []
    size = 2 * BATCH if name == "gather" else BATCH
    for step in range(last):
        others = 1 + torch.randperm(SAMPLES - 1, generator=generator)[: size - 1]
        rows = torch.cat([torch.tensor([ANCHOR]), others])
        views = []
        for _ in range(2):
            noisy = (angles[rows] + 3 * torch.randn(size, generator=generator)).deg2rad()
            views.append(torch.stack([noisy.cos(), noisy.sin()], 1).requires_grad_())
        found.clear()
        loss_fn(*views, indexes=rows, labels=labels[rows]).backward()
        if step >= first:
            batch, pools = found[0]
            ages = past if name == "queue" else []
            chains = name in ("emc2", "isir")
            around = Surroundings(batch.detach(), set(rows[BATCH:].tolist()), ages, chains)
            for part in pools:
                note(seen, part.detach(), around)
        past = [torch.cat(views).detach(), *past][:4]
    return seen


def note(seen: Seen, part: Negatives, around: Surroundings) -> None:
    """Count one pool's negatives of the anchor, which is row 0."""
    anchors = around.batch.anchors
    serving = part.serving(anchors)[0]
    if isinstance(part.choice, Mixtures):
        first, second = part.choice.first[0], part.choice.second[0]
        share = part.choice.coefficients[0]
        rows = part.rows.embeddings
        mixed = share[:, :1] * rows[first] + share[:, 1:] * rows[second]
        seen.made += [math.degrees(math.atan2(y, x)) for x, y in mixed[serving].tolist()]
        return
    assert part.rows.indexes is not None
    keys = list(zip(part.rows.indexes.tolist(), around.rings(part.rows), strict=True))
    for key, row_id in zip(keys, part.rows.ids.tolist(), strict=True):
        if row_id != anchors.ids[0]:
            seen.offered[key] += 1
    if part.attracted is not None:
        for column in part.attracted[0].tolist():
            if column >= 0:
                seen.attracted[keys[column][0]] += 1
    columns = part.choice.columns[0] if isinstance(part.choice, Columns) else range(len(keys))
    weights = torch.ones(len(serving))
    if part.log_weight is not None:
        weights = part.log_weight[0].exp().expand(len(serving))
    for column, serves, weight in zip(columns, serving, weights, strict=True):
        if serves:
            key = keys[int(column)]
            seen.given[key] += 1
            seen.weight[key] += float(weight)


def draw(name: str) -> None:
    """Draw one sampler's picture; of a schedule one for each turn."""
    import matplotlib.pyplot as plt

    if name == "schedule":
        turns = {
            f"steps 0 to {TURN - 1}": counted(name, WARM, TURN),
            f"from step {TURN} on": counted(name, TURN),
        }
    else:
        turns = {"": counted(name)}
    figure, frames = plt.subplots(1, len(turns), figsize=(3.2 * len(turns), 3.35), squeeze=False)
    for axes, (title, seen) in zip(frames[0], turns.items(), strict=True):
        axes.set_title(title, fontsize=10)
        draw_turn(axes, seen)
    save(figure, FIGURES / f"{name}.svg")


def draw_turn(axes: Any, seen: Seen) -> None:
    """Draw what was counted."""
    import matplotlib.pyplot as plt

    angles, labels = data()
    axes.set_aspect("equal")
    axes.axis("off")
    axes.set(xlim=(-1.3, 1.3), ylim=(-1.45, 1.3))
    means = [seen.weight[key] / seen.given[key] for key in seen.given]
    low, high = min(means), max(means)
    equal = high - low < 1e-3 * high

    def dot(angle: float, radius: float, **style: Any) -> None:
        turn = math.radians(angle)
        axes.scatter(radius * math.cos(turn), radius * math.sin(turn), **style)

    for key, offered in sorted(seen.offered.items()):
        index, ring = key
        radius = 1.0 if not ring else 0.86 - 0.12 * ring
        style: dict[str, Any] = {"marker": "os^"[int(labels[index])]}
        if given := seen.given.get(key, 0):
            shade = (seen.weight[key] / given - low) / (high - low) if not equal else 0.0
            style["color"] = [BLUE if equal else plt.get_cmap("viridis_r")(0.1 + 0.9 * shade)]
            style |= {"s": 9 + 95 * min(1.0, given / offered), "alpha": 0.75, "lw": 0}
        else:
            style |= {"s": 9, "facecolors": "none", "edgecolors": "#b4b4b4", "lw": 0.7}
        dot(float(angles[index]), radius, **style)
    for index, times in sorted(seen.attracted.items()):
        area = 9 + 95 * min(1.0, times / seen.offered[index, 0])
        style = {"marker": "os^"[int(labels[index])], "color": PINK, "lw": 0}
        dot(float(angles[index]), 1.18, s=area, **style)
    for angle in seen.made[:: max(1, len(seen.made) // 160)]:
        dot(angle, 1.18, s=7, marker="D", color=PINK, lw=0)
    dot(float(angles[ANCHOR]), 1.0, s=150, marker="*", color="black", zorder=3)
    said = f"weight {high:.2g}"
    if not equal:
        said = f"weight {low:.1g} (yellow) to {high:.1g} (dark)"
    axes.text(0, -1.42, said, ha="center", fontsize=9)


def save(figure: Any, path: Path) -> None:
    """Write a picture that is the same whenever it is drawn."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "negplug", "svg.fonttype": "none"}):
        nothing = {"Date": None, "Creator": None}
        figure.savefig(path, metadata=nothing, bbox_inches="tight", pad_inches=0.02)
    plt.close(figure)
    text = path.read_text(encoding="utf-8")
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    import matplotlib as mpl

    mpl.use("svg")
    for sampler in DRAWN:
        draw(sampler)
