"""Marks of rows go where torch moves the rows."""

from __future__ import annotations

import torch
from torch import nn

from negplug.hosts.trainer.indexes.row_marks import MIXED, RowMarks


def test_marks_go_the_way_of_rows():
    marks, x = RowMarks(), torch.randn(6, 4)
    marks.begin({"x": [x]}, 6)
    filled = torch.empty(6, 4)
    layer = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
    with marks:
        z = layer(x)
        moved = z[torch.tensor([5, 0, 1])]
        written = x.clone()
        written[1:3] = x[4:]
        views = torch.stack([z, z.flip(0)], dim=1).flatten(0, 1)
        product = z @ z.T
        mixed = z + z.roll(2, 0)
        thrice = z.repeat_interleave(3, dim=0)
        parts = z.split([2, 4])
        twice = z.expand(2, 6, 6).reshape(12, 6)
        torch.cat([x[3:], x[:3]], out=filled)
        turned = z.unsqueeze(0).transpose(0, 1).squeeze(1)
        lost = torch.from_numpy(z.detach().numpy())
        ordered, _ = x.sort(dim=0, descending=True)
        top, _ = x[:, 0].topk(3)
        within, _ = x.sort(dim=1)
        weighted = torch.eye(6).flip(0) @ x
        projected = (torch.ones(2, 4) @ x.T).T
        attended = (x @ x.T).softmax(1) @ x
        centres = torch.ones(3, 6) @ x
        assigned = x.clone()
        assigned.data = x.flip(0)
        summed = x.clone().scatter_add_(0, torch.zeros(6, 4, dtype=torch.int64), x)
    assert marks.of(z).tolist() == marks.of(product).tolist() == list(range(6))
    assert marks.of(moved).tolist() == [5, 0, 1]
    assert marks.of(written).tolist() == [0, 4, 5, 3, 4, 5]
    assert marks.of(views).tolist() == [0, 5, 1, 4, 2, 3, 3, 2, 4, 1, 5, 0]
    assert set(marks.of(mixed).tolist()) == {MIXED}
    assert marks.of(thrice).tolist() == [n // 3 for n in range(18)]
    assert [marks.of(part).tolist() for part in parts] == [[0, 1], [2, 3, 4, 5]]
    assert marks.of(twice).tolist() == [*range(6), *range(6)]
    assert marks.of(filled).tolist() == [3, 4, 5, 0, 1, 2]
    assert torch.equal(filled, torch.cat([x[3:], x[:3]]))
    assert marks.of(turned).tolist() == list(range(6))
    assert torch.equal(marks.of(ordered), x.argsort(dim=0, descending=True).int())
    assert torch.equal(marks.of(top), x[:, 0].argsort(descending=True)[:3].int())
    assert marks.of(within).tolist() == list(range(6))
    assert set(marks.of(weighted).tolist()) == {MIXED}
    assert marks.of(assigned).tolist() == [5, 4, 3, 2, 1, 0]
    assert marks.of(projected).tolist() == marks.of(attended).tolist() == list(range(6))
    assert marks.of(lost) is marks.of(summed) is marks.of(centres) is None


def test_of_rows_in_the_form_of_others_nothing_is_said():
    """MoCo shuffles a batch among ranks; a collective fills its buffers where nobody sees it."""
    marks, x, order = RowMarks(), torch.randn(4, 6), torch.tensor([2, 0, 3, 1])
    marks.begin([x], 4)
    with marks:
        buffers = [torch.empty_like(x) for _ in range(2)]
        for buffer in buffers:
            buffer.numpy()[:] = x.numpy()
        gathered = torch.cat(buffers)[torch.tensor([6, 1, 3, 4])]
        noisy = x + torch.randn_like(x)[order]
        masked = x.clone()
        masked[:, 2:4] = x.new_zeros(4, 2)[order]
        moved = torch.empty_like(x)
        moved[order] = x
        mixed = x.clone()
        mixed[..., :3] = x[order][..., :3]
    assert marks.of(gathered) is marks.of(moved) is None
    assert marks.of(noisy).tolist() == marks.of(masked).tolist() == list(range(4))
    assert set(marks.of(mixed).tolist()) == {MIXED}
