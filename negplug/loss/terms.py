"""What must be the same on all ranks of a run, by the name that a message gives it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence

from torch import Tensor

from negplug.contract.part import Part
from negplug.contract.provenance import installed_version
from negplug.contract.state import Stateful, digest_of
from negplug.contract.variables import flag
from negplug.kernels.announcing import default_device, exchanged
from negplug.kernels.distributed import world_size
from negplug.kernels.errors import RanksError
from negplug.kernels.meeting import Topic, meet

_VARIABLES = (
    "ACCUMULATE",
    "BACKEND",
    "COMPOSE",
    "DIAGNOSTICS",
    "DISABLED_PLUGINS",
    "IGNORE",
    "OBJECTIVE",
    "SAMPLER",
    "TEMPERATURE",
    "TREAT",
)
"""Of the environment: what changes the losses of a rank, or what it exchanges beside them."""

_FLAGS = ("NEGPLUG_DISABLE_AUTOLOAD", "NEGPLUG_STRICT")

_DIAGNOSED = Topic(
    "begin a fit with NEGPLUG_DIAGNOSTICS",
    "has begun no fit with NEGPLUG_DIAGNOSTICS",
    "it is set on some ranks alone",
)

_ADDRESS = re.compile(" at 0x[0-9a-f]+")  # in the description of a function, of each process


def variables() -> dict[str, str]:
    """Return what the environment says of the losses of this rank; what is blank is unset."""
    names = [f"NEGPLUG_{name}" for name in _VARIABLES]
    found = {f"variable {name}": os.environ.get(name, "").strip() or "unset" for name in names}
    return found | {f"variable {name}": str(flag(name, os.environ)) for name in _FLAGS}


def plain(terms: Mapping[str, str]) -> dict[str, str]:
    """Return terms without what differs between processes and means nothing."""
    return {name: _ADDRESS.sub("", value) for name, value in terms.items()}


def compare(everyones: Sequence[Mapping[str, str]]) -> None:
    """Raise unless all ranks have the same terms.

    Raises:
        RanksError: Names the first that differs, and two ranks.
    """
    first = everyones[0]
    for rank, terms in enumerate(everyones):
        for name in (*first, *terms):
            own, other = first.get(name), terms.get(name)
            if own != other:
                raise RanksError(
                    f"the ranks differ in the {name}: rank 0 has {own}, rank {rank} has {other}; "
                    f"all ranks of a run need the same"
                )


def insist_on_same(terms: Mapping[str, str]) -> None:
    """Exchange terms and the variables of the environment, and compare them; on every rank.

    Args:
        terms: Of this rank.

    Raises:
        RanksError: If a rank has others, or does not come; on every rank.
    """
    if world_size() > 1:
        said = json.dumps(plain(variables() | dict(terms)))
        compare([json.loads(text) for text in exchanged(said, default_device())])


def insist_on_same_diagnostics() -> None:
    """Insist that every rank measures the same, whether a loss is treated or not.

    Raises:
        RanksError: If a rank measures something else, or does not come; on every rank that does.
    """
    if world_size() > 1:
        compare([json.loads(text) for text in meet(_DIAGNOSED, json.dumps(variables()))] or [{}])


def remembered(parts: dict[str, Part]) -> dict[str, str]:
    """Return what tells the state of each part from another's, where all ranks hold the same."""
    return {
        f"memory of the {name}{path and f' ({path})'}": digest_of(module)
        for name, part in parts.items()
        for path, module in part.named_modules()
        if isinstance(module, Stateful) and not module.per_rank
    }


def terms_of(
    step: int, parts: dict[str, Part], temperature: float | None, rows: Tensor
) -> dict[str, str]:
    """Return what must be the same on all ranks, by the name that a message gives it."""
    terms = {"version of negplug": str(installed_version("negplug"))}
    for name, part in parts.items():
        terms[name] = str(part)
        for path, module in part.named_modules():
            if isinstance(module, Stateful):
                # Such as a size that was taken from the host.
                for key, value in module.all_settings().items():
                    terms[f"{key} of the {name}{path and f' ({path})'}"] = repr(value)
    terms["temperature"] = repr(temperature)
    terms["type of the embeddings"] = str(rows.dtype)
    terms["width of the embeddings"] = str(rows.shape[1])
    terms["number of training steps done"] = str(step)
    return plain(terms | variables())
