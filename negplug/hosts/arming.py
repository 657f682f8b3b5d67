"""The watch in every process in which ``NEGPLUG_SAMPLER`` is set, from torch's import on.

At the end of ``import torch``, torch calls the entry points of the group ``torch.backends``; this
is one of them. So a process is armed however it came about: a script, a rank that a launcher
starts, a spawned child, a notebook's kernel; a forked child inherits. Without a variable of
negplug nothing is imported and nothing is done. ``TORCH_DEVICE_BACKEND_AUTOLOAD=0`` switches
torch's mechanism off.

At the first scalar with a gradient that a module returns, as a loss is, the watch itself
(:mod:`negplug.hosts.watch`) takes over. Variables that cannot be used are an error at that moment,
as they are in a Trainer: an objective without a sampler, say. A variable that turns out to have no
effect is warned of in the first steps (:mod:`negplug.hosts.unheeded`), an unknown name at once.
"""

from __future__ import annotations

import os
import sys


def arm() -> None:
    """Watch for the first loss of this process if the environment asks for a treatment."""
    if not any(name[:8].upper() == "NEGPLUG_" for name in os.environ):
        return
    from negplug.contract import variables

    if _is_first():
        variables.name_unknown(os.environ)
    # The command line says itself what is treated in its own process.
    if "negplug.cli" in sys.modules:
        return
    if variables.treats(os.environ):
        from negplug.hosts import first_loss, resumed  # noqa: F401  (which notes what is loaded)

        first_loss.wait()
    from negplug.hosts import unheeded

    if unheeded.may_be_said(os.environ):
        unheeded.wait()


def _is_first() -> bool:
    """Return whether this process is no child and no further rank, so that a word is said once."""
    import multiprocessing

    ranks = (os.environ.get(name, "0") for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return multiprocessing.parent_process() is None and set(ranks) == {"0"}
