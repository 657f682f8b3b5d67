"""What the queue of a treated loss holds, in the names of its state."""

from __future__ import annotations

from torch.nn.functional import normalize


def rows_of(handle, sampler="sampler"):
    """The rows that the only treated loss remembers."""
    (state,) = handle.state_dict().values()
    return state[f"{sampler}._extra_state"]["rows"]


def holds(rows, keys):
    """For each key whether it is among the rows."""
    return (normalize(keys.detach()) @ rows.T > 1 - 1e-9).any(1)
