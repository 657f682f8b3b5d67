"""Steps that leave no trace, and memories that outlive inference mode."""

from collections import deque

import pytest
import torch
from torch import nn

from negplug import ContrastiveLoss
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


@pytest.mark.parametrize("sampler", ["emc2()", "queue(size=12)", "memory_bank()"])
def test_a_state_saved_in_inference_mode_can_be_written_to_afterwards(sampler):
    loss_fn = ContrastiveLoss(sampler)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        z = [torch.randn(4, 5, generator=generator, requires_grad=True) for _ in range(2)]
        loss_fn(*z, indexes=torch.arange(4) + 2 * (step % 2)).backward()
        with torch.inference_mode():
            loss_fn.state_dict()
    loss_fn.end_step()


@pytest.mark.parametrize("temperature", [0.02, 0.01, 0.005, 1e-3])
def test_isir_without_its_state_is_the_softmax_over_the_batch_at_any_temperature(temperature):
    """A state outside that outweighs the batch by more than a float holds leaves it its shares."""
    loss_fn = ContrastiveLoss("isir(out_of_batch='drop')", temperature=temperature)
    generator = torch.Generator().manual_seed(0)
    table = torch.nn.functional.normalize(torch.randn(12, 40, generator=generator), dim=1)
    table[6:9] = table[:3] + 0.05  # near the anchors of the other batches
    wanted = ContrastiveLoss("in_batch()", "decoupled()", temperature=temperature)
    for batch in ([0, 1, 2, 6, 7, 8], [0, 1, 2, 3, 4, 5], [0, 1, 2, 9, 10, 11]):
        indexes = torch.tensor(batch)
        gradients = []
        for each in (loss_fn, wanted):
            z = [table[indexes].clone().requires_grad_() for _ in range(2)]
            each(*z, indexes=indexes).backward()
            gradients.append(torch.stack([view.grad for view in z]))
        scale = gradients[1].abs().max()
        assert torch.allclose(gradients[0], gradients[1], atol=float(1e-4 * scale))
