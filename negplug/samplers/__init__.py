"""The built-in samplers: one file each, registered through the hooks like anyone else's."""

from negplug.samplers import (
    filtered,
    gather,
    hard,
    hierarchical,
    in_batch,
    memory_bank,
    queue,
    stratified,
    synthetic,
    uniform,
)

plugins = [
    in_batch,
    gather,
    uniform,
    queue,
    memory_bank,
    hard,
    filtered,
    stratified,
    hierarchical,
    synthetic,
]
