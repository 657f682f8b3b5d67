"""Signal and noise of gradients, against two passes over recorded ones."""

from __future__ import annotations

import math

import pytest
import torch
from moments import two_pass
from torch import nn

from negplug.diagnostics import (
    GradientMoments,
    gradients,
)


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
