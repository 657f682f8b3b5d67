"""The M nearest of a pool to any of several rows of each anchor: of its views, say.

A row's score is its largest similarity with one of them,

    q_ij = max_{s ∈ S_i} ⟨s, k_j⟩,

and the M of {j: id_j ≠ id_i} with the largest scores are wanted, of equal ones that of the smaller
column first.

- :func:`merged_columns`: the M nearest to each of the rows, among which are those of the maximum;
  where a launch of the nearest is all that a device is asked;
- :func:`joint_columns`: the maximum of each tile is sorted once, on the CPU;
- :func:`sorted_scores`: a sort of ``[N, K]``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, triton_refusal
from negplug.kernels.chosen import chosen_similarities
from negplug.kernels.late import free_to_read
from negplug.kernels.nearest import nearest_columns
from negplug.kernels.nearest.tiled import largest, streamed

__all__ = ["NEAREST_OF_VIEWS", "largest_similarities", "nearest_of_views"]


def largest_similarities(support: Sequence[Tensor], pool: Tensor, columns: Tensor) -> Tensor:
    """Return the scores of chosen rows of the pool, ``[N, M]``; see :func:`nearest_of_views`."""
    scores = chosen_similarities(support[0], pool, columns)
    for rows in support[1:]:
        scores = torch.maximum(scores, chosen_similarities(rows, pool, columns))
    return scores


def merged_columns(
    support: Sequence[Tensor],
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return scores and columns; see :func:`nearest_of_views`."""
    ids = anchor_ids, pool_ids
    found = [nearest_columns(rows, pool, *ids, count, mask) for rows in support]
    beyond = len(pool)
    columns = torch.cat([c if there is None else c.where(there, beyond) for c, there in found], 1)
    # Ascending, so that each is listed once, and of equal scores the smaller column comes first.
    columns = columns.sort(1).values
    there = columns < beyond
    there[:, 1:] &= columns[:, 1:] != columns[:, :-1]
    columns = columns.where(there, 0)
    scores = largest_similarities(support, pool, columns).masked_fill_(~there, -torch.inf)
    scores, places = largest(scores, count)
    return scores, columns.gather(1, places)


def joint_columns(
    support: Sequence[Tensor],
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return scores and columns; see :func:`nearest_of_views`."""
    find = streamed if free_to_read(pool.device) else merged_columns
    return find(support, pool, anchor_ids, pool_ids, count, mask)


def sorted_scores(
    support: Sequence[Tensor],
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Return scores and columns; see :func:`nearest_of_views`."""
    serving = (anchor_ids[:, None] != pool_ids) | (anchor_ids[:, None] == -1)
    if mask is not None:
        serving = serving & mask
    scores = torch.stack([rows @ pool.T for rows in support]).amax(0)
    scores, columns = scores.where(serving, -torch.inf).sort(dim=1, descending=True, stable=True)
    return scores[:, :count], columns[:, :count]


NEAREST_OF_VIEWS: Operation[None] = Operation(
    "the nearest of a pool to several views",
    None,
    (
        Kernel("triton", lambda: merged_columns, triton_refusal),
        Kernel("torch", lambda: joint_columns),
        Kernel("reference", lambda: sorted_scores),
    ),
)


def nearest_of_views(
    support: Sequence[Tensor],
    pool: Tensor,
    anchor_ids: Tensor,
    pool_ids: Tensor,
    count: int,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the largest scores of each anchor, falling, and the columns that they are of.

    Args:
        support: ``[N, d]`` each, one or more; row i of each is one of S_i. Without gradient.
        pool: ``[K, d]``, likewise.
        anchor_ids: ``[N]`` int64. -1 is unknown, and such an anchor excludes no row.
        pool_ids: ``[K]`` int64.
        count: M, from 1 to K.
        mask: ``[N, K]`` bool, True where a row of the pool may serve.

    Returns:
        Scores ``[N, M]``, -inf where an anchor has fewer, and columns ``[N, M]`` int64, any there.
    """
    kernel = NEAREST_OF_VIEWS.kernel(pool.device, None)
    found: tuple[Tensor, Tensor] = kernel(support, pool, anchor_ids, pool_ids, count, mask)
    return found
