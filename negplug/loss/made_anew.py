"""A loss that is made anew in every step, and with it what its sampler remembers.

Each such loss makes one step and is gone, so its queue never holds a key. It is known by the loss
of the same expressions that comes next and trains with the same optimizer. That is no error: a cell
of a notebook may be run again.
"""

from __future__ import annotations

import warnings
import weakref

from torch import nn
from torch.optim import Optimizer

from negplug.loss.discarded import Passes

# Of losses that are gone after a single step, by their expressions.
_gone: dict[str, weakref.WeakSet[Optimizer]] = {}


def warn_of_one_step(loss_fn: nn.Module, text: str, passes: Passes) -> None:
    """Warn of a loss in its first step if it takes the place of one that made no second step.

    Args:
        loss_fn: The loss, which remembers something across steps.
        text: Its expressions.
        passes: The backward passes of its present step.
    """
    weakref.finalize(loss_fn, _note, text, passes).atexit = False
    before = _gone.pop(text, None)
    if before and not before.isdisjoint(passes.optimizers):
        warnings.warn(
            f"a loss with {text} is made anew after a single step, and what it remembers is gone "
            f"with the one before; in a loop make it once, before the first step",
            stacklevel=2,
        )


def _note(text: str, passes: Passes) -> None:
    if passes.first and passes.open:
        _gone[text] = passes.optimizers
