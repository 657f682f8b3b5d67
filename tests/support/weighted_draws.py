"""Weighted draws for the kernels of expected logits, and a loop over them."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from negplug.kernels.posterior import WeightedDraws, expectation

TAU = 0.3


def question(anchors, entries, width, dtype):
    """Draws from a whole pool, from columns of another and from columns of the first."""
    generator = torch.Generator().manual_seed(anchors + width)
    draw = {"generator": generator, "dtype": dtype}
    a, first, second = (
        normalize(torch.randn(n, width, **draw), dim=1).requires_grad_() for n in (anchors, 9, 4)
    )
    ids = torch.randint(-1, 6, (9,), generator=generator)
    own = torch.randint(6, (anchors,), generator=generator)
    whole = torch.randn(9, anchors, **draw).T - 1
    whole[:, 2] = -torch.inf
    few = torch.randn(anchors, entries, **draw) - 40 * (torch.arange(anchors) % 3)[:, None]
    mask = torch.rand(anchors, entries, generator=generator) < 0.6
    columns = [torch.randint(n, (anchors, entries), generator=generator) for n in (4, 9)]
    own[0], whole[0], mask[0] = 77, -torch.inf, False  # draws nothing
    draws = [
        WeightedDraws(whole, None, ids=(own, ids)),
        WeightedDraws(few, mask, columns=columns[0]),
        WeightedDraws(few[:, :1], mask.T.contiguous().T, columns=columns[1]),
    ]
    return a, [first, second, first], draws


def naive(a, pools, draws):
    """Return the expected logit of each anchor, draw by draw."""
    values = []
    for i, anchor in enumerate(a):
        value, total = 0.0 * anchor.sum(), 0.0
        for pool, drawn in zip(pools, draws, strict=True):
            entries = range(len(pool) if drawn.columns is None else drawn.columns.shape[1])
            for entry in entries:
                row = entry if drawn.columns is None else drawn.columns[i, entry]
                if drawn.ids is not None and drawn.ids[0][i] == drawn.ids[1][entry]:
                    continue
                if drawn.mask is not None and not drawn.mask[i, entry]:
                    continue
                weight = drawn.log_weight.expand(len(a), len(entries))[i, entry].exp()
                value, total = value + weight * (anchor @ pool[row]) / TAU, total + weight
        values.append(value if total else value - torch.inf)
    return torch.stack(values)


def asked_for_alone():
    """Check that only what is asked for has a gradient, and which one."""
    a, pools, draws = question(6, 2, 8, torch.float32)
    frozen = [pool.detach() for pool in pools]
    wanted = torch.autograd.grad(expectation(a, pools, draws, TAU)[1:].sum(), a)
    found = torch.autograd.grad(expectation(a, frozen, draws, TAU)[1:].sum(), a)
    torch.testing.assert_close(found, wanted)
    pools[1].grad = None
    expectation(a.detach(), [frozen[0], pools[1], frozen[2]], draws, TAU)[1:].sum().backward()
    assert pools[1].grad.abs().sum() > 0
