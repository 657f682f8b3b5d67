"""Scripts of a folder, imported as they import each other."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def on_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a folder first on the path; others' modules of such names come back afterwards."""
    own = {path.stem for path in folder.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in own & set(sys.modules)}
    monkeypatch.syspath_prepend(folder)
    yield
    for name in own & set(sys.modules):
        del sys.modules[name]
    sys.modules.update(others)
