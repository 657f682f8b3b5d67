"""What a loss learns is one thing on all ranks: a temperature, the bias of ``sigmoid``.

DDP averages the gradients of what it wraps. A loss beside the wrapped model has its own on each
rank, which then drift apart. So what it has learned is compared after 1, 2, 4, 8 and 16 steps,
through the store and without waiting: whoever comes later finds what the first one said.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable

from torch import Tensor

from negplug.kernels.distributed import rank
from negplug.kernels.meeting import first_said

_RELATIVE = 1e-5  # far above what the order of a sum does, far below a step's difference

_comparisons = itertools.count()


def is_due(step: int) -> bool:
    """Return whether what was learned is compared in the training step of this number."""
    return step in (1, 2, 4, 8, 16)


def insist_on_same_learned(step: int, parameters: Iterable[tuple[str, Tensor]]) -> None:
    """Compare the parameters of a loss with those of the rank that came first; reads the device.

    Args:
        step: Number of training steps done.
        parameters: Of this rank, by name.

    Raises:
        ValueError: If they differ; ranks that came before do not find it by themselves.
    """
    own = {name: float(value.detach().double().sum()) for name, value in parameters}
    if not own:
        return
    said = json.dumps([rank(), own])
    topic = f"comparison {next(_comparisons)} of {sorted(own)} after {step} steps"
    other, theirs = json.loads(first_said(topic, said))
    for name, value in own.items():
        diverged = math.isnan(value) and math.isnan(theirs[name])  # of which others tell
        near = math.isclose(value, theirs[name], rel_tol=_RELATIVE, abs_tol=_RELATIVE)
        if not (near or diverged):
            raise ValueError(
                f"the ranks have learned different values of the loss's {name}: after step {step} "
                f"rank {other} has {theirs[name]:.6g}, rank {rank()} has {value:.6g}; wrap model "
                f"and loss in one DistributedDataParallel, or average the gradients of the loss's "
                f"parameters over the ranks"
            )
