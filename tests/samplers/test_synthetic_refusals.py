"""What ``synthetic`` refuses, and what refuses its mixtures."""

from __future__ import annotations

import naive
import pytest
from mixing import ALL, BOTH, SOURCES, batch_of
from tiers import SIZE

from negplug import make_sampler
from negplug.contract.negatives import enumerated


@pytest.mark.parametrize(
    "chooser",
    [
        "uniform(num_negatives=3, source={})",
        "hard(num_negatives=3, source={})",
        "filtered(similarity=0.9, source={})",
        "synthetic(num_mixed=2, num_hardest=3, source={})",
        "synthetic(num_noisy=2, sigma=0.1, source={})",
    ],
)
def test_a_chooser_over_mixtures_is_refused(chooser):
    sampler = make_sampler(chooser.format(f"synthetic({BOTH})"))
    with pytest.raises(ValueError, match=r"make synthetic\(…\) the outermost sampler"):
        sampler(batch_of(naive.embeddings(2, SIZE)))


def test_enumeration_of_mixtures_is_refused():
    batch = batch_of(naive.embeddings(2, SIZE))
    with pytest.raises(ValueError, match=r"make synthetic\(…\) the outermost sampler"):
        enumerated(make_sampler(f"synthetic({BOTH})")(batch), batch.anchors)


@pytest.mark.parametrize("source", ["uniform(num_negatives=9)", SOURCES[-1]])
def test_noise_on_what_each_anchor_chose_is_refused(source):
    sampler = make_sampler(f"synthetic(num_noisy=3, sigma=0.1, source={source})")
    with pytest.raises(ValueError, match="num_noisy needs a source that is one whole pool"):
        sampler(batch_of(naive.embeddings(2, SIZE)))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ("", ValueError, "nothing is asked for"),
        ("num_mixed=3", ValueError, "num_mixed_with_anchor needs num_hardest; give num_hardest="),
        ("num_mixed_with_anchor=3", ValueError, "needs num_hardest"),
        ("num_mixed=3, num_hardest=1", ValueError, "num_hardest must be at least 2, got 1"),
        ("num_mixed=3, num_hardest=2.5", TypeError, "num_hardest must be an integer, got 2.5"),
        ("num_mixed=-1, num_hardest=4", ValueError, "num_mixed must be at least 0, got -1"),
        ("num_mixed=True, num_hardest=4", TypeError, "num_mixed must be an integer, got True"),
        ("num_noisy=3", ValueError, "num_noisy needs sigma; give sigma="),
        ("num_noisy=3, sigma=0", ValueError, "sigma must be above 0, got 0"),
        ("num_noisy=3, sigma=-1", ValueError, "sigma must be in"),
        ("num_noisy=3, sigma='a'", TypeError, "sigma must be a number, got 'a'"),
        ("num_noisy=3, sigma=1, num_hardest=4", ValueError, "num_hardest=4 is for"),
        ("num_mixed=3, num_hardest=4, sigma=1", ValueError, "sigma=1 is for num_noisy"),
        ("num_mixed=3, num_hardest=4, source=5", TypeError, "source must be a sampler, got 5"),
        (
            "num_mixed=3, num_hardest=9, source=queue(size=8)",
            ValueError,
            "num_hardest=9 is more than the 8 rows that",
        ),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        make_sampler(f"synthetic({arguments})")


def test_most_counts_what_is_made():
    assert make_sampler(f"synthetic({ALL}, source=queue(size=30))").most == 30 + 6 + 5 + 7
    assert make_sampler(f"synthetic({ALL})").most is None
