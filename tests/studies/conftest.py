"""The studies are scripts: their modules are found while a test runs, by the folders' names."""

import contextlib

import pytest
import scripts

FOLDERS = ("recipes", "speed", "studies/shared", "studies/emc2", "studies/less_is_more")


@pytest.fixture
def study(monkeypatch):
    """Have a study's folder first on the path, with what it takes from the others behind it."""
    with contextlib.ExitStack() as stack:

        def enter(name):
            for folder in (*FOLDERS[:3], f"studies/{name}"):
                around = contextlib.contextmanager(scripts.on_the_path)
                stack.enter_context(around(scripts.BENCHMARKS / folder, monkeypatch))

        yield enter
