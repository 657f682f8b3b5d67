"""How many draws come from the anchor's own stratum, and what is said where it is too small.

As with :mod:`negplug.samplers.common.availability`, what even a full batch cannot give any anchor
is an error, and a memory of past steps is waited for in silence while it grows. What
single strata lack is said once for each.
"""

from __future__ import annotations

import functools
import warnings

import torch
from torch import Tensor

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.ids import UNKNOWN
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.late import known, look, read

_PARTS = ("of the anchor's own stratum", "of other strata")


class Allocation:
    """How an anchor's draws are divided between its own stratum and the others.

    Args:
        num_negatives: M ≥ 1.
        same: The own stratum's share, in [0, 1].
        source: Where the draws come from.

    Attributes:
        sizes: Draws of the own stratum and of others; their sum is M.

    Raises:
        TypeError, ValueError: If ``same`` is no number in [0, 1].
    """

    def __init__(self, num_negatives: int, same: float, source: NegativeSampler) -> None:
        if not isinstance(same, (int, float)) or isinstance(same, bool):
            raise TypeError(f"stratified: same must be a number, got {same!r}")
        if not 0.0 <= same <= 1.0:
            raise ValueError(f"stratified: same must be in [0, 1], got {same}")
        own = round(same * num_negatives)
        self.sizes = own, num_negatives - own
        self._given = f"same={same} of num_negatives={num_negatives}"
        self._starts_empty = any(part.remembers for part in source.all_samplers())
        self._growing = self._starts_empty
        self._largest = 0
        self._met = [False, False]
        # What has been said of each part.
        self._named: tuple[set[int], set[int]] = (set(), set())
        self._names: list[Tensor | None] = [None, None]

    def check(
        self,
        available: tuple[Tensor, Tensor],
        strata: Tensor,
        batch: ContrastiveBatch,
        entries: int,
    ) -> None:
        """Say what the anchors of a batch lack.

        Args:
            available: ``[N]`` each: negatives inside the anchor's own stratum, and outside.
            strata: ``[N]``, the anchors' own.
            batch: Theirs; that of the first training step is taken for a full one.
            entries: How many rows the source offers, which counts where the numbers of those that
                serve cannot be known without waiting.

        Raises:
            ValueError: If a full batch offers no anchor its share of one of the parts.
        """
        reached = known((available[0] + available[1]).max())
        if self._is_growing(entries if reached is None else reached, batch.training):
            return
        for part, (asked, there) in enumerate(zip(self.sizes, available, strict=True)):
            most = (read if batch.first_step else known)(there.max())
            if most is not None and most >= asked:
                self._met[part] = True
            elif most is not None and self._must_be_met(part, batch):
                raise ValueError(
                    f"stratified: {self._given} asks for {asked} negatives {_PARTS[part]}, but no "
                    f"anchor of a full batch has more than {most}; ask for fewer, or enlarge the "
                    f"batch or the source"
                )
            short = there < asked
            named = self._names[part]
            if named is not None:
                short &= (strata[:, None] != named.to(strata.device)).all(1)
            say = functools.partial(self._warn, part, asked, there, short, strata)
            look("stratified: too few", short.any(), say)

    def _must_be_met(self, part: int, batch: ContrastiveBatch) -> bool:
        return batch.first_step and not self._met[part] and not self._starts_empty

    def _is_growing(self, reached: int, training: bool) -> bool:
        """Whether a memory is still filling up: it offers more than in any step before."""
        if training and self._starts_empty:
            self._growing = reached == 0 or reached > self._largest
            self._largest = max(reached, self._largest)
        return self._growing

    def _warn(self, part: int, asked: int, there: Tensor, short: Tensor, strata: Tensor) -> None:
        for stratum in sorted(set(strata[short].tolist()) - self._named[part]):
            self._named[part].add(stratum)
            fewest = int(there[short & (strata == stratum)].min())
            name = "unknown stratum (-1)" if stratum == UNKNOWN else f"stratum {stratum}"
            warnings.warn(
                f"stratified: an anchor of {name} has {fewest} of the {asked} negatives "
                f"{_PARTS[part]} that {self._given} asks for; all of them are used",
                stacklevel=2,
            )
        self._names[part] = torch.tensor(sorted(self._named[part]), device=strata.device)
