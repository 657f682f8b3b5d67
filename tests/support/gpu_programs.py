"""Compile the programs of samplers' steps for a GPU, without one: ``python gpu_programs.py 90``."""

from __future__ import annotations

import inspect
import sys

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from negplug.kernels.averages import programs as averages
from negplug.kernels.chain import programs as chain
from negplug.kernels.posterior import programs as posterior
from negplug.kernels.samples import programs as samples
from negplug.kernels.states import programs as states
from negplug.kernels.table import programs as table
from negplug.kernels.views import programs as views

INTEGERS = (
    *("Views", "Indexes", "Samples", "SamplesOut", "Rows", "RowsOut", "Wanted", "Columns", "Own"),
    *("Place", "Last", "BurnIn", "State", "AnchorIds", "RowIds", "Arriving", "Names", "Found"),
    "Written",
)
TYPES = {name: "*i64" for name in INTEGERS} | {"Flags": "*i32", "Mask": "*u8", "Known": "*u8"}
TYPES |= {name: "fp32" for name in ("log_number", "tiny", "most", "factor", "momentum")}
TYPES |= {"empty": "i64", "seed": "i64"}
EVERY = {"WEIGHTED": True, "MASKED": True, "EXCLUDED": True, "MORE": True}
ENTRIES = {"Found": "*fp32", "empty": "fp32"}

PROGRAMS = [
    (chain.moves_of_chains, {}, {"BURN_IN": 0.5, "SHARE": True, "BN": 4, "BR": 256}),
    (chain.moves_of_chains, {}, {"BURN_IN": 3, "SHARE": False, "BN": 1, "BR": 4096}),
    (chain.resampled_chains, {}, {"BN": 4, "BR": 256}),
    (chain.entries_of_chains, {"Found": "*fp32"}, {"BN": 256}),
    (samples.first_of_equals, {}, {"BN": 16, "BT": 256}),
    (samples.grouped_rows, {}, {"BN": 16, "BT": 256}),
    (samples.shuffled_samples, {}, {"PADDED": True, "BN": 16, "BT": 256}),
    (samples.columns_of_samples, {}, {"BN": 16, "BT": 256}),
    (table.entries_of_table, ENTRIES, {"BN": 16, "BD": 128}),
    (table.entries_of_table, {"Table": "*i64", "empty": "fp32"}, {"BN": 16, "BD": 1}),
    (table.last_entries, {}, {"BN": 16, "BD": 128, "BT": 256}),
    (table.last_entries, {"Table": "*u8", "Values": "*u8"}, {"BN": 16, "BD": 1, "BT": 256}),
    (views.scores_of_samples, {}, {"PADDED": True, "NAMED": True, "BC": 16, "BN": 64}),
    (views.weights_of_views, {}, {"BC": 16, "BN": 64}),
    (states.logits_of_states, {}, {"BN": 16, "BD": 128}),
    (states.weights_of_states, {}, {"BN": 256}),
    (posterior.weights_of_draws, {}, {**EVERY, "BN": 16, "BE": 128}),
    (posterior.mean_of_columns, {}, {"MORE": True, "BN": 16, "BD": 128}),
    (posterior.products_of_rows, {}, {"BN": 16, "BD": 128}),
    (posterior.gradients_of_rows, {}, {"POOLS": True, "BN": 16, "BD": 128}),
    (
        averages.averages_of_samples,
        {"Rows": "*fp32"},
        {"BN": 16, "BT": 32, "BD": 512, "PRECISION": "ieee"},
    ),
]


def shared_memory(program, types, constants, target):
    """Return how many bytes of shared memory a program takes, compiled for ``target``."""
    names = [parameter.name for parameter in program.params]
    types = TYPES | types
    signature = {
        name: "constexpr"
        if name in constants
        else types.get(name, "*fp32" if name[0].isupper() else "i32")
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


if __name__ == "__main__":
    target = GPUTarget("cuda", int(sys.argv[1]), 32)
    for program, types, constants in PROGRAMS:
        taken = shared_memory(program, types, constants, target)
        print(program.__name__, taken)
        # What the smallest GPU of the last generations gives a program.
        assert taken <= 101_376, program
