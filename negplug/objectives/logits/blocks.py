"""Arithmetic of a whole pool, done view by view where the rows of some views serve those of some.

The anchors of a view, with the rows that serve them, are a batch and a whole pool of their own. So
every kernel computes blocks as it computes pools, streamed, and none knows of them; a view's rows
among themselves are a symmetric batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from negplug.contract.blocks import Blocks
from negplug.contract.negatives import Negatives, Whole
from negplug.contract.rows import Rows

_Places = slice | Tensor


class Block(NamedTuple):
    """Some anchors, and a whole pool that serves all of them.

    Attributes:
        anchors: n rows.
        negatives: The pool, with the weights of these anchors and rows.
        places: Which of all anchors these are.
    """

    anchors: Rows
    negatives: Negatives
    places: _Places


def over_blocks(
    anchors: Rows, part: Negatives, values: Callable[[Block], tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """Return what a function finds for the anchors of each block, for all anchors.

    Args:
        anchors: N rows.
        part: A whole pool with :attr:`negplug.contract.negatives.Negatives.blocks`.
        values: Returns some ``[n, …]`` of a block.
    """
    blocks = part.blocks
    assert blocks is not None
    found = zip(*map(values, _each(anchors, part, blocks)), strict=True)
    joined = [torch.cat(each) for each in found]
    if not blocks.ordered:
        back = torch.cat(blocks.anchors()).argsort()
        joined = [each[back] for each in joined]
    return tuple(joined)


def _each(anchors: Rows, part: Negatives, blocks: Blocks) -> Iterator[Block]:
    count, size = blocks.num_views, len(anchors) // blocks.num_views
    names, spans = [""] * count, list[tuple[_Places, _Places]]()
    if blocks.ordered and (count == 2 or blocks.half == "same"):
        # Parts of what is there: nothing is copied.
        own = [slice(view * size, (view + 1) * size) for view in range(count)]
        spans = list(zip(own, own if blocks.half == "same" else own[::-1], strict=True))
        if blocks.half == "same" and part.rows.same_as(anchors):
            names = [f"{anchors.name}, view {view}" for view in range(count)]
    else:
        spans = list(zip(blocks.anchors(), blocks.rows(), strict=True))
    for name, (some, serving) in zip(names, spans, strict=True):
        pool = Negatives(_of(part.rows, serving, name), Whole(), _weight(part, some, serving))
        yield Block(_of(anchors, some, name), pool, some)


def _of(rows: Rows, places: _Places, name: str) -> Rows:
    ids = rows.ids[places]
    z = rows.embeddings
    some = z[places] if isinstance(places, slice) else z.index_select(0, places)
    return Rows(some, ids, name=name, identified=ids if rows.identified is rows.ids else None)


def _weight(part: Negatives, anchors: _Places, rows: _Places) -> Tensor | None:
    """Return the log weights of some anchors and rows, broadcastable to them."""
    weight = part.log_weight
    if weight is None:
        return None
    weight = weight if weight.shape[0] == 1 else weight[anchors]
    return weight if weight.shape[1] == 1 else weight[:, rows]
