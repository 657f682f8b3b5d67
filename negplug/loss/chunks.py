"""Which calls are one, for a batch whose gradient is computed chunk by chunk.

A gradient cache by hand (open_clip's ``--accum-freq``) embeds all K chunks of a batch without a
graph, c_1, …, c_K, and then calls the loss once for each of them, on all rows,

    z_k = cat(c_1, …, c_{k-1}, f(x_k), c_{k+1}, …, c_K),    k = 1, …, K,

each with a backward pass of its own. The K gradients add up to that of the whole batch if all calls
compute the same loss, with the same negatives. So they are one call, made again.

The graph tells such calls, and no value is read: constants are joined with what is computed, and
each pass computes other parts. Of constants that are written over the graph does not tell where;
then the rows are compared.
"""

from __future__ import annotations

from torch.autograd.graph import Node

from negplug.contract.batch import ContrastiveBatch
from negplug.kernels import late
from negplug.loss.fingerprint import BatchFingerprint

_MOST_NODES = 32  # between a loss and the layers below it
_JOINS = ("CatBackward", "StackBackward")
_WRITES = tuple(
    "torch::autograd::CopySlices IndexCopy IndexPut MaskedScatter Scatter SelectScatter "
    "SliceScatter Where".split()
)

Join = tuple[bool, ...]
"""Of each part that is joined, whether it is computed; empty where constants are written over."""


class Chunks:
    """The chunks of a call's batch that it was computed for.

    Args:
        batch: Of the call as it was made first.
    """

    def __init__(self, batch: ContrastiveBatch) -> None:
        self._joins = [_joins(batch)]

    def add(self, batch: ContrastiveBatch) -> None:
        """Take in the batch of the call as it is made again."""
        self._joins.append(_joins(batch))

    def are_followed(self, batch: ContrastiveBatch, last: BatchFingerprint) -> bool:
        """Return whether a batch is the same one, with a graph for a further chunk.

        Lists whose parts are computed by turns tell it. One that always has the same constants, as
        other ranks' rows are, tells nothing.

        Args:
            batch: Of a call that is made now.
            last: Of the batch of the latest chunk.
        """
        now = _joins(batch)
        if not now:
            return False
        rows = BatchFingerprint.of(batch)
        if rows.shapes != last.shapes:
            return False
        if any(list(map(len, joins)) != list(map(len, now)) for joins in self._joins):
            return False
        every = [(join, [joins[n] for joins in self._joins]) for n, join in enumerate(now)]
        turns = [(join, before) for join, before in every if any(join != b for b in before)]
        if turns:
            return not any(_overlap(join, b) for join, before in turns for b in before)
        return () in now and bool(late.read(rows.is_same(last)))


def _overlap(one: Join, two: Join) -> bool:
    return any(a and b for a, b in zip(one, two, strict=True))


def _joins(batch: ContrastiveBatch) -> tuple[Join, ...]:
    """Return where constants join what is computed, from the batch down to the layers."""
    todo = [batch.anchors.embeddings.grad_fn, batch.keys.embeddings.grad_fn]
    found, seen = [], set[Node]()
    for node in todo:  # which grows
        if node is None or node in seen or len(seen) == _MOST_NODES:
            continue
        seen.add(node)
        given = [below for below, _ in node.next_functions]
        if None in given:
            name = node.name()
            if name.startswith(_JOINS):
                found.append(tuple(below is not None for below in given))
            elif name.startswith(_WRITES):
                found.append(())
        if not any(hasattr(below, "variable") for below in given):  # as those of a layer
            todo += given
    return tuple(found)
