"""Arithmetic of sizes, on the host.

Triton has the same for its programs; called outside of them, its own take as long as a launch.
"""

from __future__ import annotations


def cdiv(number: int, divisor: int) -> int:
    """Return ⌈number / divisor⌉."""
    return -(-number // divisor)


def power_of_2(number: int) -> int:
    """Return the least power of two that is not below ``number`` ≥ 1; of 0 it is 1."""
    return 1 << max(number - 1, 0).bit_length()
