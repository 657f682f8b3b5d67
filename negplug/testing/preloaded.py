"""Imported by the fork server: what each rank would load in its first step, for seconds.

Nothing is computed here, for what has computed with gradients cannot be forked on every machine.
"""

import torch._dynamo  # noqa: F401

import negplug.testing  # noqa: F401

try:
    import numba
except ImportError:
    pass
else:
    # numba imports most of itself when it first compiles something.
    numba.njit(lambda: None)()
