"""What compiled loops over rows have in common.

Import this module only where numba is installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from negplug.kernels.compiling import compiled


# Of a sum, the compiler may choose the order, once and for all.
@compiled(fastmath={"reassoc", "contract"})
def product(one: Any, other: Any) -> Any:
    """Return ⟨one, other⟩ of two rows ``[d]``, summed in float64."""
    total = 0.0
    for k in range(len(one)):
        total += np.float64(one[k]) * np.float64(other[k])
    return total
