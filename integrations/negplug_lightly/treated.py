"""What takes the place of a criterion's ``forward``, and what it needs to know of the criterion."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn

from negplug.contract.adapter import Contrast, Metadata
from negplug.contract.batch import ContrastiveBatch
from negplug.contract.objective import Objective
from negplug.hosts.cover import Cover
from negplug.kernels.torch_private import outside_graphs
from negplug_lightly import criteria


class TreatedForward(Cover):
    """A criterion's ``forward``, rerouted. A plain object, so that the model stays picklable."""

    def __init__(self, criterion: nn.Module, known: Criterion, contrast: Contrast) -> None:
        self.criterion: Any = criterion
        self.known = known
        self.contrast = contrast

    def covered(self) -> Any:
        """Return the criterion's own ``forward``, or what stood in its place."""
        return self.before or types.MethodType(type(self.criterion).forward, self.criterion)

    @outside_graphs  # the tracers of torch 2.6 and 2.7 fail at the batch
    def __call__(self, out0: Tensor, out1: Tensor) -> Tensor:
        """Return the loss of the projections ``[B, d]`` of two views."""
        own = functools.partial(self.covered(), out0, out1)
        treated = functools.partial(self._treated, out0, out1)
        return self.contrast.returned(own, treated, self.criterion.training)

    def _treated(self, out0: Tensor, out1: Tensor) -> Tensor:
        with self.contrast.together(out0, out1):
            batch = self.known.batch(self.criterion, self.contrast.metadata, out0, out1)
            form = self.known.form(self.criterion)
            temperature = self.known.temperature(self.criterion, batch)
            return self.contrast(batch, objective=form, temperature=temperature)


class TreatedForwardOfZ(TreatedForward):
    """The same for a criterion that calls its arguments z0 and z1."""

    def __call__(self, z0: Tensor, z1: Tensor) -> Tensor:
        """Return the treated loss of the projections ``[B, d]`` of two views."""
        return super().__call__(z0, z1)


class Criterion(NamedTuple):
    """A criterion's own terms.

    Attributes:
        batch: How it forms its batch.
        form: Which objective it is; raises if negplug has none for it as configured.
        methods: The methods of its class that make up its loss.
        attributes: What the adapter reads from it.
        note: For ``negplug doctor``.
        temperature: What it divides similarities by, given its batch.
        treated: Its ``forward`` once treated; has the parameters that the host's must have.
    """

    batch: Callable[[Any, Metadata, Tensor, Tensor], ContrastiveBatch]
    form: Callable[[Any], Objective]
    methods: tuple[str, ...]
    attributes: tuple[str, ...]
    note: str
    temperature: Callable[[Any, ContrastiveBatch], float] = criteria.constant
    treated: type[TreatedForward] = TreatedForward
