"""Whether a declared class computes the form of loss that it is declared to be.

In its first training call the class's own value is compared with that of the form, of the same
inputs and with all negatives of the batch, as ``in_batch()`` has it. A loss with other negatives
would otherwise become another loss, unnoticed.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from negplug.contract.adapter import Metadata
from negplug.contract.declarations import full_name
from negplug.kernels import late
from negplug.kernels.rng_states import isolated_rng
from negplug.loss.contrastive import ContrastiveLoss

if TYPE_CHECKING:
    from negplug_lightly.declared import Form

logger = logging.getLogger("negplug")

_USUAL = (0.05, 0.07, 0.1, 0.2, 0.5, 1.0)


def insist(
    criterion: Any,
    form: str,
    asked: float | None,
    terms: Mapping[str, Form],
    out0: Tensor,
    out1: Tensor,
) -> None:
    """Compare a declared class's own value with that of its form.

    The global generators and the class's buffers and attributes stay as they were.

    Args:
        criterion: The module of the declared class.
        form: What it is declared to be.
        asked: The temperature that was asked for; None inherits the class's.
        terms: Every form's terms.
        out0: ``[B, d]`` embeddings of the first view.
        out1: ``[B, d]`` embeddings of the second view.

    Raises:
        ValueError: If the values differ. Names the form that the class has, if it is one.
    """
    device = out0.device
    if device.type == "meta" or late.capturing(device):
        return  # there are no values to compare
    name = full_name(type(criterion))
    out0, out1 = out0.detach(), out1.detach()
    with torch.no_grad(), isolated_rng(device), _unchanged(criterion):
        own = type(criterion).forward(criterion, out0, out1)
        if not isinstance(own, Tensor) or own.ndim:
            raise ValueError(
                f"{name} is declared to be {form}, which returns a scalar, but its forward does "
                f"not; {_GO_ON}"
            )
        half = torch.is_autocast_enabled(device.type) or own.element_size() < 4
        wanted, tolerance = own.item(), 2e-2 if half else 1e-3

        def value_of(other: str, temperature: float) -> float:
            form_of, losses = terms[other], []
            for batch in form_of.batches(criterion, Metadata(), out0, out1):
                loss_fn = ContrastiveLoss("in_batch()", form_of.objective(criterion), temperature)
                losses.append(loss_fn.contrast(batch).item())
            return sum(losses) / len(losses)

        def matches(other: str, temperature: float) -> bool:
            found = value_of(other, temperature)
            return math.isclose(found, wanted, rel_tol=tolerance, abs_tol=1e-4)

        readable = hasattr(criterion, "temperature")
        given: Any = criterion.temperature if readable else asked
        temperature = float(given)
        # Not finite: the step's own checks say more.
        if not math.isfinite(wanted) or matches(form, temperature):
            return
        others = [form, *(other for other in terms if other != form)]
        for tau in (temperature, *_temperatures(criterion)):
            for other in others:
                if matches(other, tau):
                    if other == form and not readable:
                        logger.warning(
                            "negplug: %s is %s at the temperature %g, and is treated at the one "
                            "that was asked for, %g",
                            *(name, form, tau, temperature),
                        )
                        return
                    at = "" if tau == temperature else f" at the temperature {tau:.4g}"
                    raise ValueError(
                        f"{name} is declared to be {form}, but its own loss of this batch is "
                        f"{wanted:.4f} and that of {form} {value_of(form, temperature):.4f}: it is "
                        f"{other}{at}; {_mend(name, form, other)}"
                    )
        raise ValueError(
            f"{name} is declared to be {form}, but its own loss of this batch is {wanted:.4f} and "
            f"that of {form} {value_of(form, temperature):.4f}, and no other form "
            f"({', '.join(others[1:])}) has its value; {_GO_ON}"
        )


_GO_ON = "use negplug.ContrastiveLoss in its place, or leave it alone with NEGPLUG_IGNORE"


def _mend(name: str, form: str, other: str) -> str:
    if other == form:
        return f"have its attribute temperature say so, or {_GO_ON}"
    return f"declare {name}={other}"


def _temperatures(criterion: nn.Module) -> list[float]:
    """Return what may be a class's temperature: numbers that it holds, then usual ones."""
    numbers = []
    for value in (*vars(criterion).values(), *criterion.parameters(), *criterion.buffers()):
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < abs(value) < 1e3:
            log = max(-9.0, min(value, 9.0))
            numbers += [value, 1 / value, math.exp(log), math.exp(-log)]
    return [tau for tau in dict.fromkeys((*numbers, *_USUAL)) if 1e-3 < tau < 1e2]


@contextlib.contextmanager
def _unchanged(criterion: nn.Module) -> Iterator[None]:
    """Put attributes and buffers of a module, and of those in it, back on leaving."""
    modules = list(criterion.modules())
    attributes = [(vars(module), dict(vars(module)), dict(module._buffers)) for module in modules]
    values = [(buffer, buffer.clone()) for buffer in criterion.buffers()]
    try:
        yield
    finally:
        for buffer, value in values:
            buffer.copy_(value)
        for found, before, buffers in attributes:
            found.clear()
            found.update(before)
            found["_buffers"].clear()
            found["_buffers"].update(buffers)
