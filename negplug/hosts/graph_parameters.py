"""What a tensor depends on, in the graph that autograd keeps: operations and parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch import Tensor, nn
from torch.autograd.graph import Node

from negplug.hosts.graph_axes import MOST_NODES


def parameters_of(output: Tensor) -> set[Tensor]:
    """Return the parameters that a tensor depends on."""
    return parameters_below(output.grad_fn)


def nearest_parameter(tensors: Iterable[Tensor]) -> nn.Parameter | None:
    """Return the parameter that is the fewest operations away from some tensors, if any is."""
    tensors = list(tensors)
    for tensor in tensors:
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            return tensor
    nodes = {node: None for tensor in tensors if (node := tensor.grad_fn) is not None}
    seen = dict(nodes)
    while nodes and len(seen) < MOST_NODES:
        for node in nodes:
            leaf = getattr(node, "variable", None)
            if isinstance(leaf, nn.Parameter):
                return leaf
        given = [following for node in nodes for following, _ in node.next_functions]
        nodes = {node: None for node in given if node is not None and node not in seen}
        seen |= nodes
    return None


def parameters_below(start: Node | None) -> set[Tensor]:
    """Return the parameters that an operation depends on."""
    leaves = (getattr(node, "variable", None) for node in below(start))
    return {leaf for leaf in leaves if isinstance(leaf, nn.Parameter)}


def below(
    *starts: Node | None, is_end: Callable[[Node], bool] = lambda node: False
) -> Iterator[Node]:
    """Yield operations and all that they depend on, each once.

    Args:
        starts: The operations.
        is_end: Whether an operation is left out, with what it alone depends on.
    """
    todo, seen = list(starts), set[Node]()
    while todo and len(seen) < MOST_NODES:
        node = todo.pop()
        if node is not None and node not in seen and not is_end(node):
            seen.add(node)
            yield node
            todo += [following for following, _ in node.next_functions]
