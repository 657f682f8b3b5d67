"""Launches of Triton programs, with little to do on the host.

Triton looks at each argument of each launch, and at the program's options, to find what it has
compiled for the like of them. That takes longer than a small program runs. A launch here looks at
what decides alone, and hands the arguments to what Triton found the time before:

- of a tensor its type, whether its memory begins at a multiple of 16 bytes, and on AMD's whether
  an offset of 32 bits reaches all of it;
- of an integer whether it is 1, a multiple of 16, or above 32 bits;
- all constants.

Import this module only where Triton is installed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_found: dict[Any, Any] = {}

_AMD = torch.version.hip is not None


def launch(program: Any, grid: Sequence[int], *arguments: Any, **options: Any) -> None:
    """Launch a program on the device of its first tensor, on that device's present stream.

    Args:
        program: What ``triton.jit`` has returned.
        grid: Numbers of programs, one to three.
        *arguments: Tensors and numbers, the program's first parameters.
        **options: Constants, the further ones; and how Triton is to compile.
    """
    device = next(a for a in arguments if isinstance(a, Tensor)).device
    if device.type != "cuda":
        program[grid](*arguments, **options)  # the interpreter
        return
    if device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            _launch(program, grid, arguments, options, device.index)
    else:
        _launch(program, grid, arguments, options, device.index)


def _launch(
    program: Any, grid: Sequence[int], arguments: tuple[Any, ...], options: dict[str, Any], on: int
) -> None:
    key = (program, on, (*options.items(),), *map(_kind, arguments))
    found = _found.get(key)
    if found is None:
        # Said, for Triton's default is another one from 3.10 on, as 3.9 warns.
        compiled = program[grid](*arguments, **options, enable_fp_fusion=True)
        # Its remaining parameters, in their order.
        rest = [options[name] for name in program.arg_names[len(arguments) :]]
        _found[key] = compiled, rest
        return
    compiled, rest = found
    whole = (*grid, 1, 1)[:3]
    try:
        compiled[whole](*arguments, *rest)
    except TypeError:
        # Triton 3.2 hands no constants over, and refuses them before it launches.
        if not rest:
            raise
        compiled[whole](*arguments)
        _found[key] = compiled, []


def _kind(argument: Any) -> Any:
    """Return what Triton compiles for: two arguments of a kind are served by one program."""
    if isinstance(argument, Tensor):
        near = _AMD and argument.untyped_storage().size() < 2**31
        return argument.dtype, argument.data_ptr() & 15 == 0, near
    if type(argument) is int and argument != 1:
        return argument & 15 == 0, -(2**31) <= argument < 2**31
    return type(argument)  # of the integers 1 alone
