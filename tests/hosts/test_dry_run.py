"""Steps that leave no trace."""

from collections import deque

import pytest
import torch
from torch import nn

from negplug.hosts.trainer.dry_run import Writes, quiet


class Metric(nn.Module):
    """Gathers what it sees in every kind of attribute, as torchmetrics' metrics do."""

    def __init__(self):
        super().__init__()
        self.rows = [torch.zeros(2)]
        self.last = deque([0], maxlen=3)
        self.seen = {"train": 1}
        self.names = {"a"}
        self.total = torch.zeros(3)
        self.register_buffer("count", torch.zeros(()))

    def gather(self):
        self.rows.append(torch.ones(2))
        self.last.extend([1, 2, 3])
        self.seen["train"] += 1
        self.seen["more"] = 2
        self.names.add("b")
        self.total.add_(1)
        self.late = 1


def test_what_a_metric_gathers_in_place_is_put_back_into_the_same_objects():
    model = nn.ModuleList([Metric()])
    metric = model[0]
    held = (metric.rows, metric.last, metric.seen, metric.names, metric.total)
    first = metric.rows[0]
    with quiet(model):
        metric.gather()
    assert held == (metric.rows, metric.last, metric.seen, metric.names, metric.total)
    assert len(metric.rows) == 1
    assert metric.rows[0] is first
    assert (list(metric.last), metric.seen, metric.names) == ([0], {"train": 1}, {"a"})
    assert torch.equal(metric.total, torch.zeros(3))
    assert not hasattr(metric, "late")


@pytest.mark.parametrize("by_value", [True, False])
def test_a_write_of_equal_values_is_a_write(by_value):
    """A momentum encoder equals its student in the first step, but not in later ones."""
    model = nn.Linear(3, 3)
    writes = Writes(model, by_value=by_value)
    with torch.no_grad():
        model.weight.mul_(0.5).add_(model.weight.clone())
        model.weight.mul_(1.0)
    assert writes.undo() == ["weight"]
