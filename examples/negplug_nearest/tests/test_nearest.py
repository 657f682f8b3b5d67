"""The sampler, installed: what every sampler must keep to, and what this one promises."""

import pytest
import torch

import negplug
from negplug.testing import CHECKS, Subject


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_it_conforms(check):
    check(Subject("nearest(num_negatives=3)"))


def test_the_nearest_to_a_similarity_are_chosen():
    angles = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
    views = torch.stack([angles.cos(), angles.sin()], 1)
    loss_fn = negplug.ContrastiveLoss("nearest(num_negatives=2, similarity=1.0)")
    found = []
    loss_fn.sampler.register_forward_hook(lambda _, given, out: found.append(out))
    loss_fn(views, views.clone())
    ((negatives,),) = found
    # Of the first sample: both views of the second, whose similarity is the largest.
    assert set(negatives.choice.columns[0].tolist()) == {1, 7}


@pytest.mark.parametrize("arguments", ["num_negatives=0", "num_negatives=3, similarity=2.0"])
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="nearest: "):
        negplug.make_sampler(f"nearest({arguments})")
