"""The built-in samplers: one file each, registered through the hooks like anyone else's."""

from negplug.samplers import (
    emc2,
    false_negatives,
    filtered,
    gather,
    gumbel_max,
    hard,
    hierarchical,
    in_batch,
    isir,
    memory_bank,
    queue,
    schedule,
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
    false_negatives,
    stratified,
    hierarchical,
    schedule,
    synthetic,
    gumbel_max,
    emc2,
    isir,
]
