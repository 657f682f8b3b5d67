"""The diagnostics as plain functions, against loops over the formulas in float64."""

from __future__ import annotations

import math

import naive
import pytest
import torch
from moments import two_pass
from torch import nn

from negplug.diagnostics import (
    GradientMoments,
    alignment,
    gradients,
    intra_class_distance,
    silhouette,
    uniformity,
)

# --- gradients ----------------------------------------------------------------------------------


def parameters(*shapes):
    return [(f"p{n}", nn.Parameter(torch.zeros(shape))) for n, shape in enumerate(shapes)]


def moments_of(recorded, decay=0.9, named=None):
    named = named or parameters(*(gradient.shape for gradient in recorded[0]))
    moments = GradientMoments(decay)
    for step in recorded:
        for (_, parameter), gradient in zip(named, step, strict=True):
            parameter.grad = gradient
        moments.update(named)
    return moments


def random_gradients(steps, *shapes, offset=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [[offset + torch.randn(s, generator=generator) for s in shapes] for _ in range(steps)]


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("steps", [2, 7, 300])
def test_snr_equals_two_passes_over_recorded_gradients(decay, steps):
    recorded = random_gradients(steps, (4, 3), (5,), ())
    found = moments_of(recorded, decay).snr()
    assert found == pytest.approx(two_pass(recorded, decay), rel=1e-4)


def test_a_small_spread_about_a_large_mean_survives_float32():
    # E g² − (E g)² has no digit left here.
    recorded = random_gradients(200, (50,), offset=3000.0)
    assert moments_of(recorded).snr() == pytest.approx(two_pass(recorded, 0.9), rel=0.01)


def test_parameters_age_with_their_own_steps():
    recorded = random_gradients(12, (3,), (4,))
    for step in (0, 1, 5, 9):
        recorded[step][1] = None
    named = parameters((3,), (4,), (2,))  # the last is frozen throughout
    moments = moments_of([[*step, None] for step in recorded], named=named)
    assert moments.snr() == pytest.approx(two_pass(recorded, 0.9), rel=1e-4)
    assert list(moments.state_dict()["means"]) == ["p0", "p1"]


def test_parameters_without_spread_are_left_out():
    recorded = random_gradients(6, (3,))
    constant = torch.tensor([0.0, 0.7])
    for more in (
        [[*step, constant] for step in recorded],
        [[torch.cat([*step, constant])] for step in recorded],
    ):
        assert moments_of(more).snr() == pytest.approx(moments_of(recorded).snr(), rel=1e-6)
    assert moments_of(recorded[:1]).snr() is None
    assert GradientMoments().snr() is None


def test_a_diverged_run_has_no_ratio():
    recorded = random_gradients(6, (3,), (2,))
    recorded[3][0][1] = torch.nan
    assert math.isnan(moments_of(recorded).snr().mean)


def test_memory_is_two_floats_per_parameter_and_does_not_depend_on_chunks(monkeypatch):
    recorded = random_gradients(5, (4, 3), (5,), (7,), ())
    whole = moments_of(recorded)
    state = whole.state_dict()
    kept = [*state["means"].values(), *state["squares"].values()]
    assert sum(each.numel() * each.element_size() for each in kept) == 2 * 4 * 25
    monkeypatch.setattr(gradients, "_CHUNK", 8)
    assert moments_of(recorded).snr() == whole.snr()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_gradients_of_other_types_are_taken_in_float32(dtype):
    named = [("p", nn.Parameter(torch.zeros(6, dtype=dtype)))]
    recorded = [[g.to(dtype) for g in step] for step in random_gradients(8, (6,))]
    moments = moments_of(recorded, named=named)
    assert moments.state_dict()["means"]["p"].dtype == torch.float32
    assert moments.snr() == pytest.approx(two_pass(recorded, 0.9), rel=1e-4)


def test_saved_and_restored_moments_go_on_alike(tmp_path):
    recorded = random_gradients(9, (3, 2), (4,))
    half = moments_of(recorded[:4])
    torch.save(half.state_dict(), tmp_path / "moments.pt")
    before = half.snr()
    named = parameters((3, 2), (4,))
    for state in (half.state_dict(), torch.load(tmp_path / "moments.pt", weights_only=True)):
        restored = GradientMoments(0.9)
        restored.load_state_dict(state)
        for step in recorded[4:]:
            for (_, parameter), gradient in zip(named, step, strict=True):
                parameter.grad = gradient
            restored.update(named)
        assert restored.snr() == moments_of(recorded).snr()
    assert half.snr() == before  # not written to


def test_moments_refuse_what_they_cannot_use():
    for decay in (0, 1.5, -1):
        with pytest.raises(ValueError, match=f"decay must be above 0 and at most 1, got {decay}"):
            GradientMoments(decay)
    moments = moments_of(random_gradients(2, (3,)))
    with pytest.raises(ValueError, match=r"saved with decay=0.9, these have decay=0.99"):
        GradientMoments().load_state_dict(moments.state_dict())
    ((_, other),) = parameters((4,))
    other.grad = torch.ones(4)
    with pytest.raises(ValueError, match=r"'p0' has the shape \[4\], its moments \[3\]"):
        moments.update([("p0", other)])


# --- classes ------------------------------------------------------------------------------------


def features(n=18, d=5, classes=4, seed=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = torch.randn(classes, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return 3 * (centres[labels] + 0.7 * noise), labels


def prepared(x, normalize):
    return x / x.norm(dim=1, keepdim=True) if normalize else x


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
    scale = torch.rand(len(x), 1, dtype=torch.float64) + 0.5
    for measure in (intra_class_distance, silhouette):
        assert measure(x * scale, labels) == pytest.approx(measure(x, labels))
        assert measure(x * 7, labels, normalize=False) != pytest.approx(measure(x, labels))


def test_classes_refuse_what_they_cannot_measure():
    x, labels = features()
    with pytest.raises(ValueError, match="no class with two rows"):
        intra_class_distance(x, torch.arange(len(x)))
    for wrong in (torch.arange(len(x)), torch.zeros(len(x), dtype=torch.long)):
        with pytest.raises(ValueError, match="a silhouette needs at least 2 classes"):
            silhouette(x, wrong)
    with pytest.raises(ValueError, match=r"got \[18, 5\] and \[17\]"):
        silhouette(x, labels[1:])
    assert math.isnan(silhouette(x.index_fill(0, torch.tensor([2]), torch.inf), labels))


# --- hypersphere --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 2.0, 3.0])
def test_alignment_is_equation_1(alpha):
    x, y = (view.detach() for view in naive.embeddings(2, 7))
    u, v = prepared(x, True), prepared(y, True)
    expected = sum((u[i] - v[i]).norm() ** alpha for i in range(7)) / 7
    assert alignment(x, y, alpha).item() == pytest.approx(expected.item(), rel=1e-12)


def potential(x, t, ids):
    u = prepared(x, True)
    pairs = [(i, j) for i in range(len(x)) for j in range(i) if ids[i] != ids[j] or ids[i] == -1]
    return math.log(sum(torch.exp(-t * (u[i] - u[j]) @ (u[i] - u[j])) for i, j in pairs)) - (
        math.log(len(pairs))
    )


@pytest.mark.parametrize("ids", [None, [0, 1, 2, 0, 1, 2, 5], [-1, -1, 4, 4, -7, -7, 3]])
@pytest.mark.parametrize("t", [0.5, 2.0, 10.0])
def test_uniformity_is_equation_2(t, ids):
    (x,) = naive.embeddings(1, 7, seed=2)
    expected = potential(x.detach(), t, range(7) if ids is None else ids)
    found = uniformity(x, t, None if ids is None else torch.tensor(ids))
    assert found.item() == pytest.approx(expected, rel=1e-10)
    (gradient,) = torch.autograd.grad(found, x)
    step = 1e-6 * torch.ones_like(x) * torch.arange(16)
    moved = uniformity(x + step, t, None if ids is None else torch.tensor(ids))
    assert (moved - found).item() == pytest.approx((gradient * step).sum().item(), rel=1e-3)


def test_uniformity_does_not_underflow():
    x = torch.eye(6)  # all at squared distance 2
    assert uniformity(x, t=500.0).item() == pytest.approx(-1000.0)


def test_the_hypersphere_refuses_what_it_cannot_measure():
    x = torch.randn(4, 3)
    with pytest.raises(ValueError, match="two rows of different ids, got 4 of one"):
        uniformity(x, ids=torch.zeros(4, dtype=torch.long))
    with pytest.raises(ValueError, match="t must be above 0, got 0"):
        uniformity(x, t=0)
    with pytest.raises(ValueError, match=r"got \[4, 3\] and \[3\]"):
        uniformity(x, ids=torch.arange(3))
    with pytest.raises(ValueError, match=r"got \[4, 3\] and \[3, 3\]"):
        alignment(x, x[1:])
