"""All that negplug takes from torch's private side, one function each.

Torch may change any of it in a minor release. A function here says so in one sentence that names
the installed version; ``tests/kernels/test_torch_private.py`` asks the installed torch for each.
What subclasses of ``nn.Module`` keep and override (``_buffers``, ``_modules``, ``_apply``) stays
where it is needed, for every extension of torch relies on it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.data import DataLoader

_P = ParamSpec("_P")
_T = TypeVar("_T")

FOREACH = ("add_", "addcmul_", "div", "div_", "mul_", "norm", "sub")
"""What :func:`foreach` is asked for."""

_SAYS_WHY = torch.__version__ >= "2.9"


def changed(what: str, reader: str) -> RuntimeError:
    """Return the error that says what of the installed torch is not as expected.

    Args:
        what: What changed, as a clause.
        reader: The function of this module that relies on it.
    """
    return RuntimeError(
        f"torch {torch.__version__}: {what}; {__name__}.{reader} relies on it, so use "
        f"another version of torch or of negplug"
    )


def outside_graphs(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Decorate what ``torch.compile`` must leave to the interpreter.

    Unlike ``torch.compiler.disable`` this imports the compiler only where one is at work.
    """
    try:
        disable = importlib.import_module("torch._compile")._disable_dynamo
    except (ImportError, AttributeError):
        raise changed("torch._compile has no _disable_dynamo any more", "outside_graphs") from None
    return cast(Callable[_P, _T], disable(function))


def has_compiled() -> bool:
    """Return whether ``torch.compile`` has compiled anything in this process."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return False
    if not hasattr(dynamo, "counters"):
        raise changed("torch._dynamo.utils has no counters any more", "has_compiled")
    return bool(dynamo.counters.get("frames"))


def is_compiled(function: Any) -> bool:
    """Return whether calls of a function run what ``torch.compile`` makes of it.

    Torch puts the function itself into an attribute of what stands in for it, also of one that is
    not to be compiled.
    """
    stands_in = hasattr(function, "_torchdynamo_orig_callable")
    return stands_in and not getattr(function, "_torchdynamo_disable", False)


def break_graph(reason: str) -> None:
    """Break the graph that ``torch.compile`` traces; where it must not, that is the error.

    Args:
        reason: Part of the error's message from torch 2.9 on.
    """
    if _SAYS_WHY:
        torch._dynamo.graph_break(msg=reason)
    else:
        torch._dynamo.graph_break()


@contextlib.contextmanager
def recording() -> Iterator[None]:
    """Let autograd record inside of an operation's kernel, where torch has turned it off."""
    names = ("_dispatch_tls_local_include_set", "_dispatch_tls_local_exclude_set")
    guard = getattr(torch._C, "_ForceDispatchKeyGuard", None)
    if guard is None or not all(hasattr(torch._C, name) for name in names):
        raise changed("torch._C has no _ForceDispatchKeyGuard any more", "recording")
    included, excluded = (getattr(torch._C, name)() for name in names)
    for key in ("AutogradFunctionality", "ADInplaceOrView"):
        excluded = excluded.remove(getattr(torch._C.DispatchKey, key))
    with guard(included, excluded), torch.enable_grad():
        yield


def pair_products(left: Tensor, right: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the products ⟨left[rows[n]], right[columns[n]]⟩, ``[n]``, with no ``[n, d]`` tensor.

    It is the kernel behind the gradient of ``embedding_bag`` to its weights per sample, which
    reads which row goes with which column and, being told that, no offsets.

    Args:
        left: ``[N, d]``, contiguous.
        right: ``[M, d]``, contiguous, of the same type.
        rows: ``[n]`` int64.
        columns: ``[n]`` int64.
    """
    name = "_embedding_bag_per_sample_weights_backward"
    kernel = getattr(torch.ops.aten, name, None)
    if kernel is None:
        raise changed(f"torch.ops.aten has no {name} any more", "pair_products")
    unread = columns.new_empty(1)
    return cast(Tensor, kernel(left, right, columns, unread, rows, 0))


def sequence_number(group: Any) -> int:
    """Return a number that rises with every collective of a process group."""
    name = "_get_sequence_number_for_group"
    if not hasattr(group, name):
        raise changed(f"{type(group).__name__} has no {name} any more", "sequence_number")
    return int(getattr(group, name)())


def default_store() -> Any:
    """Return the store through which the ranks of the default process group have met."""
    name = "_get_default_store"
    module = importlib.import_module("torch.distributed.distributed_c10d")
    if not hasattr(module, name):
        raise changed(f"torch.distributed has no {name} any more", "default_store")
    return getattr(module, name)()


def joins_uneven_inputs() -> bool:
    """Return whether this process trains in ``Join``, for ranks that end after different steps."""
    module = sys.modules.get("torch.distributed.algorithms.join")  # imported by what can join
    if module is None:
        return False
    joinable = [each for each in gc.get_objects() if issubclass(type(each), module.Joinable)]
    if not all(hasattr(each, "_join_config") for each in joinable):
        raise changed("a Joinable has no _join_config any more", "joins_uneven_inputs")
    return any(each._join_config.enable for each in joinable)


def foreach(name: str) -> Callable[..., Any]:
    """Return the operation on lists of tensors of this name, one launch for all of a list.

    Args:
        name: One of :data:`FOREACH`.
    """
    operation: Callable[..., Any] | None = getattr(torch, f"_foreach_{name}", None)
    if operation is None:
        raise changed(f"there is no torch._foreach_{name} any more", "foreach")
    return operation


def write_count(tensor: Tensor) -> int:
    """Return a number that rises with every write into a tensor that autograd sees."""
    if not hasattr(tensor, "_version"):
        raise changed("a tensor has no _version any more", "write_count")
    return tensor._version


def output_shape(node: Node, number: int = 0) -> tuple[int, ...]:
    """Return the shape of an output of the operation that a node of autograd's graph stands for."""
    outputs = getattr(node, "_input_metadata", None)
    if outputs is None:
        raise changed("a node of autograd has no _input_metadata any more", "output_shape")
    return tuple(int(size) for size in outputs[number].shape)


def saved_numbers(node: Node, name: str) -> tuple[int, ...]:
    """Return a number, or some, that a node of autograd's graph has saved, negative ones too.

    Args:
        node: The node.
        name: As torch's table of derivatives has it, ``dim`` say; of no tensor, for reading that
            may run hooks.
    """
    if not hasattr(node, f"_saved_{name}"):
        raise changed(f"{node.name()} has no _saved_{name} any more", "saved_numbers")
    found = getattr(node, f"_saved_{name}")
    numbers = found if isinstance(found, (list, tuple)) else (found,)
    return tuple(int(each) - (1 << 64) * (each >= 1 << 63) for each in numbers if each is not None)


def saved_values(node: Node, name: str) -> Tensor | None:
    """Return what a node of autograd's graph has saved of an argument, None if it has nothing.

    Args:
        node: The node.
        name: As torch's table of derivatives has it, ``other`` say.
    """
    try:
        kept = getattr(node, f"_saved_{name}", None)
    except RuntimeError:  # freed, or written to since
        return None
    return None if kept is None else torch.as_tensor(kept).detach()


def backward_runs() -> bool:
    """Return whether this thread is inside of a backward pass."""
    task = getattr(torch._C, "_current_graph_task_id", None)
    if task is None:
        raise changed("torch._C has no _current_graph_task_id any more", "backward_runs")
    return bool(task() != -1)


def graph_is_kept() -> bool:
    """Return whether the backward pass that is running keeps its graph for another one."""
    kept = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    if kept is None:
        what = "torch._C._autograd has no _get_current_graph_task_keep_graph any more"
        raise changed(what, "graph_is_kept")
    return bool(kept())


@contextlib.contextmanager
def outside_selection() -> Iterator[None]:
    """Compute inside unseen by selective checkpointing.

    It counts the operations of a region, and gives those that are computed again the values of the
    first ones, by their numbers. A call that is computed again has no bookkeeping to do.
    """
    dispatch = importlib.import_module("torch.utils._python_dispatch")
    for name in ("_get_current_dispatch_mode_stack", "_disable_current_modes"):
        if not hasattr(dispatch, name):
            what = f"torch.utils._python_dispatch has no {name} any more"
            raise changed(what, "outside_selection")
    modes = dispatch._get_current_dispatch_mode_stack()
    selects = any(type(mode).__module__ == "torch.utils.checkpoint" for mode in modes)
    with dispatch._disable_current_modes() if selects else contextlib.nullcontext():
        yield


def inside_function() -> bool:
    """Return whether this is the forward pass of an ``autograd.Function``.

    Torch turns both kinds of differentiation off there, where ``no_grad()`` turns off one.
    """
    if torch.is_grad_enabled() or torch.is_inference_mode_enabled():
        return False
    enabled = getattr(torch._C, "_is_fwd_grad_enabled", None)
    if enabled is None:
        raise changed("torch._C has no _is_fwd_grad_enabled any more", "inside_function")
    return not enabled()


def is_transformed(tensor: Tensor) -> bool:
    """Return whether a tensor is one that ``torch.func`` hands to a function that it transforms."""
    told = getattr(torch._C._functorch, "is_functorch_wrapped_tensor", None)
    if told is None:
        what = "torch._C._functorch has no is_functorch_wrapped_tensor any more"
        raise changed(what, "is_transformed")
    return bool(told(tensor))


def unscales_itself(optimizer: Any) -> bool:
    """Return whether an optimizer undoes a ``GradScaler``'s scaling in its own step.

    The fused ones do, and say it in an attribute that the others lack.
    """
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


def found_infinite(scaler: Any, optimizer: Any) -> bool:
    """Return whether a ``GradScaler`` found infinite gradients; for after its ``step()``.

    That has read the same values, unless the optimizer is a fused one.
    """
    if not hasattr(scaler, "_found_inf_per_device"):
        raise changed("a GradScaler has no _found_inf_per_device any more", "found_infinite")
    return any(bool(found) for found in scaler._found_inf_per_device(optimizer).values())


def set_batch_sampler(loader: DataLoader[Any], sampler: Any) -> None:
    """Put another batch sampler into a loader, and into the iterator that it keeps.

    ``DataLoader`` forbids the plain assignment. With persistent workers it keeps one iterator,
    which has taken its sampler over.
    """
    if not hasattr(loader, "_iterator"):
        raise changed("a DataLoader has no _iterator any more", "set_batch_sampler")
    iterator = loader._iterator
    if iterator is not None and not hasattr(iterator, "_index_sampler"):
        what = "the iterator of a DataLoader has no _index_sampler any more"
        raise changed(what, "set_batch_sampler")
    object.__setattr__(loader, "batch_sampler", sampler)
    if iterator is not None:
        iterator._index_sampler = sampler
