"""The built-in samplers: one file each, registered through the hooks like anyone else's."""

from negplug.samplers import in_batch, uniform

plugins = [in_batch, uniform]
