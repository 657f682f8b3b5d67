"""A pytest plugin: every contrastive criterion that a test of Lightly's makes is treated.

Each with ``in_batch()``, or with ``queue()`` if it has a memory bank; and each of its calls is a
step, as Lightly's tests mean it, though they run no backward pass.
"""

from __future__ import annotations

import functools

from lightly import loss

from negplug import inject

CRITERIA = ("NTXentLoss", "DCLLoss", "DCLWLoss", "MACLLoss", "DirectCLRLoss")


def pytest_configure(config):
    for name in CRITERIA:
        kind = getattr(loss, name)
        kind.__init__ = treated(kind, kind.__init__)


def treated(kind, theirs):
    @functools.wraps(theirs)
    def __init__(self, *args, **kwargs):
        theirs(self, *args, **kwargs)
        if type(self) is kind:  # and not yet its base
            bank = getattr(self, "memory_bank", None)
            handle = inject(self, "queue()" if bank is not None and bank.size[0] else "in_batch()")
            self.register_forward_hook(lambda *_: handle.end_step())

    return __init__
