"""Numba's cache on disk may be full, gone or damaged: then a process compiles for itself."""

from __future__ import annotations

import shutil

import pytest

numba = pytest.importorskip("numba")


def doubled(x):
    return 2 * x


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes the loop anew, with a folder for its cache, and returns both."""
    from negplug.kernels.compiling import compiled

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return lambda: (compiled()(doubled), tmp_path / "cache")


def test_a_cache_that_cannot_be_written_to_stops_no_loop(made):
    loop, folder = made()
    shutil.rmtree(folder)
    folder.write_text("")  # as full as a disk can be
    assert loop(3) == 6


def test_a_cache_that_was_cut_off_stops_no_loop(made):
    loop, folder = made()
    assert loop(3) == 6
    (index,) = folder.rglob("*.nbi")  # and it is kept
    index.write_bytes(index.read_bytes()[:40])
    again, _ = made()
    assert again(3) == 6
