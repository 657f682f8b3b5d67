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
from negplug.contract.draws import Draws
from negplug.kernels import late
from negplug.kernels.distributed import world_size
from negplug.kernels.precision import float32_products
from negplug.kernels.rng_states import isolated_rng
from negplug.kernels.unit import unit_rows
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

    The global generators and the class's buffers stay as they were, and its attributes are bound as
    they were.

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
    # Of half precision, forms differ by less than values are known.
    precision = torch.promote_types(out0.dtype, torch.float32)
    out0, out1 = (rows.detach().to(precision) for rows in (out0, out1))
    plainly = torch.autocast(device.type, enabled=False)
    with torch.no_grad(), isolated_rng(device), _unchanged(criterion), plainly:
        # Views of a large batch that have little in common are as far from each other in any form.
        told = *_lopsided(out0), "a batch that tells forms apart"
        asked = _compare(criterion, form, asked, terms, *told)
        _compare(criterion, form, asked, terms, out0, out1, "this batch")


def _compare(
    criterion: Any,
    form: str,
    asked: float | None,
    terms: Mapping[str, Form],
    out0: Tensor,
    out1: Tensor,
    what: str,
) -> float | None:
    """Compare the values of one batch; return the temperature if it can only be told by them."""
    name = full_name(type(criterion))
    own = type(criterion).forward(criterion, out0.clone(), out1.clone())
    if not isinstance(own, Tensor) or own.ndim:
        raise ValueError(
            f"{name} is declared to be {form}, which returns a scalar, but its forward does not; "
            f"{_GO_ON}"
        )
    wanted = own.item()

    def value_of(other: str, temperature: float) -> float:
        form_of, losses = terms[other], []
        for batch in form_of.batches(criterion, Metadata(), out0, out1):
            loss_fn = ContrastiveLoss("in_batch()", form_of.objective(criterion), temperature)
            losses.append(loss_fn.contrast(batch).item())
        return sum(losses) / len(losses)

    readable = hasattr(criterion, "temperature")
    given: Any = criterion.temperature if readable else asked
    temperature = float(given)
    others = [other for other in terms if other != form and _serves(terms[other], criterion)]
    # Every form's, on every rank: to form a batch may be a collective.
    values = {other: value_of(other, temperature) for other in (form, *others)}
    apart = {other: abs(value - wanted) for other, value in values.items()}
    # Not finite: the step's own checks say more.
    if not math.isfinite(wanted) or (
        _close(values[form], wanted) and apart[form] <= _known_to(wanted, min(apart.values()))
    ):
        return asked
    nearest = min(apart, key=apart.__getitem__)
    differs = (
        f"{name} is declared to be {form}, but its own loss of {what} is {wanted:.6g} and that of "
        f"{form} {values[form]:.6g}"
    )
    if nearest != form and _close(values[nearest], wanted):
        raise ValueError(f"{differs}: it is {nearest}; declare {name}={nearest}")
    alone = world_size() == 1 or not getattr(criterion, "gather_distributed", False)
    for tau in _temperatures(criterion) if alone else ():
        for other in (form, *others):
            if not _close(value_of(other, tau), wanted):
                continue
            if other == form and not readable:
                logger.warning(
                    "negplug: %s is %s at the temperature %g, and is treated at the one that was "
                    "asked for, %g",
                    *(name, form, tau, temperature),
                )
                return tau
            found = f"{differs}: it is {other} at the temperature {tau:.4g}"
            raise ValueError(f"{found}; {_mend(name, form, other)}")
    raise ValueError(f"{differs}, and no other form ({', '.join(others)}) has its value; {_GO_ON}")


def _lopsided(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows ``[B, d]`` of two views whose sums over rows and over columns differ."""
    random = Draws(0, 0).random(0, like.device)
    out0, noise = random.normal((2, *like.shape), like.dtype)
    out0[:, 4:] *= 0.1  # so that similarities vary much
    out1 = out0 + noise / 4
    out1[::2] *= 0.1
    out1[::2, 0] += 1  # half of the keys are much the same
    return unit_rows(out0), unit_rows(out1)


def _close(value: float, wanted: float) -> bool:
    return math.isclose(value, wanted, rel_tol=1e-3, abs_tol=1e-4)


def _known_to(wanted: float, least: float) -> float:
    """Return how far a value may be from its form's where another form is as near as ``least``."""
    if float32_products() != "highest":
        return math.inf
    return max(20 * least, 1e-5 * abs(wanted), 1e-6)


def _serves(form: Form, criterion: Any) -> bool:
    """Return whether a form has a counterpart of what a class has set."""
    try:
        form.objective(criterion)
    except ValueError:
        return False
    return True


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
