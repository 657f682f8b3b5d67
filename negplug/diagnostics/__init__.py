"""Diagnostics of representations, negatives and gradients, as plain functions of tensors.

- :mod:`negplug.diagnostics.gradients`: the gradients' signal-to-noise ratio;
- :mod:`negplug.diagnostics.clusters`: how well classes cluster;
- :mod:`negplug.diagnostics.hypersphere`: alignment and uniformity;
- :mod:`negplug.diagnostics.negatives`: effective number and hardness of negatives;
- :mod:`negplug.diagnostics.contact_sheet`: what anchors are compared with, as pictures.

As Lightning callbacks they are :mod:`negplug.hosts.trainer.diagnostics` and
:mod:`negplug.hosts.trainer.contact_sheet`, exported by ``negplug_lightly`` and ``negplug_solo``.
"""

from negplug.diagnostics.clusters import intra_class_distance, silhouette
from negplug.diagnostics.gradients import SNR, GradientMoments
from negplug.diagnostics.hypersphere import alignment, uniformity
from negplug.diagnostics.negatives import effective_number, hardness

__all__ = [
    "SNR",
    "GradientMoments",
    "alignment",
    "effective_number",
    "hardness",
    "intra_class_distance",
    "silhouette",
    "uniformity",
]
