"""``balanced(by=…)``: every batch holds the classes in the proportions of the data set.

Systematic sampling (Cochran, "Sampling techniques", 3rd ed. 1977, chapter 8), of each class on its
own. With u_c uniform in [0, 1), the j-th of the n_c samples of class c, in random order, stands at

    (j + u_c) / n_c,     j = 0, …, n_c − 1,

and all samples are ordered by where they stand. A class is so spread evenly over the epoch: over
its batches, and over the parts of a batch that ranks have. Samples of a small group, such as one
patient's, are as far from each other as can be, so that few of them meet as false negatives.

Samples of unknown class (-1) are spread at random.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from negplug.contract.composer import Composer, Epoch
from negplug.contract.hookspecs import ComposerSpec, hookimpl
from negplug.contract.ids import UNKNOWN
from negplug.contract.inputs import check_flag
from negplug.samplers.common.metadata_given import check_classes, check_column, read_table
from negplug.samplers.common.metadata_table import MetadataTable

_WHAT = "the path of a .npy file, a tensor of integers"


class Balanced(Composer):
    """Batches with the classes of the data set, each in its proportion.

    Args:
        by: The classes: the path of a ``.npy`` file of integers ``[n]``, one per data set index,
            such a tensor, or the name of a column of the data set, whose values are integers or
            strings. -1 and None are unknown.
        parent: Whether the file or tensor is of the data set that the training ``Subset`` was taken
            from.

    Raises:
        TypeError, ValueError: If an argument cannot be used.
    """

    def __init__(self, by: str | Tensor, parent: bool = False) -> None:
        check_flag("balanced", "parent", parent)
        if isinstance(by, Tensor) or (isinstance(by, str) and by.endswith(".npy")):
            table = check_classes(*read_table("balanced", "by", by), kind="classes")
            self.classes = MetadataTable("balanced", table, parent)
        elif parent:
            raise ValueError(f"balanced: parent=True is said of a file or a tensor, got by={by!r}")
        else:
            self.classes = MetadataTable("balanced", check_column("balanced", by, _WHAT))

    @property
    def by(self) -> str:
        """What tells the classes from others."""
        return str(self.classes)

    def compose(self, epoch: Epoch) -> Tensor:
        """Return the samples, each class spread evenly."""
        classes = self.classes.at(epoch.samples, epoch.dataset)
        unknown = classes == UNKNOWN
        # Each of unknown class is a class of its own.
        alone = classes.max() + 1 + torch.arange(len(classes), device=classes.device)
        own = classes.where(~unknown, alone)
        _, number, sizes = torch.unique(own, return_inverse=True, return_counts=True)
        by_class = number.argsort(stable=True)  # the samples come in random order
        first = sizes.cumsum(0) - sizes
        rank = torch.empty_like(number)
        rank[by_class] = torch.arange(len(number), device=number.device) - first[number[by_class]]
        offset = epoch.random.uniform(len(sizes))
        places: Tensor = (rank + offset[number]) / sizes[number]
        return places.argsort(stable=True)


@hookimpl
def negplug_composers() -> Iterable[ComposerSpec]:
    """Offer ``balanced``."""
    yield ComposerSpec(
        "balanced",
        Balanced,
        "batches with the classes of the data set in their proportions",
        "Cochran 1977, Sampling techniques",
    )
