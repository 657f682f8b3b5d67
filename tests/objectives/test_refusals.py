"""What objectives refuse, and what the listing says of them."""

from __future__ import annotations

from dataclasses import replace

import naive
import pytest

from negplug import ContrastiveBatch, make_objective, make_sampler
from negplug.plugins.manager import plugins


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("decoupled(sigma=0)", ValueError, "decoupled: sigma must be above 0; leave it out"),
        ("decoupled(sigma=-1)", ValueError, "decoupled: sigma must be in"),
        ("decoupled(sigma='vmf')", TypeError, "decoupled: sigma must be a number, got 'vmf'"),
        ("decoupled(sigma=True)", TypeError, "decoupled: sigma must be a number, got True"),
        ("debiased(tau_plus=1)", ValueError, r"debiased: tau_plus must be in \[0, 1\), got 1"),
        ("debiased(tau_plus=-0.1)", ValueError, "debiased: tau_plus must be in"),
        ("debiased(tau_plus=None)", TypeError, "debiased: tau_plus must be a number, got None"),
        ("debiased(beta=-1)", ValueError, r"debiased: beta must be in \[0, inf\), got -1"),
        ("debiased(beta=1e999)", ValueError, "debiased: beta must be in .* got inf"),
        ("relic(alpha=-1)", ValueError, r"relic: alpha must be in \[0, inf\), got -1"),
        ("relic(alpha='1')", TypeError, "relic: alpha must be a number, got '1'"),
        ("debiased(beta=False)", TypeError, "debiased: beta must be a number, got False"),
    ],
)
def test_bad_arguments(expression, error, message):
    with pytest.raises(error, match=message):
        make_objective(expression)


@pytest.mark.parametrize("objective", ["debiased", "relic"])
def test_draws_from_the_softmax_are_refused(objective):
    batch = ContrastiveBatch.from_views(tuple(naive.embeddings(2, 4)))
    drawn = replace(make_sampler("in_batch()").sample(batch), estimator="posterior")
    with pytest.raises(ValueError, match=rf"{objective}\(\): needs negatives that estimate"):
        make_objective(f"{objective}()")(batch, drawn, 0.1)


@pytest.mark.parametrize(
    ("objective", "paper"),
    [
        ("decoupled", "arXiv:2110.06848"),
        ("debiased", "arXiv:2007.00224"),
        ("relic", "arXiv:2010.07922"),
    ],
)
def test_listed_with_its_paper(objective, paper):
    spec = plugins().lookup("objective", objective).spec
    assert spec.summary
    assert paper in spec.paper
    assert str(make_objective(f"{objective}()")) == f"{objective}()"
    assert str(spec.factory()).startswith(f"{objective}(")
