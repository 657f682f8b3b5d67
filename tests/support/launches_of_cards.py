"""Compiles what a card launches, cut as for it, without one.

Usage: python launches_of_cards.py CAPABILITY SHARED_MEMORY NAME…

Steps run on the meta device, where nothing is computed; programs of these names are compiled as
they are launched: for arguments that are multiples of 16, and for those that are 1. They fit the
registers: what does not is spilled to memory, and a program that spills kilobytes takes many times
as long.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from recorded_launches import kind_of
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from negplug import ContrastiveLoss
from negplug.kernels import choice
from negplug.kernels.nearest import fused as nearest
from negplug.kernels.pool import cuts
from negplug.kernels.softmax_draws import fused as softmax_draws

# Samplers, sizes of batches of two views, and how many numbers a row has.
STEPS = (
    ("in_batch()", 512, 128),  # whose pool is split into 16 parts
    ("in_batch()", 64, 256),
    ("queue(size=4096)", 64, 128),
    ("queue(size=4096)", 64, 256),
    ("uniform(num_negatives=10)", 12, 128),
    ("stratified(num_negatives=4)", 12, 128),
)

TRITON = tuple(int(part) for part in triton.__version__.split(".")[:2])

# Bytes of a thread. Some come with what the compiler knows; Triton 3.2 spills more.
SPILLED = 64 if TRITON >= (3, 6) else 512


def serve_the_meta_device_as_a_card(capability: int = 90, memory: int = 232_448) -> None:
    others = choice.able.__wrapped__

    def able(operation: Any, forced: Any, device: torch.device) -> tuple[Any, ...]:
        programs = [kernel for kernel in operation.kernels if kernel.backend == "triton"]
        return (*programs, *others(operation, "torch", device))

    choice.able = able
    cuts.Processors.of = classmethod(lambda cls, device: cls(132, memory, 90 <= capability < 110))
    for module in (nearest, softmax_draws):
        module.precision_of = lambda device: "tf32x3"


def arguments_of(program: Any, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str], Any]:
    """Return constants, types, and which arguments are multiples of 16."""
    constants, types, multiples = {}, {}, []
    for parameter in program.params:
        name, value = parameter.name, given[parameter.name]
        special = not parameter.do_not_specialize and isinstance(value, int)
        if parameter.is_constexpr or (special and value == 1):
            constants[name] = value
            continue
        types[name] = kind_of(value)
        if isinstance(value, torch.Tensor) or (special and value % 16 == 0):
            multiples.append(parameter.num)
    return constants, types, multiples


def source(program: Any, constants: Any, types: Any, multiples: list[int]) -> ASTSource:
    names = program.arg_names
    if TRITON < (3, 3):
        from triton.backends.compiler import AttrsDescriptor

        properties = {"tt.divisibility": multiples, "tt.equal_to": []}
        attrs = AttrsDescriptor.from_dict({"arg_properties": properties, "cls": "AttrsDescriptor"})
        return ASTSource(fn=program, signature=types, constants=constants, attrs=attrs)
    return ASTSource(
        fn=program,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(place,): [["tt.divisibility", 16]] for place in multiples},
    )


def spilled(compiled: Any) -> int:
    """Return how many bytes of a thread's registers a compiled program keeps in memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", told)[1])


def main(capability: int, memory: int, wanted: list[str]) -> None:
    seen: dict[str, Any] = {}

    def noted(program: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
        if program.__name__ in wanted:
            found = arguments_of(program, dict(zip(program.arg_names, args, strict=False)) | kwargs)
            seen.setdefault(
                json.dumps([program.__name__, *found, options]), (program, *found, options)
            )

    triton.runtime.jit.JITFunction.run = noted
    serve_the_meta_device_as_a_card(capability, memory)
    for expression, size, width in STEPS:
        loss_fn = ContrastiveLoss(expression).to("meta")
        views = [torch.empty(size, width, device="meta", requires_grad=True) for _ in range(2)]
        labels = torch.empty(size, dtype=torch.int64, device="meta")
        loss_fn(*views, indexes=labels, labels=labels).backward()
    for program, *found, options in seen.values():
        target = GPUTarget("cuda", capability, 32)
        compiled = triton.compile(source(program, *found), target=target, options=options)
        kept = spilled(compiled)
        print(f"compiled {program.__name__} with {found[0]}, {kept} bytes spilled")
        assert kept <= SPILLED, (program.__name__, found[0], options, kept)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
