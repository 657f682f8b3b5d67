"""Whether a module's scalar is a contrastive loss, read from the graph that autograd keeps.

A contrastive loss compares embeddings with embeddings and weighs the similarities against each
other: between the scalar and the embeddings that the module was given there is a softmax, or
exponentials, sigmoids or hinges, over products (or distances) of embeddings with embeddings. A
regression has no softmax, and losses of cross-correlations (Barlow Twins, VICReg) have no
exponential. A classifier multiplies embeddings with weights, whether they learn or are frozen; a
graph convolution and attention contract samples (:mod:`negplug.hosts.graph_axes`). Nothing is
computed, and no call is repeated.

One factor may be a constant: keys without gradient, or a queue. The weights of a frozen classifier
are constant too. Keys are recognised by their number, which is that of the embeddings. A queue is
recognised by the positives: beside the product with it, each embedding is multiplied with its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node, get_gradient_edge

from negplug.hosts.graph_axes import (
    LAYERS,
    MOST_NODES,
    Axis,
    axis_of,
    is_of_features,
    is_of_shares,
    operation_of,
    spread_over,
)
from negplug.hosts.graph_parameters import below
from negplug.hosts.kernel_means import differences_of_kernels
from negplug.hosts.nested import tensors_in
from negplug.hosts.tuple_form import of_tuples
from negplug.kernels.distributed import world_size
from negplug.kernels.graph_marks import is_marked
from negplug.kernels.torch_private import output_shape

_WEIGHS = frozenset(
    "LogSoftmax Softmax Logsumexp Logaddexp Exp Exp2 Expm1 "
    "Sigmoid LogSigmoid Softplus BinaryCrossEntropyWithLogits SoftMarginLoss MultiMarginLoss "
    "MultilabelMarginLoss Relu Clamp ClampMin Threshold Maximum".split()
)
"""Operations that weigh similarities against each other."""

_FIRST_FACTOR = {"Mm": 0, "Bmm": 0, "Addmm": 1, "Baddbmm": 1, "Cdist": 0, "EuclideanDist": 0}
"""Operation that compares rows with rows → place of the first factor among its inputs."""

_DISTANCES = frozenset(("Cdist", "EuclideanDist"))
"""Of these, those whose second factor has its features last, as the first one has."""

_PAIRWISE = frozenset(("Mul", "Sub"))
"""The same, if both sides were spread over a dimension of their own."""

_UNSPREAD = frozenset(("Div", "Mul", "Clamp", "ClampMin", "Expand", "Slice", "ToCopy"))

_OF_WEIGHTS = _UNSPREAD | frozenset(
    "Add Sub Pow Sqrt Rsqrt Sum Mean Norm LinalgVectorNorm WeightNorm WeightNormInterface Mm Cat "
    "Stack T Transpose Permute View UnsafeView Unsqueeze Squeeze Select Clone".split()
)
"""Operations that make weights of weights: normalised, factorised, reparametrised ones."""


def losses_in(output: Any) -> list[Tensor]:
    """Return what may be losses in what a module returns: scalars, and values of samples.

    Args:
        output: A tensor, or a list, a tuple or a dictionary of some.
    """
    if isinstance(output, Tensor):
        several: Iterable[Any] = (output,)
    elif isinstance(output, dict):
        several = output.values()
    else:
        several = output if isinstance(output, (list, tuple)) else ()
    return [v for v in several if isinstance(v, Tensor) and v.ndim <= 1 and v.requires_grad]


def contrasts(output: Tensor, given: Any) -> bool:
    """Return whether a value is a contrastive loss of the embeddings that a module was given.

    Args:
        output: The value, or that of each sample, with a gradient.
        given: The module's arguments; tensors are looked for in lists, tuples and mappings too.
    """
    tensors = [tensor for tensor in tensors_in(given) if not isinstance(tensor, nn.Parameter)]
    nodes = {get_gradient_edge(tensor).node for tensor in tensors if tensor.requires_grad}
    sources = {node for node in nodes if not _of_weights(node)} or nodes
    # Embeddings with classes alone: what they are multiplied with are weights.
    matrices = sum(tensor.is_floating_point() and tensor.ndim > 1 for tensor in tensors)
    keys = matrices > 1 or all(tensor.is_floating_point() for tensor in tensors)
    if not sources:
        return False
    known = sources.__contains__, sources.__contains__, keys
    return (_weigher(output, *known) or of_tuples(output.grad_fn, *known)) is not None


def weigher_of_data(output: Tensor) -> Node | None:
    """Return what weighs similarities in a contrastive loss of whatever networks make of data.

    Args:
        output: With a gradient. Losses in it that are marked as known are passed over.

    Returns:
        The operation, None if there is no such loss.
    """
    known = _takes_in_data, is_marked
    return _weigher(output, *known) or of_tuples(output.grad_fn, *known)


def hidden_in(output: Tensor) -> Node | None:
    """Return a function of autograd that makes a loss of two matrices of what networks embed.

    A fused kernel is one, and so is what ``torch.compile`` makes of a function: what they compute
    is not to be seen. Losses that are marked as known are passed over, and so are reentrant
    checkpoints: a criterion that is called inside one is seen.
    """
    for node in below(
        output.grad_fn, is_end=lambda node: is_marked(node) or operation_of(node) in LAYERS
    ):
        if _is_fused(node) and not node.name().startswith("CheckpointFunction"):
            edges = [(given, number) for given, number in node.next_functions if given is not None]
            rows = [edge[0] for edge in edges if len(output_shape(*edge)) == 2]
            if sum(any(map(_takes_in_data, below(row))) for row in rows) > 1:
                return node
    return None


def _weigher(
    output: Tensor,
    is_source: Callable[[Node], bool],
    is_end: Callable[[Node], bool],
    keys: bool = True,
) -> Node | None:
    """Return what weighs products of embeddings, None if nothing does.

    Args:
        output: The scalar.
        is_source: Whether a node returns embeddings.
        is_end: Whether nothing below a node is looked at.
        keys: Whether as many constants as there are embeddings are their keys.
    """
    known = is_source, is_end, keys
    weigher = _weigher_below(output.grad_fn, *known)
    if weigher is None:
        return None
    means = differences_of_kernels(
        output.grad_fn, is_end, lambda node: _weigher_below(node, *known) is not None
    )
    if not means:
        return weigher
    return _weigher_below(
        output.grad_fn, is_source, lambda node: node in means or is_end(node), keys
    )


def _weigher_below(
    start: Node | None,
    is_source: Callable[[Node], bool],
    is_end: Callable[[Node], bool],
    keys: bool,
) -> Node | None:
    """Return the first operation below a node that weighs products of embeddings, or None."""
    todo: list[tuple[Node | None, Node | None]] = [(start, None)]
    seen: set[tuple[Node, bool]] = set()
    with_constants, with_own = None, False
    while todo and len(seen) < MOST_NODES:
        node, weigher = todo.pop()
        if node is None or (node, weigher is None) in seen or is_end(node):
            continue
        seen.add((node, weigher is None))
        operation = operation_of(node)
        if weigher is not None and (factors := _factors(node, operation)):
            if _of_embeddings(factors, is_source):
                if all(axis is not None for axis in factors) or (keys and _of_keys(node)):
                    return weigher
                with_constants = weigher
        with_own = with_own or _multiplies_rows(node, operation, is_source)
        if with_constants is not None and with_own:
            return with_constants
        # What is below a layer is no longer what the loss makes of similarities.
        if operation in LAYERS:
            continue
        if weigher is None and (operation in _WEIGHS or _is_fused(node)):
            weigher = node
        todo += [(following, weigher) for following, _ in node.next_functions]
    return None


def _is_fused(node: Node) -> bool:
    """Return whether a function of autograd makes a loss of similarities, unseen."""
    return isinstance(node, BackwardCFunction) and len(output_shape(node)) <= 1


def _factors(node: Node, operation: str) -> list[Axis | None] | None:
    """Return what a node contracts of its factors if it compares rows with rows.

    None stands for a constant.
    """
    first = _FIRST_FACTOR.get(operation)
    if operation == "Bmm" and output_shape(node)[-2:] == (1, 1):
        return None  # each row with its own, as einsum("bd,bd->b") computes it
    if operation == "Pdist":
        return [axis_of(node.next_functions[0], -1)]
    if first is not None:
        edges = node.next_functions[first : first + 2]
        return [axis_of(edges[0], -1), axis_of(edges[1], -1 if operation in _DISTANCES else -2)]
    if operation in _PAIRWISE and len(node.next_functions) == 2:
        over = {spread_over(function, _UNSPREAD) for function, _ in node.next_functions}
        if len(over) == 2 and over.isdisjoint((None, -1)):
            return [axis_of(edge, -1) for edge in node.next_functions]
    return None


def _of_embeddings(factors: list[Axis | None], is_source: Callable[[Node], bool]) -> bool:
    """Return whether what is contracted are features of embeddings; constants may be anything."""
    axes = [axis for axis in factors if axis is not None]
    return bool(axes) and all(
        is_of_features(axis, is_source) and not is_of_shares(axis) for axis in axes
    )


def _of_keys(node: Node) -> bool:
    """Return whether similarities are of as many rows as there are columns, or as ranks have."""
    rows, columns = output_shape(node)[-2:]
    return columns == rows or columns == world_size() * rows


def _multiplies_rows(node: Node, operation: str, is_source: Callable[[Node], bool]) -> bool:
    """Return whether each embedding is multiplied with one that is its own."""
    product: Node | None = node
    if operation == "Sum":
        product = node.next_functions[0][0]
        if product is None or operation_of(product) != "Mul" or _spreads(product):
            return False
    elif operation != "Bmm" or output_shape(node)[-2:] != (1, 1):
        return False
    edges = () if product is None else product.next_functions
    reached = [any(map(is_source, below(function))) for function, _ in edges]
    constant = [function is None for function, _ in edges]
    return any(reached) and all(r or c for r, c in zip(reached, constant, strict=True))


def _takes_in_data(node: Node) -> bool:
    """Return whether a network is given data here: a constant, or a tensor that is no parameter."""
    operation = operation_of(node)
    if operation in LAYERS:
        return operation == "Embedding" or any(edge is None for edge, _ in node.next_functions)
    leaf = getattr(node, "variable", None)
    return leaf is not None and not isinstance(leaf, nn.Parameter)


def _of_weights(node: Node) -> bool:
    """Return whether a tensor is made of parameters alone."""
    for found in below(node):
        if (leaf := getattr(found, "variable", None)) is not None:
            if not isinstance(leaf, nn.Parameter):
                return False
        elif operation_of(found) not in _OF_WEIGHTS or _takes_a_constant(found):
            return False
    return True


def _takes_a_constant(node: Node) -> bool:
    """Return whether a node was given a constant that is larger than what else it was given."""
    return any(function is None for function, _ in node.next_functions) and _spreads(node)


def _spreads(node: Node) -> bool:
    """Return whether a node returns another shape than one of its inputs has."""
    edges = [(function, output) for function, output in node.next_functions if function is not None]
    return any(output_shape(*edge) != output_shape(node) for edge in edges)
