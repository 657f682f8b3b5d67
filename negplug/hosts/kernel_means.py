"""Exponentials that are only averaged: a difference of kernel means is no contrastive loss.

A maximum mean discrepancy tells two sets of embeddings apart, those of two domains or a prior's:
its kernels ``exp(-d²/w)`` are averaged, inside of the sets with one sign, between them with the
other. InfoNCE written by hand has exponentials too, but puts them below a logarithm or divides by
their sum; and where a contrastive loss averages them, they push alone, and something else pulls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from torch.autograd.graph import Node

from negplug.hosts.graph_axes import LAYERS, MOST_NODES, VIEWS, operation_of, spread_over
from negplug.hosts.graph_parameters import below
from negplug.kernels.torch_private import output_shape, saved_values

_EXPONENTIALS = frozenset(("Exp", "Exp2", "Expm1"))

_AVERAGES = VIEWS | frozenset(
    "Mean Sum Nansum Trace Add Sub Rsub Neg Mul Div Slice Select Unbind Split Diagonal Tril Triu "
    "Index IndexSelect MaskedSelect MaskedFill Where Stack Cat Expand Unsqueeze Permute Transpose "
    "T Clone Alias ToCopy".split()
)
"""Operations that average, or choose what is averaged; of products and quotients those with
constants."""

_OF_THE_MEAN = frozenset("Sqrt Relu Clamp ClampMin Pow".split())
"""Operations that keep the sign of a slope, where they are given the one value that is left."""

_SHARES = frozenset(("Logsumexp", "LogSoftmax"))
"""Operations below an exponential that make it a share, in which similarities compete."""

_BOTH = 0
"""The slope of what raises the loss here and lowers it there."""


def differences_of_kernels(
    start: Node | None, is_end: Callable[[Node], bool], compares: Callable[[Node], bool]
) -> set[Node]:
    """Return the exponentials of which a loss is only a difference of means.

    Args:
        start: Of the loss.
        is_end: Whether nothing below a node is looked at.
        compares: Whether an exponential is one of similarities or distances.
    """
    slopes, others = _slopes(start, is_end)
    if not slopes:
        return set()
    used = {node for node in _inside(others, is_end) if operation_of(node) in _EXPONENTIALS}
    means = set[Node]()
    for node in slopes.keys() - used:
        inside = _inside([node], is_end)
        if not any(operation_of(each) in _SHARES for each in inside) and (
            compares(node) or any(map(_compares_with_data, inside))
        ):
            means.add(node)
    if not means:
        return means
    if not _differ(slopes, means):
        # Only now: to read a constant may run hooks, and a checkpoint's compute it again.
        slopes, _ = _slopes(start, is_end, _sign_of_constant)
    return means if _differ(slopes, means) else set()


def _differ(slopes: dict[Node, set[int]], means: set[Node]) -> bool:
    signs = set[int]().union(*(slopes[node] for node in means))
    return _BOTH in signs or len(signs) > 1


def _slopes(
    start: Node | None,
    is_end: Callable[[Node], bool],
    sign: Callable[[Node, int], int] = lambda *_: 1,
) -> tuple[dict[Node, set[int]], list[Node]]:
    """Return the exponentials below averages, with the loss's slopes in each, and what else is.

    Args:
        start: Of the loss.
        is_end: Whether nothing below a node is looked at.
        sign: Of the constant that what is in some place of a product or quotient meets.
    """
    slopes: dict[Node, set[int]] = {}
    others: list[Node] = []
    todo, seen = [(start, 1)], set[tuple[Node, int]]()
    while todo and len(seen) < MOST_NODES:
        node, slope = todo.pop()
        if node is None or (node, slope) in seen or is_end(node):
            continue
        seen.add((node, slope))
        if operation_of(node) in _EXPONENTIALS:
            slopes.setdefault(node, set()).add(slope)
        elif _averages(node):
            todo += _below(node, slope, sign)
        else:
            others.append(node)
    return slopes, others


def _averages(node: Node) -> bool:
    """Return whether an operation averages what it is given."""
    operation = operation_of(node)
    if operation == "Div":
        return node.next_functions[-1][0] is None or len(node.next_functions) == 1
    if operation in _OF_THE_MEAN and output_shape(node) == ():
        exponent = saved_values(node, "exponent")
        return exponent is None or bool((exponent > 0).all())
    return operation in _AVERAGES


def _below(
    node: Node, slope: int, sign: Callable[[Node, int], int]
) -> Iterator[tuple[Node | None, int]]:
    """Yield what an average was given, and the slope of the loss in it."""
    operation, edges = operation_of(node), [given for given, _ in node.next_functions]
    slopes = [slope] * len(edges)
    if operation == "Neg" or (operation == "Rsub" and len(edges) == 1):
        slopes = [-slope]
    elif operation == "Sub" and len(edges) == 2:
        slopes = [slope, -slope]
    elif operation == "Rsub":
        slopes = [-slope, slope]
    elif operation == "Mul" and len(edges) == 2 and None not in edges:
        slopes = [_BOTH, _BOTH]
    elif operation in ("Mul", "Div"):
        slopes = [slope * sign(node, place) for place in range(len(edges))]
    yield from zip(edges, slopes, strict=True)


def _sign_of_constant(node: Node, place: int) -> int:
    """Return the sign of what one factor, or a dividend, meets; 1 if it is not known."""
    values = saved_values(node, "self" if place else "other")
    if values is None or not bool((values < 0).any()):
        return 1
    return _BOTH if bool((values > 0).any()) else -1


def _compares_with_data(node: Node) -> bool:
    """Return whether rows are compared with each of some that have no gradient, of a prior, say."""
    edges = [function for function, _ in node.next_functions]
    if operation_of(node) != "Sub" or len(edges) != 2 or None not in edges:
        return False
    return any(spread_over(edge, VIEWS) is not None for edge in edges)


def _inside(nodes: Iterable[Node], is_end: Callable[[Node], bool]) -> set[Node]:
    """Return some operations and those below, as far as the next layers of a network."""
    return set(below(*nodes, is_end=lambda node: is_end(node) or operation_of(node) in LAYERS))
