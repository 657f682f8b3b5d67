"""Relative error of gradients: the hosts' losses, and ours under every backend.

The reference is a dense formula in float64, of the same float32 embeddings and the same draws.
Views of a sample are strongly correlated (cosine 0.96), as they are late in training: the positive
takes almost all of the softmax, so that the gradient is small and "probability minus one" cancels.
On a card the losses are called under autocast too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from backends import BACKENDS, forced
from devices import in_precision, precisions
from harness import Row, installed, machine
from losses import Build, hosts, on_device, ours
from torch import Tensor
from torch.nn.functional import normalize, softplus
from views import correlated_views

import negplug

BATCH_SIZE = 512
DIMENSION = 128
QUEUE = 4096
SAMPLERS = ("in_batch()", "uniform(num_negatives=100)", f"queue(size={QUEUE})")
TEMPERATURES = (0.1, 0.05, 0.02)
SPREAD = 0.2

Error = Callable[[float, str, torch.device], float]
"""Temperature, precision, device → relative error of the gradient."""
Pools = tuple[negplug.Negatives, ...]
"""What a call of a sampler gives."""


def measure_accuracy(threads: int, device: torch.device) -> list[Row]:
    """Return one row per loss, backend, precision and temperature.

    Args:
        threads: torch's threads.
        device: What computes.
    """
    torch.set_num_threads(threads)
    rows: list[Row] = []
    for name, build in hosts().items():
        rows += _rows(name, None, threads, device, _error_of(build))
    known = BACKENDS[device.type].items()
    for backend in (*installed({name: (module, name) for name, module in known}), "reference"):
        for sampler in SAMPLERS:
            error = _queue_error if sampler.startswith("queue") else _sampler_error(sampler)
            with forced(backend):
                rows += _rows(sampler, backend, threads, device, error)
    return rows


def reference(
    anchors: Tensor, positives: Tensor, pool: Tensor, serves: Tensor, temperature: float
) -> Tensor:
    """Return the mean over anchors of −log softmax of the positive, from a dense matrix.

    As softplus of the negatives' log-sum-exp minus the positive: where the positive takes all
    but 1e-16 of the softmax, cross-entropy's gradient is noise in float64 too.

    Args:
        anchors: ``[N, d]``.
        positives: ``[N, d]``, that of each anchor.
        pool: ``[K, d]``.
        serves: ``[N, K]`` or ``[1, K]`` bool, which rows are an anchor's negatives.
        temperature: τ.
    """
    logits = (anchors @ pool.T / temperature).masked_fill(~serves, -torch.inf)
    difference = logits.logsumexp(1) - (anchors * positives).sum(1) / temperature
    return softplus(difference, threshold=50.0).mean()


def _rows(
    name: str, backend: str | None, threads: int, device: torch.device, error: Error
) -> list[Row]:
    return [
        {
            "question": "gradient_accuracy",
            "competitor": name,
            "backend": backend,
            "batch_size": BATCH_SIZE,
            "d": DIMENSION,
            "dtype": precision,
            "spread": SPREAD,
            "temperature": temperature,
            **machine(threads, device),
            "relative_error": f"{error(temperature, precision, device):.1e}",
        }
        for precision in precisions(device)
        for temperature in TEMPERATURES
    ]


def _error_of(build: Build) -> Error:
    """Return the error of a loss over all negatives of the batch."""

    def error(temperature: float, precision: str, device: torch.device) -> float:
        views = _views(device)
        with in_precision(precision, device):
            got = on_device(build(temperature), device)(*views)
        return _both_views_error(got, views, None, temperature)

    return error


def _sampler_error(sampler: str) -> Error:
    """Return the error of our loss, with negatives from the batch."""

    def error(temperature: float, precision: str, device: torch.device) -> float:
        views = _views(device)
        loss = ours(temperature, sampler).to(device)
        drawn = _watch(loss)
        with in_precision(precision, device):
            got = loss(*views)
        return _both_views_error(got, views, drawn, temperature)

    return error


def _queue_error(temperature: float, precision: str, device: torch.device) -> float:
    """Return the error of our loss of queries against a full queue."""
    queries, keys = _views(device)
    keys = keys.detach()
    loss = ours(temperature, SAMPLERS[-1]).to(device)
    past = correlated_views(QUEUE, DIMENSION, seed=1, device=device)
    loss.sampler(negplug.ContrastiveBatch.from_pairs(past[0], past[1].detach()))
    loss.sampler.flush()
    drawn = _watch(loss)
    with in_precision(precision, device):
        got = loss.contrast(negplug.ContrastiveBatch.from_pairs(queries, keys))
    exact = queries.detach().double().requires_grad_()
    (part,) = drawn[0]
    pool = part.rows.embeddings.double()
    anchors, positives = normalize(exact, dim=1), normalize(keys.double(), dim=1)
    serves = torch.ones(1, len(pool), dtype=torch.bool, device=device)
    wanted = reference(anchors, positives, pool, serves, temperature)
    return _relative(got, (queries,), wanted, (exact,))


def _both_views_error(
    got: Tensor,
    views: tuple[Tensor, ...],
    drawn: list[Pools] | None,
    temperature: float,
) -> float:
    exact = tuple(view.detach().double().requires_grad_() for view in views)
    z = normalize(torch.cat(exact), dim=1)
    sample = torch.arange(len(z), device=z.device) % BATCH_SIZE
    serves = sample[:, None] != sample
    if drawn and isinstance(drawn[0][0].choice, negplug.Columns):
        serves = torch.zeros_like(serves).scatter_(1, drawn[0][0].choice.columns, True)
    wanted = reference(z, z.roll(BATCH_SIZE, 0), z, serves, temperature)
    return _relative(got, views, wanted, exact)


def _views(device: torch.device) -> tuple[Tensor, Tensor]:
    return correlated_views(BATCH_SIZE, DIMENSION, SPREAD, device=device)


def _watch(loss: negplug.ContrastiveLoss) -> list[Pools]:
    """Return a list that receives the negatives of the calls to come."""
    drawn: list[Pools] = []
    loss.sampler.register_forward_hook(lambda _, __, negatives: drawn.append(negatives))
    return drawn


def _relative(
    got: Tensor, inputs: tuple[Tensor, ...], wanted: Tensor, exact: tuple[Tensor, ...]
) -> float:
    """Return ‖∇got − ∇wanted‖/‖∇wanted‖, each loss differentiated in its own inputs."""
    gradient = torch.cat(torch.autograd.grad(got, inputs)).double()
    truth = torch.cat(torch.autograd.grad(wanted, exact))
    return float((gradient - truth).norm() / truth.norm())
