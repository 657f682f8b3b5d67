"""Canaries of the installed torch: each private thing exists and does what we rely on.

A failure names torch, its version and what changed; see ``negplug.kernels.torch_private``.
"""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from canaries import require
from torch import nn
from torch.distributed.algorithms import join
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from torch.utils.data import BatchSampler, DataLoader

from negplug.kernels import torch_private

COMPILES = """
import sys
from negplug.kernels.torch_private import outside_graphs
import torch

inside, graphs = [], []

@outside_graphs
def eager(x):
    inside.append(torch.compiler.is_compiling())
    return x * 3

print("torch._dynamo" in sys.modules)

def backend(graph, inputs):
    graphs.append(graph)
    return graph.forward

found = torch.compile(lambda x: eager(x + 1) + 2, backend=backend)(torch.ones(2))
print(found.tolist(), inside, len(graphs))
"""


def test_is_compiled():
    def function(x):
        return x + 1

    assert torch_private.is_compiled(torch.compile(function, backend="eager"))
    assert not torch_private.is_compiled(function)
    assert not torch_private.is_compiled(torch.compiler.disable(function))


def test_outside_graphs():
    # In a process of its own: after the compiler, the first backward pass of a process starts
    # threads, and ranks can be forked no more.
    command = [sys.executable, "-c", COMPILES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    imported, run = done.stdout.splitlines()
    require(imported == "False", "_disable_dynamo imports the compiler", "outside_graphs")
    what = f"_disable_dynamo leaves what it decorates in the graph ({run})"
    require(run == "[8.0, 8.0] [False] 2", what, "outside_graphs")


def test_recording():
    inside = []

    def kernel(x):
        inside.append((x.detach().requires_grad_() * 2).requires_grad)
        with torch_private.recording():
            inside.append((x.detach().requires_grad_() * 2).requires_grad)
        return x.clone()

    schema = "(Tensor x) -> Tensor"
    operation = torch.library.custom_op("tests::recording", kernel, mutates_args=(), schema=schema)
    operation(torch.ones(2, requires_grad=True))
    require(inside == [False, True], "a kernel of an operation records otherwise", "recording")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pair_products(dtype):
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(5, 7, generator=generator, dtype=dtype)
    right = torch.randn(9, 7, generator=generator, dtype=dtype)
    # In no order, some rows never and some often.
    rows = torch.tensor([4, 0, 0, 2, 4, 1, 4, 0])
    columns = torch.tensor([8, 8, 0, 3, 1, 0, 8, 5])
    found = torch_private.pair_products(left, right, rows, columns)
    same = torch.allclose(found, (left[rows] * right[columns]).sum(1), atol=1e-6)
    what = "_embedding_bag_per_sample_weights_backward multiplies other pairs of rows"
    require(same, what, "pair_products")
    none = torch_private.pair_products(left, right, rows[:0], columns[:0])
    require(none.shape == (0,), "its kernel takes no empty list of pairs", "pair_products")


@pytest.mark.skipif(not dist.is_available(), reason="torch has no torch.distributed here")
def test_sequence_number(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        group, numbers = dist.group.WORLD, []
        for _ in range(3):
            numbers.append(torch_private.sequence_number(group))
            dist.all_reduce(torch.ones(1))
        torch_private.default_store().set("here", b"")
        shared = torch_private.default_store().check(["here"])
    finally:
        dist.destroy_process_group()
    counts = numbers[0] < numbers[1] < numbers[2]
    what = f"a process group's sequence number does not rise with a collective ({numbers})"
    require(counts, what, "sequence_number")
    require(shared, "the default store does not keep what it is told", "default_store")


def test_joins_uneven_inputs():
    class Trained(join.Joinable):
        join_hook = join_device = join_process_group = None

        def __init__(self):
            super().__init__()

    one = Trained()
    what = "a Joinable has no _join_config that is disabled at first"
    require(one._join_config.enable is False, what, "joins_uneven_inputs")
    assert not torch_private.joins_uneven_inputs()
    one._join_config = one._join_config._replace(enable=True)
    assert torch_private.joins_uneven_inputs()


def test_foreach():
    def given():
        return [torch.tensor([1.0, 2.0]), torch.tensor([3.0])]

    scalars = [2.0, 4.0]
    # Its further arguments, and what becomes of each tensor and its scalar.
    wanted = {
        "add_": ((given(),), lambda a, s: a + a),
        "addcmul_": ((given(), given(), scalars), lambda a, s: a + s * a * a),
        "div": ((4.0,), lambda a, s: a / 4.0),
        "div_": ((scalars,), lambda a, s: a / s),
        "mul_": ((0.5,), lambda a, s: a * 0.5),
        "norm": ((math.inf,), lambda a, s: a.abs().max()),
        "sub": ((given(),), lambda a, s: a - a),
    }
    assert tuple(wanted) == torch_private.FOREACH
    for name, (arguments, plain) in wanted.items():
        tensors = given()
        returned = torch_private.foreach(name)(tensors, *arguments)
        found = tensors if name.endswith("_") else returned
        expected = map(plain, given(), scalars)
        same = all(torch.equal(f, e) for f, e in zip(found, expected, strict=True))
        require(same, f"torch._foreach_{name} computes something else", "foreach")


def test_write_count():
    tensor = torch.zeros(2)
    before = torch_private.write_count(tensor)
    tensor.add_(0)
    require(torch_private.write_count(tensor) > before, "_version misses a write", "write_count")
    before = torch_private.write_count(tensor)
    tensor.add(1)
    require(torch_private.write_count(tensor) == before, "_version counts a read", "write_count")


def test_unscales_itself():
    weights = [nn.Parameter(torch.ones(2))]
    fused = torch.optim.Adam(weights, fused=True)
    what = "a fused optimizer does not say _step_supports_amp_scaling any more"
    require(torch_private.unscales_itself(fused), what, "unscales_itself")
    plain = not torch_private.unscales_itself(torch.optim.Adam(weights, fused=False))
    require(plain, "every optimizer says _step_supports_amp_scaling", "unscales_itself")


@pytest.mark.parametrize("gradient", [1.0, torch.inf])
def test_found_infinite(gradient):
    weight = nn.Parameter(torch.ones(2))
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.SGD([weight], lr=0.1)
    scaler.scale((gradient * weight).sum()).backward()
    scaler.step(optimizer)
    found = torch_private.found_infinite(scaler, optimizer)
    what = "a GradScaler keeps what it has found elsewhere"
    require(found == (gradient == torch.inf), what, "found_infinite")


@pytest.mark.parametrize("workers", [0, 1])
def test_set_batch_sampler(workers):
    own, other = BatchSampler(range(4), 2, False), BatchSampler(range(4, 8), 4, False)
    loader = DataLoader(
        range(8), batch_sampler=own, num_workers=workers, persistent_workers=workers > 0
    )
    assert [batch.tolist() for batch in loader] == [[0, 1], [2, 3]]
    torch_private.set_batch_sampler(loader, other)
    assert loader.batch_sampler is other
    drawn = [batch.tolist() for batch in loader] == [[4, 5, 6, 7]]
    kept = f"an iterator {'that a DataLoader keeps' if workers else 'of a DataLoader'}"
    require(drawn, f"{kept} draws from another sampler than its own", "set_batch_sampler")


def test_backward_runs():
    inside = []
    x = torch.ones(2, requires_grad=True)
    y = (x * 2).sum()
    y.register_hook(lambda _: inside.append(torch_private.backward_runs()))
    y.backward()
    what = "_current_graph_task_id tells no backward pass from none"
    require(inside == [True] and not torch_private.backward_runs(), what, "backward_runs")


def test_graph_is_kept():
    kept = []
    x = torch.ones(2, requires_grad=True)
    y = (x * x).sum()
    y.register_hook(lambda _: kept.append(torch_private.graph_is_kept()))
    torch.autograd.grad(y, x, retain_graph=True)
    torch.autograd.grad(y, x, create_graph=True)
    y.backward()
    what = f"_get_current_graph_task_keep_graph says {kept}"
    require(kept == [True, True, False], what, "graph_is_kept")


def test_inside_function():
    found = []

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            found.append(torch_private.inside_function())
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    Function.apply(torch.ones(2, requires_grad=True))
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            found.append(torch_private.inside_function())
    what = f"_is_fwd_grad_enabled does not tell a function's forward pass ({found})"
    require(found == [True, False, False, False], what, "inside_function")


def test_outside_selection():
    class Counting(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.seen += 1
            return function(*args, **(kwargs or {}))

    selecting = type("Selecting", (Counting,), {"__module__": "torch.utils.checkpoint"})
    seen = []
    for mode in (Counting(), selecting()):
        with mode:
            torch.ones(2)
            with torch_private.outside_selection():
                torch.ones(2)
            torch.ones(2)
        seen.append(mode.seen)
    require(seen == [3, 2], "modes are not turned off as before", "outside_selection")
    kinds = {type(mode).__module__ for mode in create_selective_checkpoint_contexts([])}
    require(kinds == {selecting.__module__}, "checkpointing has other modes", "outside_selection")


def test_what_modules_keep():
    """Of ``nn.Module``'s bookkeeping, what a dry run and shared memories write to."""

    def kept(holds, what):
        said = f"torch {torch.__version__}: {what}; negplug.hosts.trainer.dry_run relies on it"
        assert holds, said

    norm = nn.BatchNorm1d(2)
    for name in ("_parameters", "_buffers", "_modules"):
        kept(isinstance(vars(norm).get(name), dict), f"a module keeps no dictionary {name}")
    mean = norm._buffers["running_mean"] = torch.full((2,), 3.0)
    kept(norm.running_mean is mean, "a module's buffers are not those in _buffers")
    for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm):
        kept(issubclass(kind, _BatchNorm), f"{kind.__name__} is no _BatchNorm any more")


def test_a_call_runs_the_instances_own_forward():
    """So a criterion is treated, and given back."""
    layer = nn.Identity()
    vars(layer)["forward"] = lambda x: x + 1
    said = "a call of a module does not run the forward that its instance has of its own"
    assert layer(1) == 2, f"torch {torch.__version__}: {said}; negplug_lightly relies on it"
    del vars(layer)["forward"]
    assert layer(1) == 1


def test_what_nodes_of_autograd_say():
    x = torch.ones(2, 3, requires_grad=True)
    values = [(x * -2, "other"), (-2 * x, "other"), (x / -2, "other"), (x.sum() ** -2, "exponent")]
    for tensor, name in values:
        found = torch_private.saved_values(tensor.grad_fn, name)
        said = f"{tensor.grad_fn.name()} does not save its {name} any more"
        require(found is not None and float(found) == -2, said, "saved_values")
    for tensor in (x * 2, x.unbind(1)[1]):
        shape = torch_private.output_shape(tensor.grad_fn, tensor.output_nr)
        require(shape == tensor.shape, "_input_metadata says another shape", "output_shape")
    found = [
        torch_private.saved_numbers(x.unsqueeze(-2).grad_fn, "dim"),
        torch_private.saved_numbers(x.permute(1, 0).grad_fn, "dims"),
        torch_private.saved_numbers(x.transpose(-1, 0).grad_fn, "dim0"),
        torch_private.saved_numbers(torch.stack([x, x], 1).grad_fn, "dim"),
        torch_private.saved_numbers(x.select(-1, 0).grad_fn, "dim"),
        torch_private.saved_numbers(x.sum((0, 1)).grad_fn, "dim"),
        torch_private.saved_numbers(x.softmax(1).grad_fn, "dim"),
    ]
    what = f"nodes of autograd save other dimensions ({found})"
    wanted = [(-2,), (1, 0), (-1,), (1,), (1,), (0, 1), (1,)]
    ranks = [3, 2, 2, 3, 2, 2, 2]
    same = all(
        [a % rank for a in each] == [b % rank for b in other]
        for each, other, rank in zip(found, wanted, ranks, strict=True)
    )
    require(same, what, "saved_numbers")


def test_is_transformed():
    found = []
    torch.func.grad(lambda x: found.append(torch_private.is_transformed(x)) or x)(torch.ones(()))
    found.append(torch_private.is_transformed(torch.ones(())))
    require(found == [True, False], f"is_functorch_wrapped_tensor says {found}", "is_transformed")


def test_has_compiled():
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1))
    require(torch_private.has_compiled(), "nothing counts what is compiled", "has_compiled")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert not torch_private.has_compiled()
