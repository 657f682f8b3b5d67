"""Losses inside of graphs: compiled on the CPU, captured where there is a GPU."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from systems import IS_LINUX
from torch.utils.checkpoint import checkpoint

from negplug import ContrastiveLoss
from negplug.kernels import late

SEED = 3


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def views(size=12, count=2, dtype=torch.float32, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(size, 8, generator=draw).to(dtype).requires_grad_() for _ in range(count)]


def trained(loss_fn, z, **names):
    """Return the loss of a step, and what its backward pass leaves in the views."""
    for view in z:
        view.grad = None
    loss = loss_fn(*z, **names)
    (3 * loss).backward()
    return loss.detach(), [view.grad for view in z]


def compiled(function):
    return torch.compile(function, fullgraph=True, backend="aot_eager")


@pytest.mark.parametrize(
    ("sampler", "objective", "dtype"),
    [
        ("in_batch()", "infonce()", torch.float64),
        ("uniform(num_negatives=5)", "infonce()", torch.float32),
        ("uniform(num_negatives=5, shared=True)", "decoupled()", torch.bfloat16),
        ("hierarchical(hard(num_negatives=3), uniform(num_negatives=4))", "relic()", torch.float32),
        ("stratified(num_negatives=4)", "infonce()", torch.float32),
    ],
)
def test_a_compiled_loss_is_the_loss(sampler, objective, dtype):
    ours, theirs = (ContrastiveLoss(sampler, objective, seed=SEED) for _ in range(2))
    function = compiled(ours)
    names = {"labels": torch.arange(12) % 2} if "stratified" in sampler else {}
    for seed in range(2):
        found, gradients = trained(function, views(dtype=dtype, seed=seed), **names)
        wanted, exact = trained(theirs, views(dtype=dtype, seed=seed), **names)
        assert torch.equal(found, wanted)
        torch.testing.assert_close(gradients, exact)


@pytest.mark.skipif(not IS_LINUX, reason="torch's default compiler needs one of C++ and OpenMP")
def test_a_compiled_step_of_three_views_with_the_default_compiler():
    ours, theirs = (ContrastiveLoss("uniform(num_negatives=5)", seed=SEED) for _ in range(2))
    encoder = torch.nn.Linear(8, 6)

    def step(loss_fn, x):
        return loss_fn(*(encoder(part).tanh() for part in x), indexes=torch.arange(12)) * 2

    function = torch.compile(step, fullgraph=True)
    for seed in range(2):
        x = views(count=3, seed=seed)
        found = torch.autograd.grad(function(ours, x), [*encoder.parameters(), *x])
        wanted = torch.autograd.grad(step(theirs, x), [*encoder.parameters(), *x])
        torch.testing.assert_close(found, wanted)


def test_calls_of_one_graph_draw_anew_and_evaluation_counts_nothing():
    loss_fn = ContrastiveLoss("uniform(num_negatives=3)", seed=SEED)
    function, z = torch.compile(loss_fn, fullgraph=True, backend="eager"), views()
    assert len({float(function(*z).detach()) for _ in range(5)}) == 5
    with torch.no_grad():
        assert torch.equal(function(*z), function(*z))
    assert torch.equal(function(*(v.detach() for v in z)), function(*(v.detach() for v in z)))
    assert loss_fn.get_extra_state()["step"] == 5


def test_steps_inside_and_outside_of_graphs_are_one_row():
    z = views()
    twin = ContrastiveLoss("uniform(num_negatives=3)", seed=SEED)
    wanted = [trained(twin, z)[0] for _ in range(7)]
    loss_fn = ContrastiveLoss("uniform(num_negatives=3)", seed=SEED)
    function = compiled(loss_fn)
    order = [loss_fn, function, function, loss_fn, loss_fn, function, loss_fn]
    assert [float(trained(each, z)[0]) for each in order] == [float(loss) for loss in wanted]
    assert loss_fn.next_step == twin.next_step == 7


@pytest.mark.parametrize("kept", [False, True])
def test_a_probe_between_graphs_takes_no_number(kept):
    z, probes = views(), []
    twin = ContrastiveLoss("uniform(num_negatives=3)", seed=SEED)
    wanted = [float(trained(twin, z)[0]) for _ in range(6)]
    loss_fn = ContrastiveLoss("uniform(num_negatives=3)", seed=SEED)
    function = compiled(loss_fn)
    found = []
    for each in (loss_fn, function, loss_fn, function, function, loss_fn):
        found.append(float(trained(each, z)[0]))
        probes += [loss_fn(*views(seed=7))]
        probes = probes if kept else []
    assert found == wanted


def test_a_compiled_graph_that_is_captured_counts_a_step_once(monkeypatch):
    ours, theirs = (ContrastiveLoss("uniform(num_negatives=3)", seed=SEED) for _ in range(2))
    function, z = compiled(ours), views()
    for _ in range(3):
        wanted, exact = trained(theirs, z)
        with monkeypatch.context() as patch:
            # No CPU has CUDA graphs: what one would take up of a compiled graph runs at once.
            patch.setattr(late, "capturing", lambda _: True)
            found, gradients = trained(function, z)
        assert torch.equal(found, wanted)
        torch.testing.assert_close(gradients, exact)
    assert int(ours.graphs.done) == 3


def test_a_run_of_graphs_resumes():
    z = views()
    loss_fn = ContrastiveLoss("uniform(num_negatives=3)", seed=SEED)
    function = compiled(loss_fn)
    for _ in range(3):
        trained(function, z)
    saved = loss_fn.state_dict()
    copies = [ContrastiveLoss("uniform(num_negatives=3)", seed=99)]
    copies[0].load_state_dict(saved)
    copies += [copy.deepcopy(loss_fn), pickle.loads(pickle.dumps(loss_fn))]
    wanted = [float(trained(function, z)[0]) for _ in range(2)]
    for other in copies:
        again = compiled(other)
        assert [float(trained(again, z)[0]) for _ in range(2)] == wanted
    loss_fn.load_state_dict(saved)  # under a graph that there is
    assert [float(trained(function, z)[0]) for _ in range(2)] == wanted


def of_a_compiled_region(loss_fn):
    return compiled(lambda *z: checkpoint(loss_fn, *z, use_reentrant=False))


def of_a_compiled_loss(loss_fn, reentrant=False):
    inside = compiled(loss_fn)
    return lambda *z: checkpoint(inside, *z, use_reentrant=reentrant)


@pytest.mark.parametrize("checkpointed", [of_a_compiled_region, of_a_compiled_loss])
def test_a_compiled_call_that_is_computed_again_draws_nothing_else(checkpointed):
    ours, theirs = ContrastiveLoss(seed=SEED), ContrastiveLoss(seed=SEED)
    found, gradients = trained(checkpointed(ours), views())
    wanted, exact = trained(theirs, views())
    assert torch.equal(found, wanted)
    torch.testing.assert_close(gradients, exact)
    drawing = checkpointed(ContrastiveLoss("uniform(num_negatives=5)"))
    with pytest.raises(RuntimeError, match=r"computed again by .* checkpoint the encoder alone"):
        trained(drawing, views())


def test_a_reentrant_region_around_a_compiled_call_is_the_call():
    ours, theirs = (ContrastiveLoss("uniform(num_negatives=5)", seed=SEED) for _ in range(2))
    function = of_a_compiled_loss(ours, reentrant=True)
    for seed in range(2):
        found, gradients = trained(function, views(seed=seed))
        wanted, exact = trained(theirs, views(seed=seed))
        assert torch.equal(found, wanted)
        torch.testing.assert_close(gradients, exact)


def test_a_queue_in_a_compiled_region_is_the_queue():
    losses = [ContrastiveLoss("queue(size=48)", seed=SEED) for _ in range(2)]
    region = torch.compile(
        lambda *z: checkpoint(losses[0], *z, use_reentrant=False), backend="aot_eager"
    )
    for seed in range(3):
        found, gradients = trained(region, views(seed=seed))
        wanted, exact = trained(losses[1], views(seed=seed))
        assert torch.equal(found, wanted)
        torch.testing.assert_close(gradients, exact)


def test_half_precision_gets_the_gradient_of_a_scaled_loss():
    ours, theirs = ContrastiveLoss(), ContrastiveLoss()
    found, wanted = views(dtype=torch.float16), views(dtype=torch.float16)
    (compiled(ours)(*found) * 2.0**14).backward()
    (theirs(*wanted) * 2.0**14).backward()
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize(
    ("sampler", "objective", "names"),
    [
        ("queue(size=24)", "infonce()", "queue"),
        ("uniform(num_negatives=3, source=memory_bank(size=12))", "infonce()", "memory_bank"),
        ("in_batch()", "sogclr(size=12)", "sogclr"),
    ],
)
def test_what_remembers_in_python_breaks_the_graph_and_says_so(sampler, objective, names):
    loss_fn, twin = (ContrastiveLoss(sampler, objective, seed=SEED) for _ in range(2))
    z, indexes = views(), torch.arange(12)
    said = torch.__version__ >= "2.9"
    with pytest.raises(Exception, match=f"(?s){names}.*can be part of no graph" if said else ""):
        compiled(loss_fn)(*z, indexes=indexes)
    torch._dynamo.reset()
    function = torch.compile(loss_fn, backend="eager")
    for _ in range(3):
        found, wanted = (trained(each, z, indexes=indexes)[0] for each in (function, twin))
        assert torch.equal(found, wanted)


def test_a_view_that_is_none_is_refused_in_a_graph_too():
    with pytest.raises(Exception, match="z1 must be a floating-point tensor"):
        compiled(ContrastiveLoss())(views()[0], torch.ones(12, 8, dtype=torch.int64))
    torch._dynamo.reset()
    with pytest.raises(Exception, match=r"z0 must have shape \[B, d\]"):
        compiled(ContrastiveLoss())(torch.ones(12), torch.ones(12))


def test_a_loss_on_another_device_is_refused():
    loss_fn = ContrastiveLoss().to("meta")
    with pytest.raises(Exception, match=r"its device, meta, .* cpu; .* loss_fn.to\('cpu'\)"):
        compiled(loss_fn)(*views())


@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=5)"])
def test_graphs_need_no_value(sampler):
    loss_fn = ContrastiveLoss(sampler).to("meta")
    function = compiled(loss_fn)
    for _ in range(3):
        z = [view.detach().to("meta").requires_grad_() for view in views()]
        function(*z).backward()
        assert z[0].grad.shape == z[0].shape


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a GPU")


def replayed(function, z, twin, before):
    """Check that replays draw what steps outside of graphs draw, one after the other."""
    twin.set_extra_state({**twin.get_extra_state(), "step": before})
    for _ in range(4):
        found, gradients = trained(function, z)
        found, gradients = found.clone(), [each.clone() for each in gradients]
        wanted, exact = trained(twin, z)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(gradients, exact)


@GPU
@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=5)"])
def test_a_captured_loss_is_the_loss(sampler):
    z = [view.detach().cuda().requires_grad_() for view in views()]
    ours, theirs = (ContrastiveLoss(sampler, seed=SEED).cuda() for _ in range(2))
    graphed = torch.cuda.make_graphed_callables(ours, tuple(z))
    replayed(graphed, z, theirs, ours.next_step)


@GPU
@pytest.mark.parametrize("sampler", ["in_batch()", "uniform(num_negatives=5)"])
def test_a_loss_compiled_for_little_overhead_is_the_loss(sampler):
    z = [view.detach().cuda().requires_grad_() for view in views()]
    ours, theirs = (ContrastiveLoss(sampler, seed=SEED).cuda() for _ in range(2))
    replayed(torch.compile(ours, fullgraph=True, mode="reduce-overhead"), z, theirs, 0)


@GPU
def test_what_remembers_in_python_is_not_captured():
    loss_fn = ContrastiveLoss("queue(size=48)").cuda()
    z = [view.detach().cuda().requires_grad_() for view in views()]
    with pytest.raises(RuntimeError, match=r"queue.*can be part of no graph"):
        torch.cuda.make_graphed_callables(loss_fn, tuple(z))
