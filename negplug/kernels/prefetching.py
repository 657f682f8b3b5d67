"""Rows that a loop compiled by numba reads soon, asked for while it works on others.

Where a pool of rows outgrows the caches, a row that is chosen at random lies in memory, and a loop
waits for each. ``llvm.prefetch`` (LLVM's language reference) asks for a line of the cache and waits
for nothing. It reads no value, so no result depends on it, and an address of nothing is ignored.

Import this module only where numba is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from negplug.kernels.compiling import compiled

ROWS_AHEAD = 4
"""Rows between that which is asked for and that which is worked on; one and two hide less."""

# Bytes that come together, on x86 and on most ARM processors.
_LINE = 64


def _prefetching(typing_context: Any, rows: Any, i: Any, k: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, *index_types = signature.args
        array = context.make_array(array_type)(context, builder, arguments[0])
        place = [
            context.cast(builder, index, index_type, types.intp)
            for index, index_type in zip(arguments[1:], index_types, strict=True)
        ]
        address = builder.bitcast(
            cgutils.get_item_pointer(context, builder, array_type, array, place, wraparound=False),
            ir.IntType(8).as_pointer(),
        )
        flag = ir.IntType(32)
        prefetch = builder.module.declare_intrinsic(
            "llvm.prefetch",
            (address.type,),
            ir.FunctionType(ir.VoidType(), (address.type, flag, flag, flag)),
        )
        to_read, to_all_caches, data = flag(0), flag(3), flag(1)
        builder.call(prefetch, (address, to_read, to_all_caches, data))
        return context.get_dummy_value()

    return types.void(rows, i, k), generate


_prefetch: Callable[..., None] = intrinsic(_prefetching)


@compiled()
def prefetch_row(rows: Any, i: int) -> None:
    """Ask for row ``i`` of ``rows``, ``[K, d]``; it need not exist."""
    for k in range(0, rows.shape[1], _LINE // rows.itemsize):
        _prefetch(rows, i, k)
