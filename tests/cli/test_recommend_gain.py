"""The gain of a choice: a paired difference, its interval, and how it is said."""

from __future__ import annotations

import math

import pytest

pytest.importorskip("scipy")

from negplug.cli.recommend.gain import paired_gain

# 97.5 % quantiles of Student's t by degrees of freedom, as printed in tables.
QUANTILES = {1: 12.7062, 2: 4.30265, 4: 2.77645, 9: 2.26216}

UNTOUCHED = {3: 0.52, 4: 0.47, 5: 0.55, 6: 0.50, 7: 0.49}
CHOSEN = {3: 0.55, 4: 0.49, 5: 0.59, 6: 0.51, 7: 0.53}


@pytest.mark.parametrize("count", [2, 3, 5, 10])
def test_the_interval_is_students_around_the_mean_difference(count: int) -> None:
    differences = [0.01 * ((7 * i) % 5) - 0.013 for i in range(count)]
    untouched = {seed: 0.3 + 0.1 * seed for seed in range(count)}
    chosen = {seed: untouched[seed] + differences[seed] for seed in range(count)}
    gain = paired_gain(chosen, untouched, minimize=False)
    mean = sum(differences) / count
    variance = sum((value - mean) ** 2 for value in differences) / (count - 1)
    half = QUANTILES[count - 1] * math.sqrt(variance / count)
    assert gain.mean == pytest.approx(mean)
    assert (gain.low, gain.high) == pytest.approx((mean - half, mean + half), rel=1e-4)
    assert list(gain.differences) == list(range(count))
    # Seeds that lack one of the two runs say nothing.
    more = paired_gain({**chosen, 90: 9.0}, {91: -9.0, **untouched}, minimize=False)
    assert more == gain


def test_pairing_tells_a_gain_that_seeds_would_hide() -> None:
    gain = paired_gain(CHOSEN, UNTOUCHED, minimize=False)
    assert gain.is_clear
    assert str(gain) == "+0.028 (95 % interval +0.012 to +0.044, 5 seeds)"
    # By other seeds the same values are noise.
    shuffled = dict(zip(CHOSEN, [0.59, 0.55, 0.49, 0.53, 0.51], strict=True))
    assert not paired_gain(shuffled, UNTOUCHED, minimize=False).is_clear


def test_a_fall_is_a_gain_where_less_is_better() -> None:
    gain = paired_gain(UNTOUCHED, CHOSEN, minimize=True)
    assert gain == paired_gain(CHOSEN, UNTOUCHED, minimize=False)
    loss = paired_gain(CHOSEN, UNTOUCHED, minimize=True)
    assert (loss.mean, loss.high) == pytest.approx((-gain.mean, -gain.low))
    assert not loss.is_clear


@pytest.mark.filterwarnings("error")
def test_equal_differences_have_an_interval_without_width() -> None:
    gain = paired_gain({0: 0.6, 1: 0.7, 2: 0.8}, {0: 0.5, 1: 0.6, 2: 0.7}, minimize=False)
    assert gain.low == gain.high == pytest.approx(0.1)
    same = paired_gain(CHOSEN, CHOSEN, minimize=False)
    assert (same.low, same.mean, same.high, same.is_clear) == (0, 0, 0, False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_run_that_diverged_is_no_gain(value: float) -> None:
    gain = paired_gain({**CHOSEN, 5: value}, UNTOUCHED, minimize=False)
    assert not gain.is_clear
    assert "5 seeds" in str(gain)


def test_one_seed_has_no_interval() -> None:
    with pytest.raises(ValueError, match="takes two seeds or more, and 1 have both"):
        paired_gain({0: 1.0, 1: 2.0}, {1: 1.0, 2: 1.0}, minimize=False)
