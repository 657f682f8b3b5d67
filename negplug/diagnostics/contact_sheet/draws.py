"""What a sampler gave a few anchors of one loss call, read off the call itself.

Nothing is drawn here: the batch and the negatives are those that the loss was computed from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.negatives import Choice, Columns, Mixtures, Negatives, Whole
from negplug.contract.rows import Rows
from negplug.diagnostics.contact_sheet.whose import Row, Whose
from negplug.objectives.logits.chosen import chosen_logits


@dataclass(frozen=True)
class Drawn:
    """A row that an anchor was compared with.

    Attributes:
        rows: The row, or the two that a synthetic negative is mixed of.
        similarity: Cosine similarity with the anchor.
        share: Its part of the softmax over the anchor's negatives; NaN for a positive.
        times: How often it was drawn.
    """

    rows: tuple[Row, ...]
    similarity: float
    share: float
    times: int = 1


@dataclass(frozen=True)
class AnchorDraws:
    """One anchor, its first positive, and what it was given.

    Attributes:
        anchor: The anchor.
        positive: The first of its positives; None if it has none.
        negatives: The most similar of its negatives, in falling order.
        total: How many negatives it was given, repeats included.
        labelled: How many of them have a known label, as the anchor has; 0 if that is unknown.
        false: How many of those have the anchor's label.
        false_share: Their part of the softmax over the anchor's negatives.
    """

    anchor: Row
    positive: Drawn | None
    negatives: tuple[Drawn, ...]
    total: int
    labelled: int
    false: int
    false_share: float


@torch.no_grad()
def draws_of(
    batch: ContrastiveBatch,
    negatives: Sequence[Negatives],
    size: int,
    anchors: int = 8,
    most: int = 12,
) -> list[AnchorDraws]:
    """Return what the first anchors of a call were given.

    Args:
        batch: The call's batch.
        negatives: What its sampler gave.
        size: B, the number of samples in the loader's batch, in whose order the rows are.
        anchors: How many anchors, of those that have a positive.
        most: How many negatives to list for each, the most similar ones.
    """
    with torch.autocast(batch.anchors.embeddings.device.type, enabled=False):
        batch, given = batch.detach(), [part.detach() for part in negatives]
        chosen = (batch.positives >= 0).any(1).nonzero()[:anchors, 0]
        whose = Whose(batch, size)
        rows = batch.anchors.select(chosen)
        parts = [_Entries(_of_anchors(part, chosen), rows, batch.temperature) for part in given]
        similar = _positive_similarities(batch, chosen)
    found = []
    for number, anchor in enumerate(chosen.tolist()):
        row = whose.anchor(anchor)
        column = next(c for c in batch.positives[anchor].tolist() if c >= 0)
        positive = Drawn((whose.key(column),), similar[number], float("nan"))
        found.append(_one_anchor(row, positive, [part.of(number) for part in parts], whose, most))
    return found


def _one_anchor(
    anchor: Row, positive: Drawn, parts: Sequence[_Listed], whose: Whose, most: int
) -> AnchorDraws:
    logits = torch.cat([part.logits for part in parts])
    posterior = parts[0].part.estimator == "posterior"
    shares = logits.exp() if posterior else logits.softmax(0)
    total, labelled, false, false_share, first = 0, 0, 0, 0.0, 0
    listed: list[Drawn] = []
    for part in parts:
        own_shares = shares[first : first + len(part.logits)]
        first += len(part.logits)
        total += len(part.logits)
        labels = part.part.rows.labels
        if labels is not None and anchor.label is not None and part.columns.shape[1] == 1:
            of_entries = labels.cpu()[part.columns[:, 0]]
            labelled += int((of_entries != UNKNOWN).sum())
            same = of_entries == anchor.label
            false += int(same.sum())
            false_share += float(own_shares[same].sum())
        listed += part.most_similar(own_shares, most, whose)
    listed.sort(key=lambda drawn: -drawn.similarity)
    shown = tuple(listed[:most])
    return AnchorDraws(anchor, positive, shown, total, labelled, false, false_share)


@dataclass(frozen=True)
class _Listed:
    """The entries of one anchor in one pool, on the CPU: E of them that serve it.

    Attributes:
        part: Whose rows they are.
        columns: ``[E, 1]``, or ``[E, 2]`` of mixtures.
        similarities: ``[E]``.
        logits: ``[E]``, weighted; of draws from the softmax their log weights.
    """

    part: Negatives
    columns: Tensor
    similarities: Tensor
    logits: Tensor

    def most_similar(self, shares: Tensor, most: int, whose: Whose) -> list[Drawn]:
        """Return the most similar entries, each row once."""
        order = self.similarities.argsort(descending=True, stable=True)
        if isinstance(self.part.choice, Whole):
            order = order[:most]  # no row twice
        places: dict[tuple[int, ...], list[int]] = {}
        for entry, columns in zip(order.tolist(), self.columns[order].tolist(), strict=True):
            # Two mixtures of the same rows differ.
            key = tuple(columns) if len(columns) == 1 else (entry, *columns)
            places.setdefault(key, []).append(entry)
        found = []
        for key, entries in list(places.items())[:most]:
            columns = key if len(key) == 1 else key[1:]
            rows = tuple(whose.of(self.part.rows, column) for column in columns)
            similarity = float(self.similarities[entries[0]])
            found.append(Drawn(rows, similarity, float(shares[entries].sum()), len(entries)))
        return found


class _Entries:
    """What some anchors were given in one pool."""

    def __init__(self, part: Negatives, anchors: Rows, temperature: float) -> None:
        self._part = part
        bare = replace(part, log_weight=None)
        if isinstance(part.choice, Whole):
            similarities = anchors.embeddings @ part.rows.embeddings.T
        else:
            similarities = chosen_logits(anchors.embeddings, bare, 1.0)
        weight = part.log_weight
        if part.estimator == "posterior":
            logits = similarities.new_zeros(()) if weight is None else weight
        else:
            logits = similarities / temperature + (0.0 if weight is None else weight)
        self._serving = part.serving(anchors).cpu()
        self._similarities = similarities.cpu()
        self._logits = logits.expand_as(similarities).cpu()
        self._columns = _columns(part.choice, similarities).cpu()

    def of(self, anchor: int) -> _Listed:
        """Return the entries that serve one of the anchors."""
        serving = self._serving[anchor]
        values = (self._columns, self._similarities, self._logits)
        columns, similarities, logits = (value[anchor][serving] for value in values)
        return _Listed(self._part, columns, similarities, logits)


def _columns(choice: Choice, like: Tensor) -> Tensor:
    """Return the columns of each entry, ``[n, E, 1]`` or ``[n, E, 2]``."""
    if isinstance(choice, Mixtures):
        return torch.stack([choice.first, choice.second], dim=-1)
    if isinstance(choice, Columns):
        return choice.columns[..., None]
    every = torch.arange(like.shape[1], device=like.device)
    return every[None, :, None].expand(len(like), -1, 1)


def _of_anchors(part: Negatives, anchors: Tensor) -> Negatives:
    """Return what serves some anchors ``[n]``."""
    choice, mask, weight = part.choice, part.mask, part.log_weight
    mask = None if mask is None else mask[anchors]
    if weight is not None and len(weight) > 1:
        weight = weight[anchors]
    few: Choice
    if isinstance(choice, Whole):
        few = Whole(mask)
    elif isinstance(choice, Columns):
        few = Columns(choice.columns[anchors], mask)
    else:
        assert isinstance(choice, Mixtures)  # of a ring this rank's part is shown, a whole pool
        few = Mixtures(
            choice.first[anchors], choice.second[anchors], choice.coefficients[anchors], mask
        )
    return replace(part, choice=few, log_weight=weight)


def _positive_similarities(batch: ContrastiveBatch, anchors: Tensor) -> list[float]:
    positives = batch.positives[anchors]
    first = (positives >= 0).int().argmax(1, keepdim=True)
    keys = batch.keys.embeddings[positives.gather(1, first)[:, 0]]
    similar: list[float] = (batch.anchors.embeddings[anchors] * keys).sum(1).tolist()
    return similar
