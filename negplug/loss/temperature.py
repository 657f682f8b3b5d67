"""A temperature that learns, with its exact gradient ∂L/∂τ from kernels that take a number.

Every logit is ⟨a, k⟩/τ with an anchor a. So with any number τ₀ the loss of τ is that of τ₀ with
anchors a·τ₀/τ, and autograd's gradient through the factor is ∂L/∂τ: no sampler, no objective and no
kernel needs to know. τ₀ is the value of τ, as far as a host knows it without waiting for its
device: on the CPU the value itself, elsewhere that of the step before, which the factor corrects.
Only what draws from the softmax (``gumbel_max``, ``emc2``, ``isir``) draws for τ₀.

Where the keys are the anchors, and all negatives are keys, both carry the root of the factor, so
that they stay one batch and keep the kernels for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from negplug.contract.batch import ContrastiveBatch
from negplug.contract.inputs import check_number, check_temperature
from negplug.contract.local import check_local
from negplug.contract.negatives import Negatives
from negplug.kernels import late


class LearnedTemperature(nn.Module):
    """τ = e^−t with a parameter t, as CLIP has it (Radford et al. 2021, arXiv:2103.00020, 2.5).

    t is kept such that τ is in [smallest, largest], as CLIP's training keeps e^t in [1, 100]: a
    step of the optimizer that leaves it is set back before t is used again.

    Args:
        initial: τ at first; CLIP's is 0.07.
        smallest: The least τ, above 0.
        largest: The greatest τ.

    Attributes:
        logit_scale: t, ``[]`` float32. Give it to the optimizer, without weight decay.

    Raises:
        TypeError: If an argument is no number.
        ValueError: Unless 0 < smallest ≤ initial ≤ largest.
    """

    def __init__(self, initial: float = 0.07, smallest: float = 0.01, largest: float = 1.0) -> None:
        super().__init__()
        where = "LearnedTemperature"
        given = {"initial": initial, "smallest": smallest, "largest": largest}
        self.initial, self.smallest, self.largest = (
            check_number(where, name, value, -math.inf, math.inf) for name, value in given.items()
        )
        if not 1e-6 <= self.smallest <= self.initial <= self.largest:
            raise ValueError(
                f"{where}: needs 1e-6 ≤ smallest ≤ initial ≤ largest, got smallest={smallest}, "
                f"initial={initial}, largest={largest}"
            )
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(self.initial)))
        self._known = LateNumber()

    def forward(self) -> Tensor:
        """Return τ, ``[]``, with its graph; and set a t back that has left the range."""
        with torch.no_grad():
            # Not a new version: a first call of a step has saved what comes of it for its backward.
            limits = -math.log(self.largest), -math.log(self.smallest)
            self.logit_scale.data.clamp_(*limits)
        return torch.exp(-self.logit_scale)

    def number(self, tau: Tensor) -> float:
        """Return what is known of τ; see the module."""
        return self._known.of(tau, self.initial)

    def extra_repr(self) -> str:
        """Show the range."""
        return f"initial={self.initial}, smallest={self.smallest}, largest={self.largest}"

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._known = LateNumber()
        super()._load_from_state_dict(*args, **kwargs)


class LateNumber:
    """What is known of a number that a device computes anew in each step."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._arriving: Callable[[], list[Any] | None] | None = None

    def of(self, value: Tensor, otherwise: float) -> float:
        """Return a value ``[]`` where it is free to read, else that of the call before.

        A first call waits for it.

        Args:
            value: The number.
            otherwise: What it is taken for where no values exist.
        """
        value = value.detach()
        if late.free_to_read(value.device):
            return float(late.known(value))
        if self._last is None:
            self._last = late.read(value)
        arrived = None if self._arriving is None else self._arriving()
        if arrived is not None:
            self._last = arrived[0]
        self._arriving = late.later(value[None])
        return otherwise if self._last is None else float(self._last)

    def __deepcopy__(self, memo: Any) -> LateNumber:
        return LateNumber()

    def __getstate__(self) -> dict[str, Any]:
        return {"_last": None, "_arriving": None}


def checked(temperature: float | LearnedTemperature) -> float | LearnedTemperature:
    """Return a temperature of a loss; raise ``TypeError`` or ``ValueError`` if it is none."""
    if isinstance(temperature, LearnedTemperature):
        return temperature
    return check_temperature(temperature)


def resolved(given: Any, known: LateNumber) -> tuple[float, Tensor | None]:
    """Return a temperature as a number, τ₀, and as the tensor τ if it learns.

    Args:
        given: A number, a tensor ``[]``, or a :class:`LearnedTemperature`.
        known: What is known of a tensor that somebody else learns.

    Raises:
        TypeError, ValueError: If it is no temperature, or has diverged.
    """
    tau: Tensor
    if isinstance(given, LearnedTemperature):
        tau = given()
        number = given.number(tau)
        if math.isnan(number):
            raise ValueError("the learned temperature is NaN; the optimizer has diverged")
    elif isinstance(given, Tensor) and given.requires_grad and given.numel() == 1:
        check_local("temperature", given)
        tau = given.reshape(())
        number = check_temperature(known.of(tau, 1.0))
    else:
        return check_temperature(given), None
    return number, tau if torch.is_grad_enabled() or not late.free_to_read(tau.device) else None


def sharpened(
    batch: ContrastiveBatch, negatives: tuple[Negatives, ...], number: float, tau: Tensor
) -> tuple[ContrastiveBatch, tuple[Negatives, ...]]:
    """Return batch and negatives whose logits with τ₀ are those of τ.

    Args:
        batch: The batch.
        negatives: Those of its anchors.
        number: τ₀.
        tau: τ, ``[]``.
    """
    anchors = batch.anchors
    factor = (number / tau).to(anchors.embeddings.dtype)
    context = replace(batch.context, sharpness=factor)
    if batch.keys.same_as(anchors) and all(part.rows.same_as(anchors) for part in negatives):
        both = replace(anchors, embeddings=anchors.embeddings * factor.sqrt())
        parts = tuple(replace(part, rows=both) for part in negatives)
        return replace(batch, anchors=both, keys=both, context=context), parts
    own = replace(anchors, embeddings=anchors.embeddings * factor, name="")
    return replace(batch, anchors=own, context=context), negatives
