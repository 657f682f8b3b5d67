"""Criteria whose ``forward`` is set on the object, by ``accelerator.prepare`` or a recipe."""

from __future__ import annotations

import copy
import pickle
import types

import naive
import pytest
import torch
from torch import nn

from negplug import inject
from negplug.hosts.cover import contrast_of
from negplug.hosts.untreated import UntreatedLossError

NTXentLoss = pytest.importorskip("lightly.loss").NTXentLoss


def of_autocast(criterion):
    criterion.forward = torch.autocast("cpu", torch.bfloat16)(criterion.forward)


def of_accelerate(criterion):
    """As ``Accelerator(mixed_precision="bf16").prepare(criterion)`` does."""
    convert = pytest.importorskip("accelerate.utils").convert_outputs_to_fp32
    cast = torch.autocast("cpu", torch.bfloat16)(criterion.forward.__func__)
    criterion.forward = types.MethodType(convert(cast), criterion)


def doubled(criterion):
    own = criterion.forward
    criterion.forward = lambda out0, out1: 2 * own(out0, out1)


@pytest.mark.parametrize("prepare", [of_autocast, of_accelerate])
def test_one_in_another_precision_is_treated_and_given_back(watch, prepare):
    z, criterion = naive.embeddings(2, 8), NTXentLoss(0.2)
    wanted = criterion(*z)
    prepare(criterion)
    prepared = criterion.forward
    with inject(criterion, "uniform(num_negatives=14)") as handle:
        torch.testing.assert_close(criterion(*z), wanted)  # and in the precision of the embeddings
        with torch.no_grad():
            assert criterion.eval()(*z) == prepared(*z)
        with pytest.raises(ValueError, match="is treated already"):
            inject(criterion, "in_batch()")
        assert next(iter(handle.losses.values())).calls == 1
    assert criterion.forward == prepared
    watching = watch("queue(size=32)")
    assert criterion.train()(*z) == 0
    watching.stop()
    assert criterion.forward == prepared


def test_one_that_is_prepared_once_it_is_treated_stays_treated():
    z, criterion = naive.embeddings(2, 8), NTXentLoss(0.2)
    handle = inject(criterion, "uniform(num_negatives=2)")
    of_autocast(criterion)
    criterion(*z)
    with pytest.raises(ValueError, match="is treated already"):
        inject(criterion, "in_batch()")
    (treated,) = handle.losses.values()
    assert treated.calls == 1
    assert contrast_of(criterion) is treated
    with pytest.warns(UserWarning, match=r"NTXentLoss\.forward has been wrapped since it was tre"):
        handle.remove()
    assert "forward" not in vars(criterion)


def test_one_of_the_recipes_own_is_refused(watch):
    criterion = NTXentLoss()
    doubled(criterion)
    with pytest.raises(ValueError, match="'criterion' has a forward of its own, set on the object"):
        inject(nn.ModuleDict({"criterion": criterion}), "in_batch()")
    watch("in_batch()")
    # The first where nothing was compiled yet in this process, whose code calls what it likes.
    said = r"NTXentLoss is called by its method forward\(\)|has a forward of its own, set on"
    with pytest.raises((UntreatedLossError, ValueError), match=said):
        criterion(*naive.embeddings(2, 8))


def test_copies_of_one_that_is_prepared():
    z, criterion = naive.embeddings(2, 8), NTXentLoss(0.2)
    of_accelerate(criterion)
    with inject(criterion, "uniform(num_negatives=14)"):
        for twin in (copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
            twin.temperature = 0.3
            torch.testing.assert_close(twin(*z), NTXentLoss(0.3)(*z))
