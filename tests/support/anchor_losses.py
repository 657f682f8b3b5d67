"""Questions for the kernels of the loss of each anchor, and their comparison with the reference."""

from __future__ import annotations

from typing import NamedTuple

import torch
from device import DEVICE
from torch import Tensor
from torch.nn.functional import normalize

from negplug.kernels.anchor_loss.reference import plain_losses

FORMS = [(form, apart) for form in ("sum", "each", "mean") for apart in (False, True)]


class Asked(NamedTuple):
    """Anchors and keys, columns of positives, and the negatives' log-sum-exps."""

    rows: tuple[Tensor, Tensor]
    positives: Tensor
    negative: Tensor


def question(number: int, width: int, positives: int, keys: str) -> Asked:
    """Return anchors, some of which have fewer positives, none, or no negatives.

    Args:
        number: N.
        width: d.
        positives: P.
        keys: ``"own"``, the anchors themselves; ``"own keys"``; or ``"frozen"`` ones.
    """
    draw = {"generator": torch.Generator().manual_seed(number + width), "dtype": torch.float64}
    anchors = normalize(torch.randn(number, width, **draw), dim=1).to(DEVICE, torch.float32)
    others = normalize(torch.randn(number + 3, width, **draw), dim=1).to(DEVICE, torch.float32)
    pool = anchors if keys == "own" else others
    columns = torch.rand(number, len(pool), **draw).argsort(1)[:, :positives]
    columns = torch.nn.functional.pad(columns, (0, positives - columns.shape[1]), value=-1)
    columns[torch.rand(columns.shape, **draw) < 0.3] = -1
    negative = 3 * torch.randn(number, **draw)
    negative[number // 2 :: 5] = -torch.inf
    anchors.requires_grad_()
    pool.requires_grad_(keys != "frozen")
    return Asked((anchors, pool), columns.to(DEVICE), negative.to(DEVICE, torch.float32))


def compared(kernel, asked: Asked, temperature: float, form: str, apart: bool = False) -> None:
    """Compare a kernel's value and gradient with the reference's in float64."""
    (anchors, keys), positives, negative = asked
    if positives.shape[1] == 1:
        form = "each"
    # As large as the logits are, so that neither side alone decides.
    negative = (negative / temperature).requires_grad_()
    leaves = [x for x in {id(x): x for x in (anchors, keys)}.values() if x.requires_grad]
    exact = [x.detach().double().requires_grad_() for x in leaves]
    wide_keys = exact[-1] if keys.requires_grad else keys.double()
    wide_negative = negative.detach().double().requires_grad_()
    ours = kernel(anchors, keys, positives, negative, temperature, form, apart)
    terms = (exact[0], wide_keys, positives, wide_negative)
    theirs = plain_losses(*terms, temperature, form, apart)
    # A logit is as far off as its rounding, and a probability by as much.
    tolerance = 2e-7 / temperature + 3e-6
    assert (ours.double() - theirs).abs().max() <= tolerance * theirs.abs().max().clamp(min=1)
    none = (positives < 0).all(1) | (negative == -torch.inf)
    assert (ours[none] == 0).all()
    weights = torch.linspace(-1, 2, len(ours), dtype=torch.float64, device=ours.device)
    found = torch.autograd.grad((ours * weights).sum(), [*leaves, negative])
    wanted = torch.autograd.grad((theirs * weights).sum(), [*exact, wide_negative])
    for one, other in zip(found, wanted, strict=True):
        assert one.isfinite().all()
        assert (one.double() - other).norm() <= tolerance * other.norm().clamp(min=1e-3)
