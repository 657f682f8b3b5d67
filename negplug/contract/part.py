"""What samplers, objectives and composers have in common: where they come from, when they change.

What a training step saw is held back until its backward pass is over: writing into a pool before
would change what autograd saved.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import nn

from negplug.contract.provenance import blaming
from negplug.kernels.precision import not_inference

if TYPE_CHECKING:
    from negplug.contract.provenance import PluginInfo


class Expressed:
    """What an expression of a plugin's is built into.

    Attributes:
        expression: The expression it was built from.
        provider: The plugin it came from, blamed for its errors.
    """

    expression: str = ""
    provider: PluginInfo | None = None

    def __str__(self) -> str:
        """Return the expression, or the class and its arguments without one."""
        if self.expression:
            return self.expression
        given = (name for name in inspect.signature(type(self)).parameters if hasattr(self, name))
        arguments = ", ".join(f"{name}={getattr(self, name)}" for name in given)
        return f"{type(self).__name__}({arguments})"


class Part(Expressed, nn.Module):
    """A sampler or an objective.

    Attributes:
        wants_indexes: Whether it uses the data set index of each sample, so that a recipe which
            does not hand them over is watched for them. If no part does, a host's rows are told
            apart by their place in the batch.
        wants_labels: Whether it uses the label of each sample, so that a recipe which moves rows
            away from the labels of its loader's batch is watched for.
    """

    wants_indexes: bool = False
    wants_labels: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._pending: list[Any] = []

    def update(self, seen: Any) -> None:
        """Take in a training step once its backward pass is over; by default nothing is remembered.

        Args:
            seen: What was held of the step, detached.
        """

    @property
    def updates(self) -> bool:
        """Whether it changes with training, not counting the samplers inside."""
        return type(self).update is not Part.update

    def hold(self, seen: Any) -> None:
        """Keep what a training step saw until its backward pass is over."""
        self._pending.append(seen)

    def release(self) -> list[Any]:
        """Return what is held here, and hold it no longer."""
        held, self._pending = self._pending, []
        return held

    def take_in(self, seen: Any) -> None:
        """Update with what was held of a step."""
        with blaming(self.provider, "update()"), not_inference():
            self.update(seen)

    def flush(self) -> None:
        """Take in what is held here and in the parts inside."""
        for part in self.parts_inside():
            for seen in part.release():
                part.take_in(seen)

    def parts_inside(self) -> Iterator[Part]:
        """Yield this part and every sampler and objective inside it, each once."""
        for module in self.modules():
            if isinstance(module, Part):
                yield module
