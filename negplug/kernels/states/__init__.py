"""States of chains that are not among what is proposed: their logits, and the weights of views.

A state is a sample with V views, some of which are known. Of an anchor whose state is outside,
s_u being the logits of the m views that are known,

    S = log (1/m) Σ_u e^{s_u},      log w_u = log W + s_u − log Σ_u e^{s_u}.

Kernels: :mod:`negplug.kernels.states.fused`, in Triton, on a GPU;
:mod:`negplug.kernels.states.compiled`, loops in numba, for tensors on the CPU;
:mod:`negplug.kernels.states.gathering`, in torch operations, on any device.
"""

from __future__ import annotations

from torch import Tensor

from negplug.kernels.choice import Kernel, Operation, lazily, numba_refusal, triton_refusal
from negplug.kernels.states.gathering import compared_states, weights_of_known
from negplug.kernels.states.result import Compared

__all__ = ["COMPARING", "STATE_WEIGHTS", "Compared", "compare", "view_weights"]


COMPARING: Operation[None] = Operation(
    "logits of states",
    None,
    (
        Kernel("triton", lazily("states.fused", "fused_comparison"), triton_refusal),
        Kernel("numba", lazily("states.compiled", "compiled_comparison"), numba_refusal),
        Kernel("torch", lambda: compared_states),
    ),
)
STATE_WEIGHTS: Operation[None] = Operation(
    "weights of states",
    None,
    (
        Kernel("triton", lazily("states.fused", "fused_weights"), triton_refusal),
        Kernel("numba", lazily("states.compiled", "compiled_weights"), numba_refusal),
        Kernel("torch", lambda: weights_of_known),
    ),
)


def compare(
    table: Tensor,
    known: Tensor,
    state: Tensor,
    place: Tensor,
    initial: Tensor,
    anchors: Tensor,
    temperature: float,
) -> Compared:
    """Compare anchors with their states, as far as those lie outside of what is proposed.

    Args:
        table: ``[V, n, d]``, views of samples, n ≥ 1.
        known: ``[V, n]`` bool, which of them are known.
        state: ``[N]`` int64, a sample, also from n on; -1 = none.
        place: ``[N]`` int64, -1 where the state is outside.
        initial: ``[N]``, logits of states that are not.
        anchors: ``[N, d]``.
        temperature: τ > 0.
    """
    kernel = COMPARING.kernel(anchors.device, None)
    compared: Compared = kernel(table, known, state, place, initial, anchors, temperature)
    return compared


def view_weights(compared: Compared, weight: Tensor) -> Tensor:
    """Return the log weights ``[N, V]`` of views of states, whose own are ``weight`` ``[N]``."""
    kernel = STATE_WEIGHTS.kernel(weight.device, None)
    weights: Tensor = kernel(compared, weight)
    return weights
