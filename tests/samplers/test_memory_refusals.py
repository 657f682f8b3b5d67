"""What the queue and the memory bank refuse, leaving no trace."""

from __future__ import annotations

import pytest
import torch
from memories import WIDTH, embed, train
from resumable import same_state
from settling import settled

from negplug import ContrastiveLoss, make_sampler

BAD_STEPS = [
    ("queue(size=7)", {"size": 4}, "size=7 is less than the 8 keys of one step; enlarge it"),
    ("queue(size=12)", {"width": 9}, "embeddings of width 6, this batch has width 9"),
    ("queue(size=12)", {"indexes": [0, -1, 2]}, "indexes must be at least 0, got -1"),
    ("queue(size=12)", {"indexes": [0, 1]}, r"indexes must be a tensor \[3\]"),
    ("memory_bank(size=9)", {"indexes": [0, 9, 1]}, "data set index 9 is beyond size=9"),
    ("memory_bank()", {"indexes": [0, -1, 2]}, "indexes must be at least 0, got -1"),
    ("memory_bank()", {"width": 9}, "embeddings of width 6, this batch has width 9"),
    ("memory_bank()", {"indexes": None}, "but the loss was called without indexes="),
    ("memory_bank(num_negatives=2)", {"indexes": None}, "memory_bank: needs the data set index"),
]


@pytest.mark.parametrize(("expression", "change", "message"), BAD_STEPS)
def test_a_bad_step_is_refused_and_leaves_no_trace(expression, change, message):
    loss_fn = ContrastiveLoss(expression)
    indexes = torch.tensor([0, 1, 2])
    for step in range(2):
        train(loss_fn, embed(3, step), indexes + 2 * step)
    before = loss_fn.state_dict()
    good = {"size": 3, "width": WIDTH, "indexes": indexes.tolist()} | change
    indexes = good["indexes"]
    if indexes is not None:
        indexes = torch.tensor(indexes if good["size"] == 3 else range(good["size"]))
    with pytest.raises(ValueError, match=message):
        settled(loss_fn, *embed(good["size"], 5, width=good["width"]), indexes=indexes)
    assert same_state(loss_fn.state_dict(), before)
    train(loss_fn, embed(3, 6), torch.arange(3))  # and training goes on


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        ("queue(size='many')", TypeError, "queue: size must be an integer, got 'many'"),
        ("queue(size=2.5)", TypeError, "queue: size must be an integer, got 2.5"),
        ("queue(size=True)", TypeError, "queue: size must be an integer, got True"),
        ("queue(size=0)", ValueError, "queue: size must be at least 1, got 0"),
        ("queue(size=8, gather=1)", TypeError, "queue: gather must be True or False, got 1"),
        ("queue(size=8, num_negatives=0)", ValueError, "num_negatives must be at least 1, got 0"),
        ("queue(size=8, num_negatives=9)", ValueError, "num_negatives=9 is more than the 8 rows"),
        (
            "uniform(num_negatives=256, source=queue(size=128))",
            ValueError,
            "more than the 128 rows",
        ),
        ("memory_bank(size=-1)", ValueError, "memory_bank: size must be at least 1, got -1"),
        ("memory_bank(size='all')", TypeError, "memory_bank: size must be an integer, got 'all'"),
        ("memory_bank(momentum=1.0)", ValueError, r"momentum must be in \[0.0, 1.0\), got 1.0"),
        ("memory_bank(momentum=-0.1)", ValueError, r"momentum must be in \[0.0, 1.0\), got -0.1"),
        ("memory_bank(momentum='half')", TypeError, "momentum must be a number, got 'half'"),
        ("memory_bank(num_negatives=9, size=8)", ValueError, "more than the 8 rows"),
    ],
)
def test_bad_arguments_are_refused_where_they_are_written(expression, error, message):
    with pytest.raises(error, match=message):
        make_sampler(expression)
