"""Uniform numbers, and the noise of ``emc2()`` and ``isir()``: bits, distribution, ends."""

import math

import pytest
import torch
from scipy import stats

from negplug.kernels.random.hashing import hashed_uniforms
from negplug.kernels.random.numbers import RandomNumbers

pytest.importorskip("numba")
from negplug.kernels.random.compiled import compiled_uniforms

CPU = torch.device("cpu")


def naive_uniforms(count, seed, start):
    """SplitMix64 in Python's integers."""
    numbers, state = [], seed
    for _ in range((start + count + 1) // 2):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EB % 2**64
        mixed ^= mixed >> 31
        for half in (mixed % 2**32, mixed >> 32):
            signed = half - 2**32 if half >= 2**31 else half
            numbers.append((2 * signed + 1 + 2**32) / 2**33)
    return torch.tensor(numbers[start : start + count], dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1, 2**61 + 12345, -1])
@pytest.mark.parametrize("drawn", [hashed_uniforms, compiled_uniforms])
def test_uniforms_are_those_of_splitmix64(drawn, seed):
    for count, start in ((0, 0), (1, 0), (64, 0), (1001, 0), (64, 2), (7, 100)):
        found = torch.empty(count, dtype=torch.float64)
        drawn(found, seed, start)
        assert torch.equal(found, naive_uniforms(count, seed, start))
        assert ((found > 0) & (found < 1)).all()


def test_where_there_is_no_float64_uniforms_stay_inside_the_interval():
    exact, short = torch.empty(2**20, dtype=torch.float64), torch.empty(2**20)
    hashed_uniforms(exact, 5, 0)
    hashed_uniforms(short, 5, 0)
    assert ((short > 0) & (short < 1)).all()
    assert (short - exact).abs().max() <= 2.0**-24


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_exponentials_are_the_same_whatever_computes_them(monkeypatch, dtype):
    state = torch.get_rng_state()
    found = []
    for name in ("numba", "torch"):
        monkeypatch.setenv("NEGPLUG_BACKEND", name)
        random = RandomNumbers(3, CPU)
        found.append([random.exponential((300, 700), dtype) for _ in range(2)])
    first, second = found[0]
    assert first.dtype == dtype
    assert first.shape == (300, 700)
    assert torch.equal(torch.stack(found[0]), torch.stack(found[1]))
    assert torch.equal(torch.get_rng_state(), state)
    # Neither related to the next call's nor to their neighbours, nor off the distribution: normal
    # and Kolmogorov–Smirnov tests at 1e-6.
    for one, other in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]).double())[0, 1]
        assert abs(float(correlation)) * math.sqrt(one.numel()) < 5
    values = first.double().flatten().numpy()
    assert stats.kstest(values, "expon").pvalue > 1e-6


def test_exponentials_are_fine_at_both_ends():
    # Of 2²² draws the least are about 2⁻²², where 24 bits would leave a handful of values, and the
    # largest about 15, where they would leave gaps of a tenth.
    drawn = RandomNumbers(0, CPU).exponential((2**22,), torch.float32).sort().values
    assert len(drawn[:1000].unique()) > 990
    assert len(drawn[-200:].unique()) > 190
    assert float(drawn[0]) > 0
    for count, least in (
        ((drawn < 1e-4).sum(), 1 - math.exp(-1e-4)),
        ((drawn > 11).sum(), math.exp(-11)),
    ):
        assert stats.binomtest(int(count), len(drawn), least).pvalue > 1e-6
