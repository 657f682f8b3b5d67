"""What a canary of torch fails with."""

from __future__ import annotations

import pytest

from negplug.kernels.torch_private import changed


def require(holds: bool, what: str, reader: str) -> None:
    """Fail with the sentence that the library itself would say."""
    if not holds:
        pytest.fail(str(changed(what, reader)), pytrace=False)
