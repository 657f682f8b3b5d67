"""How much memory tensors hold at most, and which operations were asked for, in their order."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Watches what operations allocate, until it ends.

    Attributes:
        peak: Bytes that storages allocated in it have held at most, all together.
        names: Of the operations.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self.names = []
        self._live = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {each.untyped_storage()._cdata for each in _tensors((args, kwargs))}
        found = func(*args, **(kwargs or {}))
        self.names.append(func._schema.name.split("::")[1])
        for tensor in _tensors(found):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._live:
                self._live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self._live.pop, storage._cdata, None)
        self.peak = max(self.peak, sum(self._live.values()))
        return found


def _tensors(values):
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]
