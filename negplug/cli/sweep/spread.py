"""Mean and standard deviation over seeds, as numbers and as text.

Of any numbers: what diverged logs infinities, and numbers whose sum or squares no float holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# From here on a mean is shown with its exponent.
_LARGE = 1e12


def mean(values: Sequence[float]) -> float:
    """Return the mean; NaN of nothing, and of infinities of both signs."""
    if not values:
        return math.nan
    try:
        return math.fsum(values) / len(values)
    except OverflowError:  # of the sum, not of the mean
        return math.fsum(value / len(values) for value in values)
    except ValueError:
        return math.nan


def deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation; zero of one value, which has no spread to show.

    NaN if the mean is not finite.
    """
    if len(values) < 2:
        return 0.0
    center = mean(values)
    if not math.isfinite(center):
        return math.nan
    return math.hypot(*(value - center for value in values)) / math.sqrt(len(values) - 1)


def mean_and_deviation(values: Sequence[float]) -> str:
    """Return ``0.550 ± 0.071``: two digits of the deviation, as many decimals of the mean.

    Without a spread: four digits of the mean.
    """
    if not values:
        return "-"
    center, spread = mean(values), deviation(values)
    if math.isfinite(spread) and max(abs(center), spread) >= _LARGE:
        return f"{center:.4g}" if len(values) == 1 else f"{center:.4g} ± {spread:.2g}"
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
