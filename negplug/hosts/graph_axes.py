"""Where an axis of a tensor comes from, in the graph that autograd keeps.

A contrastive loss contracts the features of its embeddings. So does a classifier; but graph
convolutions and attention contract samples, and a mixture of experts contracts its experts. The
way from a product down to the embeddings tells which axis it contracts. Nothing is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from torch.autograd.graph import Node

from negplug.kernels.torch_private import output_shape, saved_numbers

MOST_NODES = 4096
"""A loss has tens of nodes; the embeddings that it was given end the walk."""

_FACTORS = frozenset(("Mm", "Bmm", "Addmm", "Baddbmm"))
LAYERS = _FACTORS | frozenset(
    ("Cdist", "EuclideanDist", "Convolution", "MkldnnConvolution", "Embedding")
)
"""Operations by which a network takes in data."""

VIEWS = frozenset(("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Flatten", "Unflatten"))
_PASSES_ON = VIEWS | frozenset(
    "T Transpose Permute Unsqueeze Expand ToCopy Clone NativeDropout Slice".split()
)


Edge = tuple[Node | None, int]
"""An operation and which of its outputs, as ``next_functions`` has them; None for a constant."""


class Axis(NamedTuple):
    """An axis of a tensor in the graph.

    Attributes:
        node: The operation that has returned the tensor.
        output: Which of its outputs.
        number: Of the axis, from 0.
    """

    node: Node
    output: int
    number: int


def axis_of(edge: Edge, number: int) -> Axis | None:
    """Return an axis of what an operation was given, None of a constant.

    Args:
        edge: The input.
        number: Of the axis; from the end if it is negative.
    """
    node, output = edge
    if node is None:
        return None
    return Axis(node, output, number % len(output_shape(node, output)))


def operation_of(node: Node) -> str:
    """Return the name of the operation that a node stands for."""
    return node.name().partition("Backward")[0]


def is_of_features(axis: Axis, is_source: Callable[[Node], bool]) -> bool:
    """Return whether an axis is that of the features of embeddings, not one of samples.

    Args:
        axis: Of a tensor that is computed from embeddings.
        is_source: Whether a node returns embeddings, ``[B, …]``.
    """
    todo, seen = [axis], set[Axis]()
    while todo and len(seen) < MOST_NODES:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        if is_source(here.node):
            if here.number > 0 or _rank(here.node, here.output) == 1:
                return True
        else:
            todo += _before(here)
    return False


def is_of_shares(axis: Axis) -> bool:
    """Return whether a softmax runs along an axis: shares, by which others are mixed."""
    while True:
        operation = operation_of(axis.node)
        if operation == "Softmax":
            (dim,) = saved_numbers(axis.node, "dim")
            return dim % _rank(axis.node, axis.output) == axis.number
        before = next(_before(axis), None) if operation in _PASSES_ON else None
        if before is None:
            return False
        axis = before


def spread_over(node: Node | None, through: frozenset[str]) -> int | None:
    """Return which axis, from the end, a tensor was given to be spread over; None if none.

    Args:
        node: Of the tensor.
        through: Operations that may follow, by name.
    """
    while node is not None and operation_of(node) in through:
        node = node.next_functions[0][0]
    if node is None or operation_of(node) != "Unsqueeze":
        return None
    (dim,) = saved_numbers(node, "dim")
    return dim % _rank(node) - _rank(node)


def _rank(node: Node, output: int = 0) -> int:
    return len(output_shape(node, output))


def _before(axis: Axis) -> Iterator[Axis]:
    """Yield the same axis of what an operation was given, where it has it."""
    shape = output_shape(axis.node, axis.output)
    for node, output in axis.node.next_functions:
        if node is not None:
            given = output_shape(node, output)
            number = _number_before(axis, shape, given)
            if number is not None and 0 <= number < len(given):
                yield Axis(node, output, number)


def _number_before(axis: Axis, shape: tuple[int, ...], given: tuple[int, ...]) -> int | None:
    node, number, operation = axis.node, axis.number, operation_of(axis.node)
    if operation == "T":
        return len(shape) - 1 - number
    if operation == "Transpose":
        first, second = (saved_numbers(node, f"dim{i}")[0] % len(shape) for i in (0, 1))
        return {first: second, second: first}.get(number, number)
    if operation == "Permute":
        return saved_numbers(node, "dims")[number] % len(shape)
    if operation in ("Unsqueeze", "Stack"):
        dim = saved_numbers(node, "dim")[0] % len(shape)
        return None if number == dim else number - (number > dim)
    if operation in ("Select", "Unbind"):
        return number + (number >= saved_numbers(node, "dim")[0] % len(given))
    if operation in VIEWS:
        return _number_viewed(shape, given, number)
    if operation in ("Sum", "Mean") and len(given) > len(shape) > 0:
        over = [dim % len(given) for dim in saved_numbers(node, "dim")]
        return [dim for dim in range(len(given)) if dim not in over][number]
    if operation in _FACTORS:
        return number  # rows of the first factor, columns of the second, or what both contract
    if len(given) > len(shape):
        return number
    # Spread from the end, as operations on entries do it.
    number -= len(shape) - len(given)
    return None if number >= 0 and given[number] == 1 != shape[number - len(given)] else number


def _number_viewed(shape: tuple[int, ...], given: tuple[int, ...], number: int) -> int | None:
    """Return which axis of a tensor an axis of its view is, or is part of."""
    stride = math.prod(shape[number + 1 :])
    if shape[number] == 1:
        return None
    inside = (math.prod(given[i + 1 :]) <= stride < math.prod(given[i:]) for i in range(len(given)))
    return next((i for i, holds in enumerate(inside) if holds), None)
