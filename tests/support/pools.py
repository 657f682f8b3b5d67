"""Short ways to look at what a sampler gave."""

from negplug import Columns, Mixtures, Negatives


def only(pools):
    """Return the negatives of the one pool that a sampler gave."""
    if isinstance(pools, Negatives):
        return pools
    (part,) = pools
    return part


def columns_of(part):
    """Return the columns of a choice, ``[N, M]``; None for a whole pool."""
    if isinstance(part.choice, Mixtures):
        return part.choice.first
    return part.choice.columns if isinstance(part.choice, Columns) else None
