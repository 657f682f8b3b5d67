"""Compiles Triton programs for a GPU, without one.

Usage: python compiled_programs.py CAPABILITY SHARED_MEMORY WIDTH [FILE]

Of whole pools it compiles what is launched for rows of a width, whose tiles are to fit the shared
memory, and use it; FILE names launches of :mod:`recorded_launches`.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from negplug.kernels.pool import gradients, programs
from negplug.kernels.pool.cuts import HALF, SPLIT, Processors, blocks_of


def compiled(
    program: Any,
    target: GPUTarget,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    num_warps: int = 4,
    num_stages: int = 3,
) -> int:
    """Return the bytes of shared memory that a compiled program takes."""
    names = [parameter.name for parameter in program.params]
    signature = {name: types.get(name, "constexpr") for name in names}
    if "constexprs" in inspect.signature(ASTSource).parameters:
        values = {(names.index(name),): value for name, value in constants.items()}
        source = ASTSource(fn=program, signature=signature, constexprs=values)
    else:  # Triton 3.2
        kinds = {name: kind for name, kind in signature.items() if kind != "constexpr"}
        source = ASTSource(fn=program, signature=kinds, constants=dict(constants))
    options = {"num_warps": num_warps, "num_stages": num_stages}
    return int(triton.compile(source, target=target, options=options).metadata.shared)


def types_of(program: Any, constants: Mapping[str, Any], **others: str) -> dict[str, str]:
    """Return a type for each argument that is no constant: names say which are pointers."""
    ids = ("RowIds", "ColumnIds", "RowSpans", "ColumnSpans")
    kinds = {**dict.fromkeys(ids, "*i64"), "Mask": "*u8"}
    kinds |= dict.fromkeys(("scale", "unit", "factor", "lift", "means_unit"), "fp32") | others
    names = [parameter.name for parameter in program.params]
    rest = [name for name in names if name not in constants]
    return {name: kinds.get(name, "*fp32" if name[0].isupper() else "i32") for name in rest}


def check_pools(capability: int, memory: int, width: int) -> None:
    target = GPUTarget("cuda", capability, 32)
    block, blocks = blocks_of(width)
    every = {"WEIGHTED": True, "MASKED": True, "BD": block, "BLOCKS": blocks}
    every |= {"SPANS": True, "FLAT": False}
    launches = {
        "sums": (programs.sums_of_part, ("A", "ALow", "K", "KLow"), {"MEANS": True, "LIFT": 1}),
        "gradient": (gradients.gradient_of_part, ("R", "RLow", "X", "XLow"), {"BOTH": True}),
    }
    groups = capability // 10 in (9, 10)
    for launch, (program, rows, more) in launches.items():
        for kind in (HALF, SPLIT):
            tile = Processors(100, memory, groups).tile(width, kind, True, beside=5)
            every["SPLIT"] = kind == SPLIT
            constants = {"BM": tile.rows, "BN": tile.columns, **every, **more}
            types = types_of(program, constants, **dict.fromkeys(rows, "*fp16"))
            options = {"num_warps": tile.warps, "num_stages": tile.stages}
            taken = compiled(program, target, types, constants, **options)
            assert taken <= memory, (launch, kind, tile, taken)
            assert tile.rows > 16, "a processor has memory for larger tiles"
    constants = {"BM": 2, "BP": 32, "BD": block, "MEANS": True}
    compiled(programs.merged_parts, target, types_of(programs.merged_parts, constants), constants)


def check_recorded(capability: int, memory: int, path: str) -> None:
    target = GPUTarget("cuda", capability, 32)
    with open(path) as file:
        launches = json.load(file)
    for launch in launches:
        program = getattr(importlib.import_module(launch["module"]), launch["name"])
        taken = compiled(program, target, launch["types"], launch["constants"], **launch["options"])
        assert taken <= memory, (launch["name"], taken)
    for launch in {launch["name"]: launch for launch in launches}.values():
        program = getattr(importlib.import_module(launch["module"]), launch["name"])
        ones = [p.name for p in program.params if not p.do_not_specialize]
        ones = [name for name in ones if launch["types"].get(name) in ("i32", "i64")]
        types = {name: kind for name, kind in launch["types"].items() if name not in ones}
        # Triton takes an integer of 1 for a constant, as of a batch of one.
        constants = {**launch["constants"], **dict.fromkeys(ones, 1)}
        compiled(program, target, types, constants, **launch["options"])
    names = {launch["name"] for launch in launches}
    print(f"compiled {len(launches)} launches of {len(names)} programs: {sorted(names)}")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:4]]
    check_pools(*numbers)
    for path in sys.argv[4:]:
        check_recorded(*numbers[:2], path)
