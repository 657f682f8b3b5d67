"""Settings that no machine has room for: one sentence, at the latest in the first call."""

from __future__ import annotations

import naive
import pytest
import torch

from negplug import ContrastiveLoss

HUGE = 10**12


@pytest.mark.parametrize(
    ("expression", "setting"),
    [
        ("queue(size={})", "queue: size"),
        ("uniform(num_negatives=2, source=queue(size={}))", "queue: size"),
        ("memory_bank(size={})", "memory_bank: size"),
        ("gumbel_max(num_negatives={})", "gumbel_max: num_negatives"),
        ("emc2(size={})", "emc2: size"),
        ('isir(size={}, out_of_batch="drop")', "isir: size"),
        ("synthetic(num_hardest=2, num_mixed={})", "synthetic: num_mixed"),
        ("synthetic(num_hardest=2, num_mixed_with_anchor={})", "synthetic: num_mixed_with_anchor"),
        ("synthetic(num_noisy={}, sigma=0.1)", "synthetic: num_noisy"),
    ],
)
def test_what_has_no_room_is_refused_in_the_first_call(expression, setting):
    loss_fn = ContrastiveLoss(expression.format(HUGE))
    with pytest.raises(ValueError, match=rf"^{setting}={HUGE} needs \S+ GiB on \S+, more than "):
        loss_fn(*naive.embeddings(2, 6), indexes=torch.arange(6))


@pytest.mark.parametrize(
    "expression",
    ["queue(size={})", "uniform(num_negatives={})", "memory_bank(size={})", "isir(size={})"],
)
def test_what_no_integer_of_torch_holds_is_refused_when_it_is_made(expression):
    for size, said in ((2**62, str(2**62)), (10**400, "an integer of 1329 bits")):
        with pytest.raises(ValueError, match=rf"must be below 2\*\*62, got {said}; lower it$"):
            ContrastiveLoss(expression.format(size))


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        ("relic(alpha={})", "relic: alpha must be"),
        ("debiased(beta={})", "debiased: beta must be"),
        ("decoupled(sigma={})", "decoupled: sigma must be"),
        ("sogclr(gamma={})", "sogclr: gamma must be"),
    ],
)
def test_a_weight_whose_products_overflow_is_refused(objective, message):
    for value in ("1e300", str(10**400), "1e31"):
        with pytest.raises(ValueError, match=message):
            ContrastiveLoss(objective=objective.format(value))


def test_weights_that_divide_to_infinity_are_refused():
    with pytest.raises(ValueError, match=r"sigma must be above 0; .* 1e-30 or more, not 1e-300"):
        ContrastiveLoss(objective="decoupled(sigma=1e-300)")
