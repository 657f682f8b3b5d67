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
from negplug.kernels.pool import programs
from negplug.kernels.pool.cuts import Processors, blocks_of
from negplug.kernels.random.programs import uniforms_of_stream
from negplug.kernels.unit.programs import gradients_of_views, unit_rows_of_views

TYPES = {"RowIds": "*i64", "ColumnIds": "*i64", "Mask": "*u8", "scale": "fp32", "factor": "fp32"}
TYPES |= {"lift": "fp32"}
TYPES |= {"Columns": "*i64", "steepness": "fp32", "grad_stride": "i32"}
TYPES |= {"BurnIn": "*i64", "Last": "*i64", "Out": "*fp64", "seed": "i64", "start": "i64"}

def compiled(program, target, half=(), stages=2, **constants):
    names = [parameter.name for parameter in program.params]
    signature = {
        name: "constexpr" if name in constants
        else "*fp16" if name in half
        else TYPES.get(name, "*fp32" if name[0].isupper() else "i32")
        for name in names
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    if "constexprs" in inspect.signature(ASTSource).parameters:
        source = ASTSource(fn=program, signature=signature, constexprs=values)
    else:  # Triton 3.2
        kinds = {name: kind for name, kind in signature.items() if kind != "constexpr"}
        source = ASTSource(fn=program, signature=kinds, constants=constants)
    options = {"num_warps": 4, "num_stages": stages}
    return triton.compile(source, target=target, options=options).metadata.shared

capability, memory, width = map(int, sys.argv[1:])
target = GPUTarget("cuda", capability, 32)
block, blocks = blocks_of(width)
every = {"WEIGHTED": True, "MASKED": True, "BD": block, "BLOCKS": blocks}
launches = {
    "sums": (programs.sums_of_part, ("A", "K"), {"MEANS": True, "LIFT": 1}),
    "gradient": (programs.gradient_of_part, ("R", "X"), {"BOTH": True}),
}
for launch, (program, rows, more) in launches.items():
    for half in (False, True) if (capability, width) == (90, 128) else (False,):
        tile = Processors(100, memory).tile(launch, width, half)
        cut = {"BM": tile.rows, "BN": tile.columns, "stages": tile.stages}
        cut |= {"PRECISION": "ieee" if half or capability < 80 else "tf32x3"}
        taken = compiled(program, target, **cut, **every, half=rows if half else (), **more)
        assert taken <= memory, (launch, half, tile, taken)
        assert tile.rows == 16 or taken > memory / 5, "smaller tiles than there is memory for"
compiled(programs.merged_parts, target, BM=64, BD=block, MEANS=True)
width = block
part = {"PULLED": True, "PULLING": True, "CHUNK": 1024, "BD": width}
rows = min(max(4096 // width, 16), 32)
assert compiled(gradients_of_rows, target, **part, BM=rows, BN=rows, SIGMOID=False) <= memory
compiled(unit_rows_of_views, target, BM=16, BD=width)
compiled(gradients_of_views, target, BM=16, BD=width)
if width == 64:
    for form in ("each", "sum", "mean"):
        for apart in (False, True):
            compiled(losses_of_anchors, target, FORM=form, APART=apart, BM=16, BD=width)
    compiled(uniforms_of_stream, target, PAIRS=512)
    assert compiled(walk_of_chains, target, BN=4, BR=256) <= memory
    assert compiled(walk_of_chains, target, BN=1, BR=4096) <= memory
"""


@pytest.mark.skipif(
    importlib.util.find_spec("lightly") is None, reason="compiled in the session with Lightly"
)
@pytest.mark.parametrize(
    ("capability", "memory", "width"),
    [(90, 232_448, 128), (90, 232_448, 512), (80, 166_912, 128), (89, 101_376, 64)],
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
