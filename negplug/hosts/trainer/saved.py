"""What the callback finds in a checkpoint: checked before any of it is kept."""

from __future__ import annotations

from typing import Any

from negplug.kernels.distributed import rank, world_size

_OF_THE_HOST = "of the host"
_LONGEST = 1000  # characters of an expression in a message


def losses_of(state: Any, choice: dict[str, str | None]) -> dict[str, Any]:
    """Return the saved state of this rank's losses, empty if none was saved.

    Args:
        state: What :meth:`NegativeControlMixin.state_dict` returned once, or a damaged file holds.
        choice: The expressions of this run.

    Raises:
        ValueError: If the checkpoint is damaged, was written with another sampler or objective or,
            where ranks have state of their own, by another number of ranks.
    """
    if not isinstance(state, dict) or not {"losses", *choice} <= state.keys():
        found = list(state) if isinstance(state, dict) else type(state).__name__
        raise ValueError(
            f"the checkpoint's state of negplug holds {found}, not {['losses', *choice]}; the file "
            f"is damaged"
        )
    losses, ranks = state["losses"], state.get("ranks")
    each = [losses] if ranks is None else ranks
    if not (isinstance(each, list) and all(isinstance(one, dict) for one in [losses, *each])):
        raise ValueError(
            "the checkpoint's state of negplug does not hold the losses by name; the file is "
            "damaged"
        )
    if not any(each):
        return {}
    for kind, own in choice.items():
        saved = state[kind]
        if type(saved) is not type(own) or saved != own:
            named = _OF_THE_HOST if saved is None else str(saved)[:_LONGEST]
            raise ValueError(
                f"the checkpoint was written with the {kind} {named}, this run has "
                f"{own or _OF_THE_HOST}; resume with the same expression"
            )
    if ranks is not None and len(ranks) != world_size():
        raise ValueError(
            f"the checkpoint holds the sampler state of {len(ranks)} ranks, this run has "
            f"{world_size()}; resume with as many"
        )
    return losses if ranks is None else dict(ranks[rank()])
