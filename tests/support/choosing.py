"""Batches, sources in every form, and what samplers choose among them, by loops."""

from __future__ import annotations

from dataclasses import replace

import naive
import torch
from device import DEVICE
from pools import columns_of

from negplug import (
    Columns,
    ContrastiveBatch,
    Draws,
    Negatives,
    NegativeSampler,
    Rows,
    Whole,
)


class Given(NegativeSampler):
    """A source that offers what the test wrote down."""

    def __init__(self, *negatives: Negatives) -> None:
        super().__init__()
        self.negatives = negatives

    def sample(self, batch: ContrastiveBatch) -> tuple[Negatives, ...]:
        return self.negatives


def unit(rows: int, seed: int = 3, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, width, dtype=torch.float64, generator=generator)
    return torch.nn.functional.normalize(z, dim=1).to(DEVICE)


def integers(low: int, high: int, *shape: int, seed: int = 5) -> torch.Tensor:
    drawn = torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(DEVICE)


def batch_of(size: int, labels=None, views: int = 2, step: int = 0, **known) -> ContrastiveBatch:
    labels = None if labels is None else torch.as_tensor(labels, device=DEVICE)
    known = {
        name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value
        for name, value in known.items()
    }
    views = tuple(naive.embeddings(views, size))
    batch = ContrastiveBatch.from_views(views, labels=labels, **known)
    return batch.within(draws=Draws(seed=7, step=step))


def repeated(batch: ContrastiveBatch, times: int) -> ContrastiveBatch:
    """The same anchors over and over, against the same keys: as many independent draws."""
    anchors = Rows(
        batch.anchors.embeddings.detach().repeat(times, 1),
        batch.anchors.ids.repeat(times),
        labels=batch.anchors.labels.repeat(times),
    )
    return replace(
        batch,
        anchors=anchors,
        keys=batch.keys.detach(),
        positives=batch.positives.repeat(times, 1),
        self_columns=batch.self_columns.repeat(times),
    )


def with_unknown_anchor(batch: ContrastiveBatch) -> ContrastiveBatch:
    """The batch with an anchor of an unknown sample."""
    number = torch.arange(len(batch.anchors), device=DEVICE)
    ids = batch.anchors.ids.where(number != 1, -1)
    # Without their name, by which they would be the keys, whose ids are all known.
    return replace(batch, anchors=replace(batch.anchors, ids=ids, name=""))


def numbered(sampler: NegativeSampler) -> NegativeSampler:
    for number, part in enumerate(sampler.all_samplers()):
        part.stream = number
    return sampler


def offers(part: Negatives, batch: ContrastiveBatch) -> list[list[tuple[int, float]]]:
    """Per anchor (pool column, log weight) of everything that one pool offers, by loops."""
    rows = []
    for i, name in enumerate(batch.anchors.ids.tolist()):
        chosen = columns_of(part)
        width = len(part.rows) if chosen is None else chosen.shape[1]
        row = []
        for slot in range(width):
            column = slot if chosen is None else int(chosen[i, slot])
            if chosen is None and name != -1 and int(part.rows.ids[column]) == name:
                continue
            if part.mask is not None and not part.mask[i, slot]:
                continue
            weight = part.log_weight
            if weight is None:
                row.append((column, 0.0))
            else:
                wide = weight.expand(len(batch.anchors), width)
                row.append((column, float(wide[i, slot])))
        rows.append(row)
    return rows


def similarity(batch: ContrastiveBatch, part: Negatives, i: int, column: int) -> float:
    return float(batch.anchors.embeddings[i].detach() @ part.rows.embeddings[column].detach())


def random_part(batch: ContrastiveBatch, form: str, rows: int = 23) -> Negatives:
    """Negatives in every form that a source may give: ids, labels, masks and weights included."""
    count = len(batch.anchors)
    names = torch.cat([batch.anchors.ids, batch.anchors.ids.new_tensor([-1])])
    pool = Rows(
        unit(rows, seed=8),
        names[integers(0, count + 1, rows)],
        indexes=torch.arange(rows, device=DEVICE),
        labels=integers(-1, 3, rows, seed=9),
    )
    columns = torch.stack(
        [torch.randperm(rows, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    )[:, :11].to(DEVICE)
    weights = torch.linspace(-1, 1, count * rows, dtype=torch.float64, device=DEVICE)
    weights = weights.view(count, rows)
    choice, weight = {
        "whole": (Whole(), None),
        "masked": (Whole(integers(0, 3, count, rows) > 0), None),
        "weighted": (Whole(), weights),
        "chosen": (Columns(columns), None),
        "chosen-masked": (Columns(columns, integers(0, 3, count, 11) > 0), weights[:1, :11]),
    }[form]
    return Negatives(pool, choice, weight)


FORMS = ["whole", "masked", "weighted", "chosen", "chosen-masked"]
