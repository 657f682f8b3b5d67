"""Running a recipe's training step for what it computes, without what it does.

A step that is run a second time must leave no trace: no metrics, no statistics, no attributes.
What cannot be undone, a write into a parameter or a buffer, is found out and refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from negplug.hosts.attributes import Contents, holders, mark, put_back


@contextlib.contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Let ``model`` compute without leaving a trace.

    Nothing is logged or printed, by Lightning modules inside ``model`` either. BatchNorm
    normalises by its running statistics, because a single image has none of its own, and leaves
    them alone; Dropout and all else keep their mode. Attributes and buffers that are assigned
    inside are put back on leaving, and so is what is inside attributes that are containers or
    tensors: metrics gather their samples there.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    contents = [Contents(value) for attribute in attributes for value in holders(attribute)]
    buffers = [dict(module._buffers) for module in modules]
    try:
        for module in modules:
            if hasattr(module, "training_step"):
                vars(module).update(log=_nothing, log_dict=_nothing, print=_nothing)
            if isinstance(module, _BatchNorm):
                module.training = False
                # Copies, for the backward pass reads them again: a batch of training in between
                # would change them, which torch neither counts nor notices.
                module._buffers.update(_copied_statistics(module))
        yield
    finally:
        for module, attribute, buffer in zip(modules, attributes, buffers, strict=True):
            put_back(module._buffers, buffer)
            put_back(vars(module), attribute)
        for content in contents:
            content.put_back()


class Writes:
    """Finds out whether parameters or buffers of a model are written to, since it was made.

    Args:
        model: The model.
        by_value: Whether to compare values too, on copies of all of them. The counters that torch
            keeps miss writes through ``.data`` or without autograd.
    """

    def __init__(self, model: nn.Module, *, by_value: bool) -> None:
        self._tensors = dict([*model.named_parameters(), *model.named_buffers()])
        self._marks = {name: mark(tensor) for name, tensor in self._tensors.items()}
        copied = self._tensors if by_value else {}
        self._copies = {name: tensor.detach().clone() for name, tensor in copied.items()}

    def undo(self) -> list[str]:
        """Return the names of what was written to; values that were copied are put back."""
        written = []
        for name, tensor in self._tensors.items():
            before = self._copies.get(name)
            changed = before is not None and not _same_values(tensor.detach(), before)
            # A write of equal values is one too: the next may be of others.
            if changed or mark(tensor) != self._marks[name]:
                written.append(name)
            if before is not None and changed:
                tensor.data.copy_(before)
        return written


def _nothing(*_: Any, **__: Any) -> None:
    """Take the place of ``log``, ``log_dict`` and ``print``."""


def _copied_statistics(norm: _BatchNorm) -> dict[str, Tensor]:
    names = ("running_mean", "running_var")
    own = {name: norm._buffers[name] for name in names}
    return {name: value.clone() for name, value in own.items() if value is not None}


def _same_values(tensor: Tensor, before: Tensor) -> bool:
    same = torch.equal(tensor, before)
    return same or bool(((tensor == before) | (tensor.isnan() & before.isnan())).all())
