"""Mean and standard deviation over seeds, as numbers and as text."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation; zero of one value, which has no spread to show."""
    if len(values) < 2:
        return 0.0
    center = mean(values)
    return math.sqrt(math.fsum((value - center) ** 2 for value in values) / (len(values) - 1))


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return ``0.550 ± 0.071``: two digits of the deviation, as many decimals of the mean.

    Without a spread: four digits of the mean.
    """
    if not values:
        return "-"
    center, spread = mean(values), deviation(values)
    if len(values) == 1 or not math.isfinite(spread):
        return f"{center:.{_decimals(center, 4)}f}"
    if spread == 0:
        return f"{center:.{_decimals(center, 4)}f} ± 0"
    decimals = _decimals(spread, 2)
    return f"{center:.{decimals}f} ± {spread:.{decimals}f}"


def count(value: float) -> str:
    """Return ``10`` or, of a mean, ``9.8``."""
    return f"{value:.1f}".removesuffix(".0") if math.isfinite(value) else "-"


def _decimals(value: float, digits: int) -> int:
    """How many decimals show a value with so many significant digits, within reason."""
    if value == 0 or not math.isfinite(value):
        return 0
    return min(max(digits - 1 - math.floor(math.log10(abs(value))), 0), 8)
