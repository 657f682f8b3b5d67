"""What a batch's shape alone says of it: right, kept for later calls, and nobody's to change."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest
import torch
from device import DEVICE
from steady import DRAWING, OBJECTIVES, SAMPLERS, batches
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from negplug import ContrastiveBatch, ContrastiveLoss
from negplug.contract import layout
from negplug.contract.layout import layout_of
from negplug.kernels.torch_private import write_count

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


@pytest.fixture(autouse=True)
def _nothing_kept():
    layout._kept.cache_clear()


def kept():
    return layout._kept.cache_info().currsize


def alike(one, other):
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(("views", "size"), [(1, 1), (1, 6), (2, 1), (2, 7), (3, 4), (5, 2)])
def test_rows_are_numbered_view_after_view(views, size):
    found = layout_of(views, size, torch.empty(0, device=DEVICE))
    for _ in range(2):  # made, and kept
        rows = [(view, sample) for view in range(views) for sample in range(size)]
        assert found.rows.tolist() == list(range(len(rows)))
        assert found.views.tolist() == [view for view, _ in rows]
        assert found.ids.tolist() == [-3 - 2 * sample for _, sample in rows]
        others = [[sample + size * v for v in range(views) if v != view] for view, sample in rows]
        single = [[sample] for _, sample in rows]
        wanted = single if views == 1 else others
        assert [sorted(row) for row in found.positives.tolist()] == wanted
        found = layout_of(views, size, torch.empty(0, device=DEVICE))


def test_a_layout_is_made_once_for_its_shape_and_device():
    here, nowhere = torch.empty(2, 3), torch.empty(2, 3, device="meta")
    first = layout_of(2, 8, here)
    assert layout_of(2, 8, torch.empty(5)) is first
    for other in (layout_of(2, 9, here), layout_of(4, 4, here), layout_of(1, 16, here)):
        assert not alike(first, other)
    assert {tensor.device.type for tensor in layout_of(2, 8, nowhere)} == {"meta"}
    assert {tensor.device.type for tensor in layout_of(2, 8, here)} == {"cpu"}


def test_few_are_kept():
    for size in range(1, 100):
        layout_of(2, size, torch.empty(0))
    assert kept() < 20


@pytest.mark.parametrize("field", ["positives", "self_columns", "ids", "views"])
def test_who_writes_to_a_batch_spoils_no_later_one(field):
    def of_a_batch():
        batch = ContrastiveBatch.from_views(tuple(torch.ones(2, 6, 4, device=DEVICE)))
        return getattr(batch, field, getattr(batch.keys, field, None))

    wanted = of_a_batch().clone()
    of_a_batch()[1:].zero_()
    assert torch.equal(of_a_batch(), wanted)


@pytest.mark.filterwarnings("ignore:.*all of them are used")
@pytest.mark.parametrize("sampler", SAMPLERS + DRAWING)
def test_nothing_of_negplug_writes_to_a_layout(sampler):
    objectives = OBJECTIVES[:2] if sampler in DRAWING else OBJECTIVES
    layouts = [layout_of(views, 24, torch.empty(0, device=DEVICE)) for views in (1, 2)]
    for objective in objectives:
        loss_fn = ContrastiveLoss(sampler, objective)
        loss_fn.observe = True
        for z, names in batches(2):
            views = z.detach().to(DEVICE).requires_grad_()
            loss_fn(*views, **names).backward()
            parts = *loss_fn.sampler.parts_inside(), *loss_fn.objective.parts_inside()
            if not any(part.wants_indexes for part in parts):
                loss_fn(*views, labels=names["labels"]).backward()  # its ids are the layout's
            if objective == OBJECTIVES[0]:
                loss_fn.contrast(ContrastiveBatch.from_pairs(*views, **names)).backward()
    assert not any(write_count(tensor) for found in layouts for tensor in found)
    assert layout_of(2, 24, torch.empty(0, device=DEVICE)) is layouts[1]


@pytest.mark.parametrize("build", [ContrastiveLoss.forward, "pairs"])
def test_training_may_follow_inference_mode(build):
    def call(loss_fn, z):
        if build == "pairs":
            return loss_fn.contrast(ContrastiveBatch.from_pairs(*z))
        return loss_fn(*z)

    views = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    z = views.clone().requires_grad_()
    call(ContrastiveLoss("uniform(3)", seed=1), z).backward()
    layout._kept.cache_clear()
    with torch.inference_mode():
        call(ContrastiveLoss("uniform(3)", seed=1), torch.ones_like(views) * views)
    again = views.clone().requires_grad_()
    call(ContrastiveLoss("uniform(3)", seed=1), again).backward()
    assert torch.equal(z.grad, again.grad)


@pytest.mark.parametrize("first", ["plain", "fake"])
def test_stand_ins_for_tensors_get_layouts_of_their_own(first):
    plain = torch.empty(2, 3)
    mode = FakeTensorMode()
    if first == "plain":
        layout_of(2, 4, plain)
    with mode:
        assert all(isinstance(x, FakeTensor) for x in layout_of(2, 4, mode.from_tensor(plain)))
    assert not any(isinstance(x, FakeTensor) for x in layout_of(2, 4, plain))
    assert kept() == 1


def test_a_compiler_traces_a_layout_and_keeps_nothing():
    @functools.partial(torch.compile, backend="eager", fullgraph=True)
    def positives(z):
        return layout_of(2, len(z), z).positives + 0

    assert torch.equal(positives(torch.empty(3, 1)), torch.tensor([[3], [4], [5], [0], [1], [2]]))
    assert kept() == 0


@needs_cuda
def test_another_stream_of_a_gpu_keeps_nothing():
    z = torch.empty(2, 3, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        layout_of(2, 4, z)
    assert kept() == 0
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = layout_of(2, 4, z)
    assert kept() == 0
    graph.replay()
    assert alike(captured, layout_of(2, 4, z))


def test_only_the_builders_own_positives_are_known_to_be_complete():
    z = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    batch = ContrastiveBatch.from_views(tuple(z))
    assert not batch.padded
    assert not batch.within(temperature=0.3).padded
    assert not ContrastiveBatch.from_pairs(*z[:2]).padded
    assert replace(batch, positives=batch.positives.clone()).padded
    unit = torch.nn.functional.normalize(z[0], dim=1)
    assert ContrastiveBatch.from_ids(unit, torch.tensor([0, 0, 1, 1, 2], device=DEVICE)).padded


@pytest.mark.parametrize("without", [[], [0], [2, 4], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_the_mean_is_over_the_anchors_that_have_a_positive(without):
    z = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    loss_fn = ContrastiveLoss(temperature=0.5)
    batch = ContrastiveBatch.from_views(tuple(z)).within(temperature=0.5)
    losses = loss_fn.objective(batch, loss_fn.sampler(batch), 0.5)
    positives = batch.positives.clone()
    positives[without] = -1
    found = loss_fn.contrast(replace(batch, positives=positives).within())
    paying = [n for n in range(8) if n not in without]
    torch.testing.assert_close(found, losses[paying].sum() / max(1, len(paying)))
    torch.testing.assert_close(loss_fn(*z), losses.mean())
