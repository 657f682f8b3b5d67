"""The recipes are scripts: their modules are found while a test runs, under names of their own."""

import pytest
import scripts

RECIPES = scripts.BENCHMARKS / "recipes"


@pytest.fixture(autouse=True)
def _recipes_on_the_path(monkeypatch):
    yield from scripts.on_the_path(RECIPES, monkeypatch)
