"""Asking a source for M negatives per anchor when it may have fewer.

If even a full batch cannot supply M, that is an error. A ragged last batch, an evaluation or a
batch rich in one label uses what there is, with a warning. A source that remembers past steps
starts with none and is waited for in silence, unless it can never hold M.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

from torch import Tensor

from negplug.contract.inputs import check_integer
from negplug.contract.negatives import Negatives
from negplug.contract.sampler import NegativeSampler
from negplug.kernels.late import free_to_read, read


class Availability:
    """What one sampler asks of its source.

    Args:
        name: The sampler's name, for messages.
        num_negatives: M ≥ 1.
        source: Where they come from.
        argument: What the sampler calls M.
        instead: What becomes of fewer, as a clause.

    Raises:
        TypeError, ValueError: If an argument cannot be used, or the source can never offer M.
    """

    def __init__(
        self,
        name: str,
        num_negatives: int,
        source: NegativeSampler,
        argument: str = "num_negatives",
        instead: str = "all of them are used",
    ) -> None:
        self.name = name
        self.num_negatives = check_integer(name, argument, num_negatives, 1)
        self._asked = f"{name}: {argument}={num_negatives}"
        self._instead = f"instead of {argument}={num_negatives}; {instead}"
        if not isinstance(source, NegativeSampler):
            raise TypeError(f"{name}: source must be a sampler, got {source!r}")
        self._starts_empty = any(part.remembers for part in source.all_samplers())
        self._met = False
        self.check_limit(source)

    def check_limit(self, source: NegativeSampler) -> None:
        """Raise ``ValueError`` if ``source`` can never offer M rows."""
        if source.most is not None and source.most < self.num_negatives:
            raise ValueError(
                f"{self._asked} is more than the {source.most} rows that {source} can ever hold; "
                f"lower it or enlarge the source"
            )

    def exceeded(
        self,
        offered: Sequence[Negatives],
        available: Tensor | Callable[[], Tensor],
        first_step: bool,
    ) -> bool:
        """Return whether any anchor may have more than M negatives; check that one has M.

        On the CPU, and in the first training step, the numbers are looked at. Elsewhere that would
        wait for the device, so what counts is how many entries there are.

        Args:
            offered: What the source offers.
            available: ``[N]``, how many of it serve each anchor, or a function that returns it,
                which is called only where the numbers are looked at.
            first_step: As for :meth:`check`.

        Raises:
            ValueError: As :meth:`check`.
        """
        most = None
        if first_step or free_to_read(offered[0].rows.ids.device):
            numbers = available if isinstance(available, Tensor) else available()
            most = read(numbers.max())
        counted = most is not None
        if most is None:
            most = sum(part.width for part in offered)
        self.check(most, first_step, counted)
        return bool(most > self.num_negatives)

    def check(self, most: int, first_step: bool, counted: bool = True) -> None:
        """Raise or warn if no anchor of a batch has M negatives where one should.

        Args:
            most: The largest number of negatives that the source offers an anchor.
            first_step: Whether this is the first training step, with a full batch.
            counted: Whether it is known that one has so many; otherwise none has more.

        Raises:
            ValueError: If a full batch has fewer than M for every anchor.
        """
        if most >= self.num_negatives:
            self._met = True
        elif first_step and not self._met and not self._starts_empty:
            raise ValueError(
                f"{self._asked} is more than the {most} negatives that an anchor has in a full "
                f"batch; lower it or enlarge the batch"
            )
        elif self._met or not self._starts_empty:
            number = f"{most}" if counted else f"at most {most}"
            warnings.warn(
                f"{self.name}: a ragged batch offers {number} negatives {self._instead}",
                stacklevel=2,
            )
