"""How often a treated loss was called in this process.

`negplug run` exits non-zero when the answer is never: a recipe that trained without its treated
loss is no treated recipe. Kept free of torch so that the command line can ask cheaply.
"""

from __future__ import annotations

_calls = 0


def record_call() -> None:
    """Count one call of a treated loss."""
    global _calls
    _calls += 1


def calls() -> int:
    """Return the number of calls of treated losses so far in this process."""
    return _calls
