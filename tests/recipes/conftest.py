"""The recipes are scripts: their modules are found while a test runs, under names of their own."""

import sys
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "benchmarks" / "recipes"


@pytest.fixture(autouse=True)
def _recipes_on_the_path(monkeypatch):
    # Others may have modules of such names, which come back afterwards.
    own = {path.stem for path in RECIPES.glob("*.py")}
    others = {name: sys.modules.pop(name) for name in own & set(sys.modules)}
    monkeypatch.syspath_prepend(RECIPES)
    yield
    for name in own & set(sys.modules):
        del sys.modules[name]
    sys.modules.update(others)
