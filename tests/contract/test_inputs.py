"""What is wrong with the arguments of a loss is named."""

from __future__ import annotations

import pytest
import torch

from negplug import (
    ContrastiveLoss,
    make_objective,
)

Z = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("views", "error", "message"),
    [
        ((Z, Z[:3]), ValueError, r"one shape \[B, d\], got z0 \(4, 3\) and z1 \(3, 3\)"),
        ((Z[0], Z[0]), ValueError, r"z0 must have shape \[B, d\]"),
        ((Z[:0], Z[:0]), ValueError, r"z0 must have shape \[B, d\]"),
        ((Z.long(), Z.long()), TypeError, "z0 must be a floating-point tensor, got torch.int64"),
        ((Z, [1.0]), TypeError, "z1 must be a tensor"),
        ((Z, Z * torch.nan), ValueError, "z1 holds NaN or infinite"),
    ],
)
def test_bad_views(views, error, message):
    with pytest.raises(error, match=message):
        ContrastiveLoss()(*views)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"indexes": torch.arange(3)}, ValueError, r"indexes must be a tensor \[4\]"),
        ({"indexes": torch.ones(4)}, TypeError, "indexes must be integers"),
        ({"indexes": [1, 2, 3, 4]}, ValueError, r"indexes must be a tensor \[4\]"),
        ({"labels": torch.full((4,), 0.5)}, TypeError, "labels must be integers, got 0.5"),
        ({"labels": ["a", "b", "c", "d"]}, TypeError, "labels must be a tensor of one integer"),
    ],
)
def test_bad_metadata(given, error, message):
    with pytest.raises(error, match=message):
        ContrastiveLoss()(torch.randn(4, 3), torch.randn(4, 3), **given)


@pytest.mark.parametrize(
    ("temperature", "error"),
    [(0, ValueError), (-0.1, ValueError), (float("nan"), ValueError), ("0.1", TypeError)],
)
def test_bad_temperature(temperature, error):
    with pytest.raises(error, match="temperature must be"):
        ContrastiveLoss(temperature=temperature)


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("uniform(num_negatives=0)", ValueError, "num_negatives must be at least 1, got 0"),
        ("uniform(num_negatives=2.5)", TypeError, "num_negatives must be an integer, got 2.5"),
        ("uniform(num_negatives=True)", TypeError, "num_negatives must be an integer"),
        ("uniform(num_negatives=1, shared=1)", TypeError, "shared must be True or False"),
        ("uniform(num_negatives=1, source=3)", TypeError, "source must be a sampler"),
    ],
)
def test_bad_sampler_arguments(expression, error, message):
    with pytest.raises(error, match=message):
        ContrastiveLoss(expression)


def test_bad_objective_argument():
    with pytest.raises(ValueError, match="positives must be one of"):
        make_objective("infonce(positives='all')")
