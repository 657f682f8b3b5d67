"""The watch in every process in which ``NEGPLUG_SAMPLER`` is set, from torch's import on.

At the end of ``import torch``, torch calls the entry points of the group ``torch.backends``; this
is one of them. So a process is armed however it came about: a script, a rank that a launcher
starts, a spawned child, a notebook's kernel; a forked child inherits. Without the variable nothing
is imported and nothing is done. ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` switches torch's mechanism off.

At the first scalar with a gradient that a module returns, which a loss is, the watch itself
(:mod:`negplug.hosts.watch`) takes over. What is wrong with the variables is an error then.
"""

from __future__ import annotations

import os
import sys


def arm() -> None:
    """Watch for the first loss of this process if the environment asks for a treatment."""
    # The command line says itself what is treated in its own process.
    if os.environ.get("NEGPLUG_SAMPLER") and "negplug.cli" not in sys.modules:
        from negplug.hosts import first_loss

        first_loss.wait()
