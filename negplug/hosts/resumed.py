"""Whether a script goes on with an earlier run, told by an optimizer whose state it loads.

A plain loop saves the host's objects, and these do not know of a sampler's memory. Weights alone
may come from anywhere; the state of an optimizer comes from a run. One that is empty does not:
Accelerator.prepare() loads every new optimizer's own state into it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

_loaded = False


def is_resumed() -> bool:
    """Return whether an optimizer's state was loaded in this process, since this was imported.

    That of SGD without momentum is always empty, so it tells nothing.
    """
    return _loaded


def _noting(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def noting(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        global _loaded
        result = load(self, *args, **kwargs)
        _loaded = _loaded or bool(self.state)
        return result

    return noting


Optimizer.load_state_dict = _noting(Optimizer.load_state_dict)  # type: ignore[method-assign]
