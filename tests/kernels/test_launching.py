"""Launches of Triton programs: what Triton would launch itself."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from negplug.kernels.sizes import cdiv, power_of_2

SCRIPT = Path(__file__).parents[1] / "support" / "launched_nowhere.py"


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here")
@pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="run with Lightly")
def test_arguments_of_a_kind_are_served_by_the_program_that_triton_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert "90 launches of" in run.stdout


def test_sizes():
    assert [cdiv(number, 4) for number in (0, 1, 4, 5, 8)] == [0, 1, 1, 2, 2]
    assert [power_of_2(number) for number in (0, 1, 2, 3, 4, 5, 1024)] == [1, 1, 2, 4, 4, 8, 1024]
