"""Which calls are one, for a batch whose gradient is computed chunk by chunk.

A gradient cache by hand (open_clip's ``--accum-freq``) embeds all K chunks of a batch without a
graph, c_1, …, c_K, and then calls the loss once for each of them, on all rows,

    z_k = cat(c_1, …, c_{k-1}, f(x_k), c_{k+1}, …, c_K),    k = 1, …, K,

each with a backward pass of its own. The K gradients add up to that of the whole batch if all calls
compute the same loss, with the same negatives. So they are one call, made again.

Two things tell such a call from that of another batch. In the graph constants are joined with what
is computed, along the rows, and each pass computes other parts. And the rows are those of the pass
before: all of them nearly, or some to the bit, for dropout changes those of two chunks alone. The
rows are looked at, which waits for their device, only where the graph fits.
"""

from __future__ import annotations

from torch.autograd.graph import Node

from negplug.contract.batch import ContrastiveBatch
from negplug.kernels import late
from negplug.kernels.torch_private import output_shape, saved_numbers
from negplug.loss.fingerprint import BatchFingerprint

_MOST_NODES = 32  # between a loss and what is joined
_JOINS = frozenset(("Cat", "Stack"))
# Operations that leave rows apart. Below any other is the network, whose joins are its own.
_BY_ROWS = _JOINS | frozenset(
    "_UnitRows Alias ClampMin Clone Div Expand LinalgVectorNorm Mul Permute Pow ReshapeAlias "
    "Select Slice Split SplitWithSizes Sqrt Squeeze Sum ToCopy Transpose Unbind UnsafeView "
    "Unsqueeze View".split()
)

Join = tuple[bool, ...]
"""Of each part that is joined, whether it is computed."""


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

        Args:
            batch: Of a call that is made now.
            last: Of the batch of the latest chunk.
        """
        now = _joins(batch)
        if not now or not self._take_turns(now):
            return False
        rows = BatchFingerprint.of(batch)
        device = batch.anchors.embeddings.device
        if rows.shapes != last.shapes or late.capturing(device):
            return False
        return bool(late.read(rows.is_same(last)))

    def _take_turns(self, now: tuple[Join, ...]) -> bool:
        """Whether joins compute other parts than in each pass before.

        One that always has the same constants, as other ranks' rows are, may be beside them.
        """
        form = [len(join) for join in now]
        if any([len(join) for join in joins] != form for joins in self._joins):
            return False
        every = zip(now, *self._joins, strict=True)
        turns = [(join, before) for join, *before in every if any(b != join for b in before)]
        return bool(turns) and not any(_overlap(join, b) for join, before in turns for b in before)


def _overlap(one: Join, two: Join) -> bool:
    return any(a and b for a, b in zip(one, two, strict=True))


def _joins(batch: ContrastiveBatch) -> tuple[Join, ...]:
    """Return where constants join what is computed, from the batch down to the network."""
    todo = [batch.anchors.embeddings.grad_fn, batch.keys.embeddings.grad_fn]
    found, seen = [], set[Node]()
    for node in todo:  # which grows
        if node is None or node in seen or len(seen) == _MOST_NODES:
            continue
        seen.add(node)
        operation = node.name().partition("Backward")[0]
        if operation in _BY_ROWS:
            given = [below for below, _ in node.next_functions]
            todo += given
            if operation in _JOINS and None in given and _is_along_rows(node):
                found.append(tuple(below is not None for below in given))
    return tuple(found)


def _is_along_rows(node: Node) -> bool:
    (dim,) = saved_numbers(node, "dim")
    return dim % len(output_shape(node)) == 0
