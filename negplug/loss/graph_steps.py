"""The steps that graphs make, counted on the device: see :mod:`negplug.loss.graphs`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from negplug.contract.draws import Draws
from negplug.contract.part import Part
from negplug.kernels import late
from negplug.kernels.distributed import world_size
from negplug.kernels.torch_private import backward_runs
from negplug.loss.steps import Steps


class GraphSteps(nn.Module):
    """The steps that a loss's graphs have made.

    Args:
        *parts: The loss's sampler and objective.
        learns: Whether the loss's temperature learns.

    Attributes:
        done: Their number, ``[]`` int64 on the loss's device.
        before: Number of the step that is 0 in ``done``; None before the first graph.
    """

    done: Tensor

    def __init__(self, *parts: Part, learns: bool) -> None:
        super().__init__()
        self._refusal = "a learned temperature can be part of no graph" if learns else ""
        self._refusal = self._refusal or _refusal_of(*parts)
        self.before: int | None = None
        self._trained = self._again = False
        self.register_buffer("done", torch.zeros((), dtype=torch.int64), persistent=False)

    @property
    def refusal(self) -> str:
        """Why the loss can be part of no graph; empty if it can."""
        if world_size() > 1:
            return (
                "a loss of several ranks can be part of no graph: they agree on what they train "
                "with, and fail together, in Python, which a graph does not repeat"
            )
        return self._refusal

    def captured(self) -> Tensor:
        """Return what counts the steps of a graph that is being captured.

        Raises:
            RuntimeError: If the loss can be part of no graph.
        """
        if self.refusal:
            raise RuntimeError(self.refusal)
        return self.done

    def computes(self) -> None:
        """Take note that a graph is about to compute a loss with a gradient."""
        self._again = self._trained and backward_runs()
        self._trained = self._trained or not backward_runs()

    def draws(self, draws: Draws) -> Draws:
        """Return the draws of a graph's call; of one that is computed again those that refuse.

        A checkpointed region computes it again in the backward pass, and its step is counted on by
        then. With ``use_reentrant=True`` nothing has a gradient at first, so nothing is counted.
        """
        return _NoDraws(draws.seed, draws.step) if self._again else draws

    def lead(self, steps: Steps) -> bool:
        """Let the next step come behind those of graphs; return whether there are any.

        This waits for the device. A step that has begun keeps its number.
        """
        if self.before is None or steps.following:
            return False
        number = self.before + int(late.read(self.done) or 0)
        steps.ended += number - steps.number
        steps.number = number
        return True

    @torch.no_grad()
    def advance(self) -> None:
        """Count a step."""
        self.done.add_(1)

    @torch.no_grad()
    def restart(self, number: int) -> None:
        """Give the next step this number, in graphs that are captured already too."""
        self.done.fill_(0 if self.before is None else number - self.before)

    def number(self, done: Tensor, steps: Steps, device: torch.device) -> int | Tensor:
        """Return the number of a graph's step, on the host if it can be read there.

        Args:
            done: ``done``, as a graph was given it.
            steps: Those outside of graphs; none is open.
            device: Of the embeddings.

        Raises:
            ValueError: If the loss is on another device.
        """
        check_device(done, device)
        first = self.before is None
        if self.before is None:
            self.before = steps.number
        # A first call may wait, as a first step may.
        waits = first and not late.capturing(device)
        value = late.read(done) if waits else late.known(done)
        return done + self.before if value is None else self.before + int(value)


class _NoDraws(Draws):
    def seed_of(self, stream: int) -> int | Tensor:
        raise RuntimeError(
            "a compiled loss is computed again by activation checkpointing, and would draw other "
            "negatives than at first; checkpoint the encoder alone, or call the loss outside of "
            "what is compiled"
        )


def check_device(done: Tensor, device: torch.device) -> None:
    """Raise ``ValueError`` unless a loss counts its steps on the device of the embeddings."""
    if done.device != device:
        raise ValueError(
            f"in a graph a loss counts its steps on its device, {done.device}, but the embeddings "
            f"are on {device}; move it there, loss_fn.to({str(device)!r})"
        )


def _refusal_of(*parts: Part) -> str:
    """Return why a sampler or an objective can be part of no graph; empty if each can."""
    for part in parts:
        for inside in part.parts_inside():
            if inside.updates:
                return (
                    f"{inside} can be part of no graph: it remembers a step once its backward pass "
                    f"is over, in Python, which a graph does not repeat"
                )
        if any(parameter.requires_grad for parameter in part.parameters()):
            return f"{part} can be part of no graph: it has parameters that learn"
    return ""
