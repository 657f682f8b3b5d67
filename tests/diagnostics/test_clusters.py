"""Distances inside classes and silhouettes, against loops over the formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from device import DEVICE
from prepared_rows import prepared

from negplug.diagnostics import (
    intra_class_distance,
    silhouette,
)


def features(n=18, d=5, classes=4, seed=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (3 * (centres[labels] + 0.7 * noise)).to(DEVICE), labels.to(DEVICE)


@pytest.mark.parametrize("normalize", [True, False])
def test_intra_class_distance_is_the_mean_over_classes_of_the_mean_over_pairs(normalize):
    x, labels = features()
    labels[0] = 9  # alone in its class, and the classes are of two sizes
    rows = prepared(x, normalize)
    per_class = []
    for label in set(labels.tolist()) - {9}:
        of_class = [i for i in range(len(x)) if labels[i] == label]
        pairs = [(i, j) for i in of_class for j in of_class if i < j]
        per_class.append(sum((rows[i] - rows[j]).norm() for i, j in pairs) / len(pairs))
    expected = float(sum(per_class) / len(per_class))
    assert intra_class_distance(x, labels, normalize) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("normalize", [True, False])
def test_silhouette_is_rousseeuws(normalize):
    x, labels = features()
    rows = prepared(x, normalize)
    scores = []
    for i in range(len(x)):
        to = {
            label: [float((rows[i] - rows[j]).norm()) for j in range(len(x)) if labels[j] == label]
            for label in range(4)
        }
        own = to.pop(int(labels[i]))
        a = sum(own) / (len(own) - 1)  # the distance to itself is 0
        b = min(sum(other) / len(other) for other in to.values())
        scores.append((b - a) / max(a, b))
    found = silhouette(x, labels, normalize)
    assert found == pytest.approx(sum(scores) / len(scores), abs=1e-9)


def test_the_scale_of_features_does_not_matter_by_default():
    x, labels = features()
    scale = torch.rand(len(x), 1, dtype=torch.float64).to(DEVICE) + 0.5
    for measure in (intra_class_distance, silhouette):
        assert measure(x * scale, labels) == pytest.approx(measure(x, labels))
        assert measure(x * 7, labels, normalize=False) != pytest.approx(measure(x, labels))


def test_classes_refuse_what_they_cannot_measure():
    x, labels = features()
    apart = torch.arange(len(x), device=DEVICE)
    with pytest.raises(ValueError, match="no class with two rows"):
        intra_class_distance(x, apart)
    for wrong in (apart, torch.zeros_like(apart)):
        with pytest.raises(ValueError, match="a silhouette needs at least 2 classes"):
            silhouette(x, wrong)
    with pytest.raises(ValueError, match=r"got \[18, 5\] and \[17\]"):
        silhouette(x, labels[1:])
    assert math.isnan(
        silhouette(x.index_fill(0, torch.tensor([2], device=DEVICE), torch.inf), labels)
    )
