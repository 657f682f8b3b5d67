"""Numba's cache on disk may be full, gone or damaged: then a process compiles for itself."""

from __future__ import annotations

import shutil
import warnings

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


@pytest.mark.parametrize("lost", ["FunctionCache", "FunctionCache.save_overload", "_cache"])
def test_a_numba_without_such_a_cache_is_named_once_and_compiles(made, monkeypatch, lost):
    from numba.core import caching

    from negplug.kernels import numba_private

    if lost == "FunctionCache":
        monkeypatch.delattr(caching, lost)
    elif lost == "_cache":
        plain = numba.njit
        monkeypatch.setattr(numba, "njit", lambda **options: lambda f: Later(plain(**options)(f)))
    else:
        monkeypatch.setattr(caching, "FunctionCache", type("Cache", (), {"load_overload": id}))
    numba_private._warn_once.cache_clear()
    with pytest.warns(UserWarning, match=f"numba {numba.__version__}: .*has no ") as warned:
        loop, folder = made()
    assert len(warned) == 1
    assert made()[0](3) == loop(3) == 6
    assert not list(folder.rglob("*.nbi"))


def test_the_installed_numba_has_all_that_is_taken_from_it(made):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from negplug.kernels import numba_private

        numba_private._warn_once.cache_clear()
        assert made()[0](3) == 6


class Later:
    """A compiled function that keeps nothing."""

    __slots__ = ("loop",)

    def __init__(self, loop):
        self.loop = loop

    def __call__(self, x):
        return self.loop(x)
