"""Relative error of float32 gradients of the in-batch loss, hosts' and ours.

The reference is a dense formula in float64, of the same float32 embeddings. Views of a sample
are strongly correlated (cosine 0.96), as they are late in training: the positive takes almost all
of the softmax, so that the gradient is small and "probability minus one" cancels.
"""

from __future__ import annotations

import torch
from harness import Row, machine
from losses import full_losses
from torch import Tensor
from torch.nn.functional import normalize, softplus
from views import correlated_views

BATCH_SIZE = 512
DIMENSION = 128
TEMPERATURES = (0.1, 0.05, 0.02)
SPREAD = 0.2


def measure_accuracy(threads: int) -> list[Row]:
    """Return one row per loss and temperature.

    Args:
        threads: torch's threads.
    """
    torch.set_num_threads(threads)
    rows: list[Row] = []
    for name, build in full_losses().items():
        for temperature in TEMPERATURES:
            views = correlated_views(BATCH_SIZE, DIMENSION, SPREAD)
            got = _gradient(build(temperature)(*views), views).double()
            exact = tuple(view.detach().double().requires_grad_() for view in views)
            wanted = _gradient(reference(exact, temperature), exact)
            error = float((got - wanted).norm() / wanted.norm())
            rows.append(
                {
                    "question": "gradient_accuracy",
                    "competitor": name,
                    "batch_size": BATCH_SIZE,
                    "d": DIMENSION,
                    "dtype": "float32",
                    "spread": SPREAD,
                    "temperature": temperature,
                    **machine(threads),
                    "relative_error": f"{error:.1e}",
                }
            )
    return rows


def reference(views: tuple[Tensor, ...], temperature: float) -> Tensor:
    """Return the mean over all anchors of −log softmax of the positive, from a dense matrix.

    As softplus of the negatives' log-sum-exp minus the positive: where the positive takes all
    but 1e-16 of the softmax, cross-entropy's gradient is noise in float64 too.
    """
    z = normalize(torch.cat(views), dim=1)
    row = torch.arange(len(z))
    logits = z @ z.T / temperature
    same = row[:, None] % BATCH_SIZE == row % BATCH_SIZE
    negatives = logits.masked_fill(same, -torch.inf).logsumexp(1)
    difference = negatives - logits[row, row.roll(BATCH_SIZE)]
    return softplus(difference, threshold=50.0).mean()


def _gradient(loss: Tensor, views: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(torch.autograd.grad(loss, views))
