"""The built-in objectives: one file each, registered through the hooks like anyone else's."""

from negplug.objectives import (
    debiased,
    decoupled,
    ifm,
    infonce,
    isogclr,
    relic,
    rince,
    sigmoid,
    sogclr,
)

plugins = [infonce, decoupled, debiased, relic, sogclr, isogclr, sigmoid, ifm, rince]
