"""Operations that read a value of a device, or whose shape depends on values."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

READING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"),
    *("_unique2", "unique_dim", "unique_consecutive"),
}


class Reads(TorchDispatchMode):
    """Collects the names of such operations."""

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        by_mask = name in ("index", "index_put", "index_put_") and any(
            places is not None and places.dtype in (torch.bool, torch.uint8) for places in args[1]
        )
        if name in READING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))
