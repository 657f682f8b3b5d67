"""What a backward pass cannot do with a loss, in one sentence each."""

from __future__ import annotations


def unknown_call() -> RuntimeError:
    """Return the error about a call computed again, of which no first one is known."""
    return RuntimeError(
        "a loss was called inside of a backward pass with embeddings of no call before it, so it "
        "is unknown which call is computed again; call the loss outside of backward passes, and "
        "let what is checkpointed compute the same twice"
    )


def closed_call() -> RuntimeError:
    """Return the error about a call computed again, from which its step has been taken in."""
    return RuntimeError(
        "a loss call is computed again after its step was closed and its memory changed; "
        "run every backward pass of a step before the next step, and before end_step()"
    )


def no_second_derivative() -> RuntimeError:
    """Return the error about a gradient that is to be differentiated: kernels give the first."""
    return RuntimeError(
        "the loss was differentiated with create_graph=True, as for a gradient penalty, but its "
        "gradient has no derivative, so the penalty would silently lack that part; leave "
        "create_graph out, or put the penalty on another loss"
    )


def mixed_up(where: str) -> RuntimeError:
    """Return the error of a step whose calls are not those of the steps before.

    Args:
        where: The place of one of them.
    """
    return RuntimeError(
        f"a step has called a loss that remembers at {where} more or less often than the steps "
        f"before it, so it is unknown which memory is whose; call it equally often in every step, "
        f"or make a loss for each place"
    )
