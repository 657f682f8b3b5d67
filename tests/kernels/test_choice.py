"""Which kernel serves: chosen by the question, forced, or absent."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings

import pytest
import torch
from device import DEVICE
from kernel_tables import NUMBA, compiled_similarities, needs_numba, pairs
from typer.testing import CliRunner

from negplug.kernels import choice
from negplug.kernels.chain import CHAINS
from negplug.kernels.choice import numba_refusal
from negplug.kernels.chosen import CHOSEN, Sizes, chosen_similarities
from negplug.kernels.chosen.bags import bag_similarities
from negplug.kernels.chosen.dense import dense_similarities
from negplug.kernels.chosen.reference import gathered_similarities
from negplug.kernels.pool import POOL, pool_logsumexp
from negplug.kernels.pool.reference import full_logsumexp
from negplug.kernels.random import DISTINCT, distinct_integers
from negplug.kernels.random.floyd import floyd_integers
from negplug.kernels.table import READING
from negplug.kernels.table.host import entries_on_host
from negplug.kernels.table.indexing import indexed_entries

CPU, ELSEWHERE = torch.device("cpu"), torch.device("meta")


def test_the_question_chooses(monkeypatch):
    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    few, half = Sizes(64, 4, 4096), Sizes(64, 2048, 4096)
    for sizes in (few, Sizes(16, 8, 16)):
        assert CHOSEN.backend(CPU, sizes) == ("numba" if NUMBA else "torch")
    assert CHOSEN.kernel(CPU, half) is dense_similarities
    assert CHOSEN.kernel(ELSEWHERE, half) is bag_similarities
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")
    assert CHOSEN.kernel(CPU, few) is bag_similarities
    assert CHOSEN.kernel(CPU, half) is dense_similarities
    assert DISTINCT.kernel(CPU, None) is floyd_integers
    monkeypatch.setenv("NEGPLUG_BACKEND", "reference")
    for operation in (CHOSEN, POOL, CHAINS):
        assert operation.backend(CPU, operation.typical) == "reference"
    a, k, chosen, _, _ = pairs(6, 3, 40, 16, torch.float64)
    assert torch.equal(chosen_similarities(a, k, chosen), gathered_similarities(a, k, chosen, None))
    ids = torch.arange(40, device=DEVICE)
    assert torch.equal(
        pool_logsumexp(a, k, ids[:6], ids, 0.1), full_logsumexp(a, k, ids[:6], ids, 0.1)
    )
    monkeypatch.setenv("NEGPLUG_BACKEND", "cuda")
    with pytest.raises(ValueError, match=r"NEGPLUG_BACKEND must be one of .*, got 'cuda'"):
        chosen_similarities(a, k, chosen)


def test_numpy_is_a_backend_of_its_own(monkeypatch):
    for forced in (None, "numpy", "numba"):
        monkeypatch.setenv("NEGPLUG_BACKEND", forced or "")
        assert READING.kernel(CPU, None) is entries_on_host
    monkeypatch.setenv("NEGPLUG_BACKEND", "torch")
    assert READING.kernel(CPU, None) is indexed_entries
    monkeypatch.setenv("NEGPLUG_BACKEND", "numpy")
    assert POOL.backend(CPU, POOL.typical) != "numpy"  # which has none
    with pytest.raises(ValueError, match=r"NEGPLUG_BACKEND is 'numpy'.*serves the CPU only"):
        READING.kernel(ELSEWHERE, None)


@needs_numba
def test_what_is_forced_serves_or_says_why_not(monkeypatch):
    monkeypatch.setenv("NEGPLUG_BACKEND", "numba")
    # Even where another would take less time.
    assert CHOSEN.kernel(CPU, Sizes(64, 2048, 4096)) is compiled_similarities
    assert POOL.backend(CPU, POOL.typical) == "torch"
    with pytest.raises(ValueError, match=r"NEGPLUG_BACKEND is 'numba'.*'meta'"):
        CHAINS.kernel(ELSEWHERE, None)


@pytest.fixture
def afresh():
    """Ask again which kernels can serve, before a test that changes it and behind."""
    choice.able.cache_clear()
    yield
    choice.able.cache_clear()


@pytest.mark.usefixtures("afresh")
def test_without_numba_torch_serves(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.setattr(choice, "_import_failure", choice._import_failure.__wrapped__)
    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    assert "negplug[fast]" in numba_refusal(CPU)
    assert CHAINS.backend(CPU, None) == CHOSEN.backend(CPU, Sizes(64, 4, 4096)) == "torch"
    drawn = distinct_integers(torch.full((5,), 90), 20, 3)
    assert torch.equal(drawn, floyd_integers(torch.full((5,), 90), 20, 3))
    monkeypatch.setenv("NEGPLUG_BACKEND", "numba")
    with pytest.raises(ValueError, match=r"NEGPLUG_BACKEND.*negplug\[fast\]"):
        CHAINS.kernel(CPU, None)


@pytest.mark.parametrize("forced", [None, "reference", "nonsense"])
def test_the_doctor_says_which_backend_computes(forced, monkeypatch):
    from negplug.cli import app

    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    if forced:
        monkeypatch.setenv("NEGPLUG_BACKEND", forced)
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)["kernels"]
    best = "numba" if NUMBA else "torch"
    usual = (best, "torch", best)
    if torch.cuda.is_available():
        usual = ("triton",) * 3
    wanted = {None: usual, "reference": ("reference",) * 3}.get(forced)
    if wanted:
        assert tuple(found[operation.name] for operation in (CHOSEN, POOL, CHAINS)) == wanted
    else:
        assert all("NEGPLUG_BACKEND must be one of" in said for said in found.values())


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here")
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton launches here")
def test_a_machine_on_which_triton_launches_nothing_is_served_by_torch(monkeypatch):
    """As without a compiler, or here without a driver; said once, not for each operation."""
    monkeypatch.delenv("NEGPLUG_BACKEND", raising=False)
    card = torch.device("cuda", 0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = [operation.backend(card, operation.typical) for operation in (CHOSEN, POOL, CHAINS)]
    assert found == ["torch"] * 3
    (said,) = [str(warning.message) for warning in caught]
    assert "Triton launches nothing on 'cuda:0'" in said
    assert "C compiler" in said
    monkeypatch.setenv("NEGPLUG_BACKEND", "triton")
    with pytest.raises(ValueError, match=r"Triton launches nothing.*set it to 'torch'"):
        CHAINS.kernel(card, CHAINS.typical)
