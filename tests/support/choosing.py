"""Batches, sources in every form, and what samplers choose among them, by loops."""

from __future__ import annotations

from dataclasses import replace

import naive
import torch

from negplug import (
    ContrastiveBatch,
    Draws,
    Negatives,
    NegativeSampler,
)


class Given(NegativeSampler):
    """A source that offers what the test wrote down."""

    def __init__(self, negatives: Negatives) -> None:
        super().__init__()
        self.negatives = negatives

    def sample(self, batch: ContrastiveBatch) -> Negatives:
        return self.negatives


def unit(rows: int, seed: int = 3, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(rows, width, dtype=torch.float64, generator=generator)
    return torch.nn.functional.normalize(z, dim=1)


def integers(low: int, high: int, *shape: int, seed: int = 5) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def batch_of(size: int, labels=None, views: int = 2, step: int = 0, **known) -> ContrastiveBatch:
    labels = None if labels is None else torch.as_tensor(labels)
    views = tuple(naive.embeddings(views, size))
    batch = ContrastiveBatch.from_views(views, labels=labels, **known)
    return replace(batch, draws=Draws(seed=7, step=step))


def repeated(batch: ContrastiveBatch, times: int) -> ContrastiveBatch:
    """The same anchors over and over, against the same keys: as many independent draws."""
    return replace(
        batch,
        anchors=batch.anchors.detach().repeat(times, 1),
        keys=batch.keys.detach(),
        anchor_ids=batch.anchor_ids.repeat(times),
        positives=batch.positives.repeat(times, 1),
        self_columns=batch.self_columns.repeat(times),
        labels=batch.labels.repeat(times),
    )


def with_unknown_anchor(batch: ContrastiveBatch) -> ContrastiveBatch:
    """The batch with an anchor of which nobody knows who it is."""
    number = torch.arange(len(batch.anchors))
    return replace(batch, anchor_ids=batch.anchor_ids.where(number != 1, -1))


def numbered(sampler: NegativeSampler) -> NegativeSampler:
    for number, part in enumerate(sampler.all_samplers()):
        part.stream = number
    return sampler


def offers(part: Negatives, batch: ContrastiveBatch) -> list[list[tuple[int, float]]]:
    """Per anchor (pool column, log weight) of everything that one pool offers, by loops."""
    rows = []
    for i, name in enumerate(batch.anchor_ids.tolist()):
        width = len(part.pool) if part.columns is None else part.columns.shape[1]
        row = []
        for slot in range(width):
            column = slot if part.columns is None else int(part.columns[i, slot])
            if part.columns is None and name != -1 and int(part.pool_ids[column]) == name:
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
    return float(batch.anchors[i].detach() @ part.pool[column].detach())


def random_part(batch: ContrastiveBatch, form: str, rows: int = 23) -> Negatives:
    """Negatives in every form that a source may give: ids, labels, masks and weights included."""
    count = len(batch.anchors)
    common = {
        "pool": unit(rows, seed=8),
        "pool_ids": torch.cat([batch.anchor_ids, batch.anchor_ids.new_tensor([-1])])[
            integers(0, count + 1, rows)
        ],
        "pool_labels": integers(-1, 3, rows, seed=9),
        "pool_indexes": torch.arange(rows),
    }
    columns = torch.stack(
        [torch.randperm(rows, generator=torch.Generator().manual_seed(i)) for i in range(count)]
    )[:, :11]
    weights = torch.linspace(-1, 1, count * rows, dtype=torch.float64).view(count, rows)
    return Negatives(
        **common
        | {
            "whole": {},
            "masked": {"mask": integers(0, 3, count, rows) > 0},
            "weighted": {"log_weight": weights},
            "chosen": {"columns": columns},
            "chosen-masked": {
                "columns": columns,
                "mask": integers(0, 3, count, 11) > 0,
                "log_weight": weights[:1, :11],
            },
        }[form]
    )


FORMS = ["whole", "masked", "weighted", "chosen", "chosen-masked"]
