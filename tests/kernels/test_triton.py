"""Triton programs without a GPU: run by the interpreter, and compiled for GPUs."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def test_programs_under_the_interpreter():
    environment = {**os.environ, "TRITON_INTERPRET": "1", "NEGPLUG_BACKEND": "triton"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, str(TESTS / "kernels" / "interpreted")],
        cwd=TESTS.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout


COMPILE = """
import inspect
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from negplug.kernels.anchor_loss.programs import gradients_of_rows, losses_of_anchors
from negplug.kernels.chain.programs import walk_of_chains
from negplug.kernels.chosen import programs as of_chosen
from negplug.kernels.nearest import programs as nearest
from negplug.kernels.pool import programs
from negplug.kernels.pool.launches import Processors
from negplug.kernels.random import programs as of_numbers
from negplug.kernels.softmax_draws import programs as draws
from negplug.kernels.unit.programs import gradients_of_views, unit_rows_of_views

TYPES = {"RowIds": "*i64", "ColumnIds": "*i64", "Mask": "*u8", "scale": "fp32", "factor": "fp32"}
TYPES |= {"Columns": "*i64", "steepness": "fp32", "grad_stride": "i32", "inverse": "fp32"}
TYPES |= {"Keys": "*i64", "Ordered": "*i64", "Order": "*i64"}
TYPES |= {"There": "*u8", "Maxima": "*fp64", "Seed": "i64"}
TYPES |= {"BurnIn": "*i64", "Last": "*i64", "Out": "*fp64", "seed": "i64", "start": "i64"}
TYPES |= {"Ids": "*i64", "Bounds": "*i64", "beyond": "i64"}

def compiled(program, target, **constants):
    names = [parameter.name for parameter in program.params]
    signature = {
        name: "constexpr" if name in constants
        else TYPES.get(name, "*fp32" if name[0].isupper() else "i32")
        for name in names
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    if "constexprs" in inspect.signature(ASTSource).parameters:
        source = ASTSource(fn=program, signature=signature, constexprs=values)
    else:  # Triton 3.2
        kinds = {name: kind for name, kind in signature.items() if kind != "constexpr"}
        source = ASTSource(fn=program, signature=kinds, constants=constants)
    options = {"num_warps": 4, "num_stages": 2}
    return triton.compile(source, target=target, options=options).metadata.shared

capability, memory, width = map(int, sys.argv[1:])
target = GPUTarget("cuda", capability, 32)
side = Processors(100, memory).side(width)
cut = {"BM": side, "BN": side, "BD": width, "PRECISION": "tf32x3" if capability >= 80 else "ieee"}
every = {"WEIGHTED": True, "MASKED": True}
taken = compiled(programs.sums_of_part, target, **cut, **every, MEANS=True)
assert taken <= memory, (side, taken)
taken = compiled(programs.gradient_of_part, target, **cut, **every, BOTH=True)
assert taken <= memory, (side, taken)
assert side == 16 or taken > memory / 4, "smaller tiles than there is memory for"
compiled(programs.merged_parts, target, BM=side, BD=width, MEANS=True)
part = {"PULLED": True, "PULLING": True, "CHUNK": 1024, "BD": width}
rows = min(4096 // width, 32)
assert compiled(gradients_of_rows, target, **part, BM=rows, BN=rows, SIGMOID=False) <= memory
compiled(unit_rows_of_views, target, BM=16, BD=width)
compiled(gradients_of_views, target, BM=16, BD=width)
held = {"BM": 4096 // width, "BD": width}
every |= {"SLOPE": True, "KEYS": True}
compiled(of_chosen.logsumexp_of_pairs, target, BR=1, **held, **every)
if width == 64:
    for form in ("each", "sum", "mean"):
        for apart in (False, True):
            compiled(losses_of_anchors, target, FORM=form, APART=apart, BM=16, BD=width)
    compiled(of_chosen.similarities_of_pairs, target, BR=1, **held, MASKED=True, KEYS=True)
    compiled(of_chosen.sums_by_anchor, target, BR=2, **held)
    held = {"BK": 1, "BP": 16, "BD": width}
    compiled(of_chosen.sums_by_key, target, **held, SOFTMAX=True, ADDED=True)
    compiled(of_numbers.uniforms_of_stream, target, PAIRS=512)
    compiled(of_numbers.distinct_below, target, BR=4, BM=128)
    compiled(of_numbers.distinct_others, target, BR=1, BM=1024, SEED_ON_DEVICE=False)
    assert compiled(walk_of_chains, target, BN=4, BR=256) <= memory
    assert compiled(walk_of_chains, target, BN=1, BR=4096) <= memory
    tile = {"BM": 16, "BN": 64, "BD": 32, "MASKED": True, "PRECISION": cut["PRECISION"]}
    assert compiled(nearest.nearest_of_part, target, BC=256, WHOLE=False, **tile) <= memory
    more = {"WEIGHTED": True, "SEED_ON_DEVICE": False}
    assert compiled(draws.draws_of_part, target, BC=32, **more, **tile) <= memory
    compiled(nearest.nearest_of_parts, target, BM=16, BC=256)
"""


@pytest.mark.skipif(
    importlib.util.find_spec("lightly") is None, reason="compiled in the session with Lightly"
)
@pytest.mark.parametrize(
    ("capability", "memory", "width"),
    [(90, 232_448, 128), (90, 232_448, 256), (80, 166_912, 128), (89, 101_376, 64)],
    ids=["H100", "H100 wide", "A100", "RTX 4090"],
)
def test_programs_compile_for_gpus_and_fit_their_shared_memory(capability, memory, width, tmp_path):
    arguments = [str(value) for value in (capability, memory, width)]
    run = subprocess.run(
        [sys.executable, "-c", COMPILE, *arguments],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr
