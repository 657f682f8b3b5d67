"""Writes to a file what training steps launch, as types and constants.

Some programs that no small step launches are there too.

Usage, with TRITON_INTERPRET=1 and NEGPLUG_BACKEND=triton:

    python recorded_launches.py FILE 'SAMPLER [OBJECTIVE]'…
"""

from __future__ import annotations

import inspect
import json
import sys
from typing import Any

import torch
import triton.runtime.interpreter as interpreter

from negplug import ContrastiveLoss
from negplug.kernels.chain import walk
from negplug.kernels.nearest import nearest_columns
from negplug.kernels.pool import pool_logsumexp, question
from negplug.kernels.softmax_draws import softmax_draws

POINTERS = {
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int16: "*i16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


def kind_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def recorded(executor: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    options = {name: value for name, value in kwargs.items() if name in ("num_warps", "num_stages")}
    kwargs = {name: value for name, value in kwargs.items() if name in executor.arg_names}
    given = inspect.getcallargs(executor.fn, *args, **kwargs)
    constants = [name for name in given if name in executor.constexprs or given[name] is None]
    return {
        "module": executor.fn.__module__,
        "name": executor.fn.__name__,
        "types": {name: kind_of(given[name]) for name in given if name not in constants},
        "constants": {name: given[name] for name in constants},
        "options": options,
    }


def ask_directly() -> None:
    """Ask what no small step does: of large pools, and of chains with burn-ins of their own."""
    # As of so many rows that it pays to look at spans of ids.
    question._WORTH_SPANNING = 0
    rows, pool = torch.randn(4, 64), torch.randn(4096, 64)
    ids = torch.arange(4), torch.arange(4096)
    nearest_columns(rows, pool, *ids, 3)
    softmax_draws(rows, pool, *ids, 0.1, 3, seed=1)
    pool_logsumexp(rows.requires_grad_(), pool, *ids, 0.1)
    walk(torch.randn(4, 9), torch.rand(4, 9), torch.randn(4), torch.zeros(4, dtype=torch.int64))


def main(path: str, expressions: list[str]) -> None:
    launches: dict[str, dict[str, Any]] = {}
    launch = interpreter.GridExecutor.__call__

    def recording(executor: Any, *args: Any, **kwargs: Any) -> Any:
        found = recorded(executor, args, kwargs)
        launches.setdefault(json.dumps(found, sort_keys=True), found)
        return launch(executor, *args, **kwargs)

    interpreter.GridExecutor.__call__ = recording
    for expression in expressions:
        sampler, _, objective = expression.rpartition(") ")
        loss_fn = ContrastiveLoss(*((sampler + ")", objective) if sampler else (expression,)))
        for step in range(2):
            generator = torch.Generator().manual_seed(step)
            views = [torch.randn(12, 64, generator=generator).requires_grad_() for _ in range(2)]
            indexes = torch.randperm(96, generator=generator)[:12]
            loss_fn(*views, indexes=indexes, labels=indexes % 4).backward()
            loss_fn.end_step()
    ask_directly()
    with open(path, "w") as file:
        json.dump(list(launches.values()), file)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
