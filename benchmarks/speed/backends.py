"""Steps whose kernels come from one of negplug's backends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from harness import Setup, Step

_VARIABLE = "NEGPLUG_BACKEND"

BACKENDS = {
    "cpu": {"numba": "numba", "torch": "torch"},
    "cuda": {"triton": "triton", "torch": "torch"},
}
"""Type of device → backend → the module that it needs."""


@contextlib.contextmanager
def forced(backend: str) -> Iterator[None]:
    """Let ``backend`` compute what is called inside; negplug reads the variable at every call."""
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = backend
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VARIABLE]
        else:
            os.environ[_VARIABLE] = before


def under(backend: str, setup: Setup, batch_size: int, device: torch.device) -> Step:
    """Return the step of ``setup`` under a backend. A ``functools.partial`` of it is a setup."""
    step = setup(batch_size, device)

    def forced_step() -> None:
        with forced(backend):
            step()

    return forced_step
