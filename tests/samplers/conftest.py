"""What tests of several samplers need around them."""

from __future__ import annotations

import pytest

from negplug.kernels.pool import tiled


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles so small that every pool of these tests takes several, the last ones ragged."""
    monkeypatch.setattr(tiled, "_ROWS", 5)
    monkeypatch.setattr(tiled, "_COLUMNS", 4)
