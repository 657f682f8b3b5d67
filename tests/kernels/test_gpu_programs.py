"""Triton programs of samplers' steps, compiled for a GPU where there is none."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("triton", "lightly")),
    reason="compiled in the session with Lightly",
)
def test_programs_compile_and_fit_a_gpus_shared_memory(tmp_path):
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    for name in ("TRITON_INTERPRET", "NEGPLUG_BACKEND"):
        environment.pop(name, None)
    run = subprocess.run(
        [sys.executable, str(SUPPORT / "gpu_programs.py"), "80"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "moves_of_chains" in run.stdout
