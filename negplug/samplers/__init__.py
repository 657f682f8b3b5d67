"""The built-in samplers: one file each, registered through the hooks like anyone else's."""

from negplug.samplers import gather, in_batch, memory_bank, queue, uniform

plugins = [in_batch, gather, uniform, queue, memory_bank]
