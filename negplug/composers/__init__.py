"""The built-in composers: one file each, registered through the hooks like anyone else's."""

from negplug.composers import balanced, clustered, random_walk

plugins = [random_walk, clustered, balanced]
