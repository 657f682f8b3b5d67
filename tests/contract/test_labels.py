"""Labels of any reasonable form are taken, and what would be guessed is refused."""

from __future__ import annotations

import collections

import numpy
import pytest
import torch
from device import DEVICE

from negplug import ContrastiveLoss
from negplug.contract.labels import Targets, as_labels
from negplug.kernels import late

WANTED = torch.tensor([2, 0, 1, 2])
ONE_HOT = torch.nn.functional.one_hot(WANTED)
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint64]


class Fields:
    def __init__(self, **fields):
        vars(self).update(fields)


FORMS = [
    *(WANTED.to(dtype) for dtype in [*INTEGERS, torch.float16, torch.bfloat16, torch.float64]),
    WANTED[:, None],
    WANTED[:, None].float(),
    *(ONE_HOT.to(dtype) for dtype in [torch.bool, torch.uint8, torch.int64, torch.float32]),
    WANTED.tolist(),
    WANTED.numpy(),
    WANTED.numpy().astype(">i4"),
    collections.namedtuple("Batch", "views target")(torch.ones(4, 2), WANTED),
    {"image": torch.ones(4, 2), "label": WANTED},
    {"targets": ONE_HOT.float()},
    Fields(y=WANTED.int(), image=torch.ones(4, 2)),
]


@pytest.mark.parametrize("values", FORMS)
def test_forms_that_are_taken(values):
    found = as_labels("labels", values, 4)
    assert found.dtype == torch.int64
    assert torch.equal(found, WANTED)


def test_bool_and_unknown_labels():
    assert as_labels("labels", torch.tensor([True, False])).tolist() == [1, 0]
    assert as_labels("labels", torch.tensor([-1.0, 3.0])).tolist() == [-1, 3]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (torch.tensor([0.0, 0.5, 1, 2]), TypeError, r"labels must be integers, got 0\.5 \(torch"),
        (torch.tensor([0.0, torch.nan, 1, 2]), TypeError, "must be integers, got nan"),
        (torch.tensor([0.0, torch.inf, 1, 2]), TypeError, "must be integers, got inf"),
        (WANTED[:3], ValueError, r"\[4\] or \[4, 1\], or one-hot rows \[4, C\], got shape \(3,\)"),
        (torch.ones(4, 2, 2), ValueError, r"got shape \(4, 2, 2\)"),
        (torch.tensor(1), ValueError, r"got shape \(\)"),
        (torch.full((4, 3), 1 / 3), ValueError, r"of shape \(4, 3\) must be one-hot, .*row 0 is"),
        (ONE_HOT | ONE_HOT.roll(1, 1), ValueError, "must be one-hot, .* choose one label for each"),
        (torch.zeros(4, 3), ValueError, "must be one-hot"),
        (["a", "b", "c", "d"], TypeError, "one integer per sample, .* got list of str"),
        (numpy.array(["a", "b", "c", "d"]), TypeError, "one integer per sample, .*ndarray of <U1"),
        (numpy.array([0, 1, 2, None]), TypeError, "one integer per sample, .*ndarray of object"),
        ("abcd", TypeError, "got str"),
        (None, TypeError, "got NoneType"),
        (WANTED.to(torch.complex64), TypeError, r"got torch\.complex64"),
        (torch.tensor([1, 2**64 - 1, 0, 0], dtype=torch.uint64), ValueError, "below .* 1844674407"),
        ({"fine": WANTED, "coarse": WANTED}, ValueError, r"label, .*, y, got .*\['fine', 'coarse'"),
        ({"label": WANTED, "y": WANTED}, ValueError, r"one of .*, got the fields \['label', 'y'\]"),
        ({"label": ["a"] * 4}, TypeError, r"labels\['label'\] must be a tensor"),
    ],
)
def test_what_is_refused(values, error, message):
    with pytest.raises(error, match=message):
        as_labels("labels", values, 4)


def test_what_was_refused_once_is_not_looked_at_again():
    targets = Targets()
    with pytest.raises(ValueError, match=r"second entry must be integers, got 0\.5"):
        targets.read("the second entry", torch.tensor([0.5, 1.0]))
    for _ in range(2):
        with pytest.raises(ValueError, match=r"second entry must be integers, got 0\.5"):
            targets.read("the second entry", torch.tensor([0.0, 1.0]))
    assert targets.read("the second entry", torch.tensor([0, 1])).tolist() == [0, 1]
    assert targets.read("the third entry", torch.tensor([0.0, 1.0])).tolist() == [0, 1]


@pytest.mark.parametrize("values", [torch.tensor([0.5, 1.0]), torch.ones(2, 3)], ids=str)
def test_each_recipe_is_told_at_once(values):
    """Also on a GPU, where the first of a process are waited for and no others."""
    for _ in range(2):
        with pytest.raises(ValueError, match=r"must be (integers|one-hot)"):
            Targets().read("the second entry", values.to(DEVICE))
    late.settle()


@pytest.mark.parametrize("values", FORMS[:-4], ids=str)
def test_the_loss_takes_them(values):
    z = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    values = values.to(DEVICE) if isinstance(values, torch.Tensor) else values
    losses = [ContrastiveLoss('filtered(by="labels")')(*z, labels=v) for v in (values, WANTED)]
    assert torch.equal(*losses)
    assert not torch.equal(losses[0], ContrastiveLoss()(*z))
