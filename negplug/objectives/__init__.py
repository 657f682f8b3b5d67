"""The built-in objectives: one file each, registered through the hooks like anyone else's."""

from negplug.objectives import (
    debiased,
    decoupled,
    ifm,
    infonce,
    relic,
    rince,
    sigmoid,
    sogclr,
)

plugins = [infonce, decoupled, debiased, relic, sogclr, sigmoid, ifm, rince]
