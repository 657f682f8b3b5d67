"""What a training step changes in its model beside gradients, so that micro-batches do it once.

A step that updates a momentum encoder, counts or normalises prototypes does so before each
micro-batch, from the state before the logical batch, and so does it once. Running statistics of
normalisation layers alone go on from micro-batch to micro-batch, and so does what is inside of
containers and metrics. Other state that depends on the rows of a batch cannot be told apart from
a mistake, so a model that has some is refused (:func:`dependent`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from negplug.hosts.attributes import Contents, holders, put_back

_PLAIN = (bool, int, float, str, type(None))


class ModelState:
    """The state of a model before a logical batch.

    Args:
        model: The model; a copy of its parameters and buffers is made.
        losses: Contrastive losses. What they keep is left alone, in the model too, for they are
            called once for the whole logical batch.
    """

    def __init__(self, model: nn.Module, losses: Iterable[object]) -> None:
        self._model = model
        own = [loss for loss in losses if isinstance(loss, nn.Module)]
        self._apart = {module for loss in own for module in loss.modules()}
        self._modules = [module for module in model.modules() if module not in self._apart]
        self._attributes = [dict(vars(module)) for module in self._modules]
        self._contents = [Contents(held) for own in self._attributes for held in holders(own)]
        self._buffers = [dict(module._buffers) for module in self._modules]
        running = {id(b) for m in self._modules if isinstance(m, _NormBase) for b in m.buffers()}
        tensors = self._present()
        self._copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self._tensors = tensors
        self._running = {name for name, tensor in tensors.items() if id(tensor) in running}

    def restore(self) -> None:
        """Put everything back."""
        self._write(self._tensors)
        for module, own, buffers in zip(
            self._modules, self._attributes, self._buffers, strict=True
        ):
            put_back(module._buffers, buffers)
            put_back(vars(module), own)
        with torch.no_grad():
            for held in self._contents:
                held.put_back()

    def rewind(self) -> None:
        """Put back what the next micro-batch changes as the one before it did."""
        self._write(self._tensors.keys() - self._running)
        for module, own, buffers in zip(
            self._modules, self._attributes, self._buffers, strict=True
        ):
            if not isinstance(module, _NormBase):
                put_back(module._buffers, buffers)
            plain = {name: value for name, value in own.items() if isinstance(value, _PLAIN)}
            vars(module).update(plain)

    def changed(self) -> dict[str, Tensor]:
        """Return copies of what was changed, but for running statistics. Waits for the device."""
        return {
            name: tensor.detach().clone()
            for name, tensor in self._present().items()
            if name not in self._running and not _same(tensor.detach(), self._copies.get(name))
        }

    def _present(self) -> dict[str, Tensor]:
        """Return the parameters and buffers that the model has now, by name."""
        every = [*self._model.named_parameters(), *self._model.named_buffers()]
        apart = {
            id(t) for m in self._apart for t in (*m._parameters.values(), *m._buffers.values())
        }
        return {name: tensor for name, tensor in every if id(tensor) not in apart}

    def _write(self, names: Any) -> None:
        with torch.no_grad():
            for name in names:
                self._tensors[name].copy_(self._copies[name])


def dependent(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Return what two micro-batches have changed in different ways, by name."""
    return [n for n in {**one, **other} if n not in one or not _same(one[n], other.get(n))]


def _same(tensor: Tensor, other: Tensor | None) -> bool:
    if other is None or tensor.shape != other.shape:
        return False
    return bool(((tensor == other) | ((tensor != tensor) & (other != other))).all())
