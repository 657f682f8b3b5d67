"""Triton programs without a GPU: run by the interpreter, and compiled for GPUs."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
FILES = sorted((TESTS / "kernels" / "interpreted").glob("test_*.py"))
PARTS = 5
"""Processes that run these files: each imports torch, and several are run at once."""

INTERPRETED = {"TRITON_INTERPRET": "1", "NEGPLUG_BACKEND": "triton"}

# Together with what is asked directly they launch each program.
LAUNCHING = (
    "in_batch()",
    "uniform(num_negatives=5)",
    "uniform(num_negatives=5) relic()",
    "stratified(num_negatives=4)",
    "queue(size=64)",
    "memory_bank()",
    "hard(num_negatives=5)",
    "gumbel_max(num_negatives=3)",
    "emc2()",
    "isir()",
    "hierarchical(uniform(num_negatives=5), hard(num_negatives=3), queue(size=64))",
)

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no Triton here"),
    pytest.mark.skipif(importlib.util.find_spec("lightly") is None, reason="run with Lightly"),
]


def output_of(*command: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, *command],
        cwd=TESTS.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@pytest.mark.parametrize("part", range(PARTS))
def test_programs_under_the_interpreter(part):
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    files = [str(file) for file in FILES[part::PARTS]]
    output = output_of(*command, *files, **INTERPRETED)
    assert " passed" in output
    assert "skipped" not in output


@pytest.mark.parametrize(
    ("capability", "memory", "width"),
    [(90, 232_448, 128), (90, 232_448, 512), (80, 166_912, 128), (89, 101_376, 256)],
    ids=["H100", "H100 wide", "A100", "RTX 4090"],
)
def test_tiles_of_pools_fit_the_memory_of_gpus(capability, memory, width, tmp_path):
    numbers = [str(number) for number in (capability, memory, width)]
    script = str(TESTS / "support" / "compiled_programs.py")
    output_of(script, *numbers, TRITON_CACHE_DIR=str(tmp_path))


def test_what_steps_launch_compiles_for_a_gpu(tmp_path):
    launches, support = str(tmp_path / "launches.json"), TESTS / "support"
    output_of(str(support / "recorded_launches.py"), launches, *LAUNCHING, **INTERPRETED)
    script = str(support / "compiled_programs.py")
    output = output_of(script, "90", "232448", "64", launches, TRITON_CACHE_DIR=str(tmp_path))
    missing = {name for name in programs() if repr(name) not in output}
    assert not missing, f"nothing launches {missing}"


def test_what_a_large_card_launches_compiles(tmp_path):
    """Triton 3.2 aborted the process at each of these, and 3.6 failed at the first."""
    names = ("merged_parts", "distinct_below", "distinct_others", "gradients_of_rows")
    names += ("sums_of_part", "gradient_of_part")
    script = str(TESTS / "support" / "launches_of_cards.py")
    output = output_of(script, "90", "232448", *names, TRITON_CACHE_DIR=str(tmp_path))
    missing = {name for name in names if f"compiled {name} " not in output}
    assert not missing, f"nothing launches {missing}"
    assert "'BP': 16" in output


def test_pools_fit_the_registers_of_a_card_whose_warps_multiply_alone(tmp_path):
    names = ("sums_of_part", "gradient_of_part")
    script = str(TESTS / "support" / "launches_of_cards.py")
    output = output_of(script, "86", "101376", *names, TRITON_CACHE_DIR=str(tmp_path))
    assert output.count("'BD': 256") > 1


def programs() -> set[str]:
    """Return the names of all programs that no other one calls."""
    folder = TESTS.parent / "negplug" / "kernels"
    parts = [
        part for path in folder.rglob("*.py") for part in path.read_text().split("@triton.jit")[1:]
    ]
    names = [part.split("def ", 1)[1].split("(", 1)[0] for part in parts]
    called = {name for name in names if sum(f" {name}(" in part for part in parts) > 1}
    found = {name for name in names if name not in called and not name.startswith("_")}
    assert len(found) > 10
    return found
