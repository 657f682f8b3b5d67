"""How well the classes cluster in a space of features.

Both measures are Euclidean, on rows of unit length unless told otherwise: the scale of features
differs between runs and drifts during one, directions are what a kNN classifier or a contrastive
loss compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from negplug.kernels.unit import unit_rows


@torch.no_grad()
def intra_class_distance(features: Tensor, labels: Tensor, normalize: bool = True) -> float:
    """Return the average distance of two rows of a class, averaged over classes.

    Mitrovic, McWilliams and Rey 2020, "Less can be more in contrastive learning", PMLR 137. A
    class of a single row has no pair, and is left out.

    Args:
        features: ``[n, d]``, of any floating type.
        labels: ``[n]`` integers.
        normalize: Whether to scale the rows to unit length first.

    Raises:
        ValueError: If the shapes do not fit, or no class has two rows.
    """
    features = _checked(features, labels, normalize)
    distances = [
        torch.nn.functional.pdist(features[labels == label]).mean()
        for label, count in zip(*torch.unique(labels, return_counts=True), strict=True)
        if count > 1
    ]
    if not distances:
        raise ValueError("labels name no class with two rows, so there is no pair to measure")
    return float(torch.stack(distances).mean())


@torch.no_grad()
def silhouette(features: Tensor, labels: Tensor, normalize: bool = True) -> float:
    """Return the mean silhouette coefficient, in [-1, 1]: 1 for tight, well separated classes.

    Rousseeuw 1987, "Silhouettes: a graphical aid to the interpretation and validation of cluster
    analysis", J. Comput. Appl. Math. 20, as ``sklearn.metrics.silhouette_score`` computes it.

    Args:
        features: ``[n, d]``, of any floating type.
        labels: ``[n]`` integers, of at least 2 and at most n − 1 classes.
        normalize: Whether to scale the rows to unit length first.

    Raises:
        ValueError: If the shapes do not fit, or there are too few or too many classes.
        ImportError: If scikit-learn is not installed.
    """
    features = _checked(features, labels, normalize)
    classes = len(torch.unique(labels))
    if not 2 <= classes < len(labels):
        raise ValueError(
            f"a silhouette needs at least 2 classes and fewer than rows, got {classes} of "
            f"{len(labels)} rows"
        )
    if not features.isfinite().all():
        return math.nan  # of a diverged run; scikit-learn would raise
    return float(silhouette_score()(features.cpu().numpy(), labels.cpu().numpy()))


def silhouette_score() -> Callable[..., Any]:
    """Return scikit-learn's function.

    Raises:
        ImportError: If scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import silhouette_score
    except ImportError as error:
        raise ImportError(
            "the silhouette needs scikit-learn; install negplug[diagnostics]"
        ) from error
    score: Callable[..., Any] = silhouette_score
    return score


def _checked(features: Tensor, labels: Tensor, normalize: bool) -> Tensor:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features must be [n, d] and labels [n], got {list(features.shape)} and "
            f"{list(labels.shape)}"
        )
    if normalize:
        return unit_rows(features)
    return features if features.dtype == torch.float64 else features.float()
