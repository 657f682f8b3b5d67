"""Whether a module's scalar is a contrastive loss, read from the graph that autograd keeps.

A contrastive loss compares embeddings with embeddings and weighs the similarities against each
other: between the scalar and the embeddings that the module was given there is a softmax, or
exponentials, sigmoids or hinges, over products (or distances) of embeddings with embeddings. A
regression has no softmax, a classifier multiplies embeddings with its parameters, and losses of
cross-correlations (Barlow Twins, VICReg) have no exponential. Nothing is computed, and no call is
repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge

_WEIGHS = frozenset(
    "LogSoftmax Softmax Logsumexp Logaddexp Exp Exp2 Expm1 "
    "Sigmoid LogSigmoid Softplus BinaryCrossEntropyWithLogits Relu Clamp ClampMin Threshold".split()
)
"""Operations that weigh similarities against each other."""

_FIRST_FACTOR = {"Mm": 0, "Bmm": 0, "Addmm": 1, "Baddbmm": 1, "Cdist": 0, "EuclideanDist": 0}
"""Operation that compares rows with rows → place of the first factor among its inputs."""

_PAIRWISE = frozenset(("Mul", "Sub"))
"""The same, if both sides were spread over a dimension of their own."""

_LAYERS = frozenset((*_FIRST_FACTOR, "Convolution", "MkldnnConvolution", "Embedding"))
"""Operations by which a network takes in data."""

_UNSPREAD = frozenset(("Div", "Mul", "Clamp", "ClampMin", "Expand", "Slice", "ToCopy"))

# A loss has tens of nodes; the embeddings that it was given end the walk.
_MOST_NODES = 4096


def contrasts(output: Tensor, given: Any) -> bool:
    """Return whether a scalar is a contrastive loss of the embeddings that a module was given.

    Args:
        output: The scalar, with a gradient.
        given: The module's arguments; tensors are looked for in lists, tuples and mappings too.
    """
    sources = {
        get_gradient_edge(tensor).node
        for tensor in _tensors(given)
        if tensor.requires_grad and not isinstance(tensor, nn.Parameter)
    }
    return bool(sources) and _weighs_products(output, sources.__contains__, sources)


def contrasts_data(output: Tensor) -> bool:
    """Return whether a tensor is a contrastive loss of whatever networks make of data.

    Args:
        output: With a gradient.
    """
    return _weighs_products(output, _takes_in_data)


def parameters_of(output: Tensor) -> set[Tensor]:
    """Return the parameters that a tensor depends on."""
    leaves = (getattr(node, "variable", None) for node in _below(output.grad_fn))
    return {leaf for leaf in leaves if isinstance(leaf, nn.Parameter)}


def _weighs_products(
    output: Tensor, is_source: Callable[[Node], bool], ends: Collection[Node] = ()
) -> bool:
    todo: list[tuple[Node | None, bool]] = [(output.grad_fn, False)]
    seen: set[tuple[Node, bool]] = set()
    while todo and len(seen) < _MOST_NODES:
        node, weighed = todo.pop()
        if node is None or node in ends or (node, weighed) in seen:
            continue
        seen.add((node, weighed))
        operation = _operation(node)
        factors = _factors(node, operation)
        if weighed and factors is not None and _of_embeddings(factors, is_source):
            return True
        # What is below a layer is no longer what the loss makes of similarities.
        if operation in _LAYERS:
            continue
        weighed = weighed or operation in _WEIGHS
        todo += [(following, weighed) for following, _ in node.next_functions]
    return False


def _tensors(given: Any) -> Iterable[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, Mapping):
        for value in given.values():
            yield from _tensors(value)
    elif isinstance(given, (list, tuple)):
        for value in given:
            yield from _tensors(value)


def _operation(node: Node) -> str:
    return node.name().partition("Backward")[0]


def _factors(node: Node, operation: str) -> list[Node | None] | None:
    """Return the two factors if a node compares rows with rows; None stands for a constant."""
    following = [function for function, _ in node.next_functions]
    first = _FIRST_FACTOR.get(operation)
    if first is not None:
        return following[first : first + 2]
    if operation in _PAIRWISE and len(following) == 2 and all(map(_is_spread, following)):
        return following
    return None


def _is_spread(node: Node | None) -> bool:
    """Return whether a factor was given a dimension of its own, as in ``a[:, None] - b[None]``."""
    while node is not None and _operation(node) in _UNSPREAD:
        node = node.next_functions[0][0]
    return node is not None and _operation(node) == "Unsqueeze"


def _of_embeddings(factors: list[Node | None], is_source: Callable[[Node], bool]) -> bool:
    """Return whether both factors are embeddings: one may be a constant, none a parameter."""
    reached = [any(map(is_source, _below(factor))) for factor in factors]
    constant = [factor is None for factor in factors]
    return any(reached) and all(r or c for r, c in zip(reached, constant, strict=True))


def _takes_in_data(node: Node) -> bool:
    """Return whether a network is given data here: a constant, or a tensor that is no parameter."""
    operation = _operation(node)
    if operation in _LAYERS:
        return operation == "Embedding" or any(edge is None for edge, _ in node.next_functions)
    leaf = getattr(node, "variable", None)
    return leaf is not None and not isinstance(leaf, nn.Parameter)


def _below(start: Node | None) -> Iterator[Node]:
    todo, seen = [start], set[Node]()
    while todo and len(seen) < _MOST_NODES:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            todo += [following for following, _ in node.next_functions]
