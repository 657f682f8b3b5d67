"""What every version of Lightly from 1.4.21 on has: treated, each criterion is the same loss."""

from __future__ import annotations

import naive
import pytest
import torch
from queue_contents import rows_in
from torch import nn

from negplug import inject

lightly_loss = pytest.importorskip("lightly.loss")

from negplug_lightly import private  # noqa: E402
from negplug_lightly.plugin import report_methods  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:To copy construct", "ignore:Memory bank size")
BUILD = {
    "NTXentLoss": lambda: lightly_loss.NTXentLoss(0.2),
    "DCLLoss": lambda: lightly_loss.DCLLoss(0.2),
    "DCLWLoss": lambda: lightly_loss.DCLWLoss(0.2, 0.3),
}


def banked(keys, width):
    # A pair was not taken in 1.4, a number is not taken from 1.6 on.
    try:
        return lightly_loss.NTXentLoss(memory_bank_size=(keys, width))
    except TypeError:
        return lightly_loss.NTXentLoss(memory_bank_size=keys)


@pytest.mark.parametrize("name", BUILD)
def test_in_batch_is_the_host(name):
    z, criterion = naive.embeddings(2, 9), BUILD[name]()
    theirs = criterion(*z)
    with inject(criterion, "in_batch()"):
        ours = criterion(*z)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0)
    assert naive.relative(naive.gradients(ours, z), naive.gradients(theirs, z)) < 1e-10


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize(
    "sampler", ["uniform(num_negatives=3)", "queue(size=16)", "hard(num_negatives=2)"]
)
def test_samplers_train_it(name, sampler):
    model = nn.Linear(6, 4)
    criterion = BUILD[name]()
    with inject(criterion, sampler) as handle:
        for _ in range(3):
            loss = criterion(model(torch.randn(8, 6)), model(torch.randn(8, 6)))
            loss.backward()
    assert loss.isfinite()
    assert model.weight.grad.isfinite().all()
    assert handle.losses[name].calls == 3


def test_a_bank_gives_the_queue_its_size():
    criterion = banked(32, 16)
    assert private.bank_size(criterion) == 32
    with inject(criterion, "queue()") as handle:
        for seed in range(5):
            z = naive.embeddings(2, 8, seed=seed)
            criterion(z[0], z[1].detach()).backward()
        state = handle.state_dict()["NTXentLoss"]
    assert len(rows_in(state, "sampler")) == 32


def test_a_denominator_for_each_view_is_reported_where_there_is_one():
    reports = {report.method: report for report in report_methods()}
    assert reports["NTXentLoss"].treatable
    said = "one denominator for each view" in reports["DCLLoss"].note
    out = torch.eye(2, dtype=torch.float64)
    loss = float(lightly_loss.DCLLoss(temperature=1.0)(out, out))
    assert said == (loss == pytest.approx(-1.0))
    assert said or loss == pytest.approx(torch.tensor(2.0).log().item() - 1)
