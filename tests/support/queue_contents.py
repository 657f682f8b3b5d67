"""What the queue of a treated loss holds, in the names of its state."""

from __future__ import annotations

from torch.nn.functional import normalize


def rows_of(handle, sampler="sampler"):
    """The rows that the only treated loss remembers."""
    (state,) = handle.state_dict().values()
    return rows_in(state, sampler)


def rows_in(state, sampler="sampler"):
    """The rows written so far, ``[n, d]``, in the state of a loss; room is kept for more."""
    values = state[f"{sampler}._extra_state"]["values"]
    return values["rows"][: values["count"]]


def names_in(state, sampler="sampler"):
    """Their ids, data set indexes and labels, ``[3, n]``, on the CPU."""
    values = state[f"{sampler}._extra_state"]["values"]
    return values["names"][:, : values["count"]].cpu()


def holds(rows, keys):
    """For each key whether it is among the rows."""
    return (normalize(keys.detach()) @ rows.T > 1 - 1e-9).any(1)
