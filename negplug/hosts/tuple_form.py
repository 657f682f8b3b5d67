"""Whether a value pulls an anchor to one row and pushes it from another: the losses of tuples.

A triplet's margin, a logistic loss of pairs or a softmax over a few chosen negatives has no matrix
of similarities. Each row is compared with its own, by a product or a distance. What makes it
contrastive is in the graph: two comparisons share an anchor, and what brings one pair together
lowers the loss while the other raises it; or they compete in one softmax; or labels decide whether
a pair is pulled or pushed, beyond a margin.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from typing import NamedTuple

from torch.autograd.graph import Node

from negplug.hosts.graph_axes import (
    LAYERS,
    MOST_NODES,
    VIEWS,
    Edge,
    axis_of,
    is_of_features,
    is_of_shares,
    operation_of,
)
from negplug.kernels.torch_private import output_shape, saved_numbers

_CONTESTS = frozenset("LogSoftmax Logsumexp Logaddexp BinaryCrossEntropyWithLogits".split())
"""Operations in which comparisons compete, whatever their sign, unless they make up one logit."""

_OF_SHARES = frozenset(("Softmax", "Sigmoid"))
"""The same below a logarithm; without one they are the shares of attention, or gates."""

_LOGARITHMS = frozenset(("Log", "Log1p", "Log2", "Log10", "BinaryCrossEntropy"))

_HINGES = frozenset("Relu Clamp ClampMin Threshold Maximum Softplus LogSigmoid LeakyRelu".split())

_FALLING = frozenset(("Neg", "Reciprocal", "Rsqrt", "Acos"))
_TWO_SIDED = frozenset("Pow Abs MseLoss SmoothL1Loss HuberLoss L1Loss Cosh".split())
_SIGNED = frozenset(("Sub", "Rsub", "Add", "Neg"))
"""Operations whose value has either sign, so that a square of it pulls to a number."""

_PASSED = VIEWS | frozenset("Div Clamp ClampMin Expand Unsqueeze ToCopy Clone Alias".split())

_OF_ONE_LOGIT = frozenset(("Add", "Sub", "Rsub", "Mul", "Div"))
"""Operations that make one logit of several: what they are given does not compete."""

_CONSTANT = "constant"


class _Path(NamedTuple):
    """How the loss depends on a node: rising (1), falling (-1) or neither (0).

    Attributes:
        entry: In which entry of the contest's logits the node is, as far as it was put together of
            several.
    """

    node: Node
    slope: int
    logarithm: bool = False
    contest: Node | None = None
    hinge: Node | None = None
    entry: tuple[tuple[Node, int], ...] = ()


class _Comparison:
    """Rows compared with rows.

    Attributes:
        sides: What tells the two sides from others.
        pulls: Whether the loss falls where they come closer.
        pushes: Whether it rises there.
        weigher: An operation above, for its name.
    """

    def __init__(self, sides: frozenset[Hashable]) -> None:
        self.sides = sides
        self.pulls = self.pushes = False
        self.weigher: Node | None = None

    @property
    def is_to_data(self) -> bool:
        """Whether one side has no gradient."""
        return any(isinstance(side, tuple) and side[-1] == _CONSTANT for side in self.sides)


def of_tuples(
    start: Node | None,
    is_source: Callable[[Node], bool],
    is_end: Callable[[Node], bool],
    keys: bool = True,
) -> Node | None:
    """Return an operation of a loss of tuples, None if a value is none.

    Args:
        start: Of the value.
        is_source: Whether a node returns embeddings.
        is_end: Whether nothing below a node is looked at.
        keys: Whether constants may be keys.
    """
    todo = [] if start is None else [_Path(start, 1)]
    seen = set[tuple[Node, int, bool, Node | None, bool]]()
    found: dict[frozenset[Hashable], _Comparison] = {}
    contests: dict[Node, list[tuple[_Comparison, Hashable]]] = {}
    while todo and len(seen) < MOST_NODES:
        path = todo.pop()
        state = path.node, path.slope, path.logarithm, path.contest, path.hinge is not None
        if state in seen or is_end(path.node):
            continue
        seen.add(state)
        compared = _compared(path.node, is_source, keys)
        if compared is None:
            if operation_of(path.node) not in LAYERS:
                todo += _below(path)
            continue
        sides, nearness, spread = compared
        comparison = found.setdefault(sides, _Comparison(sides))
        weigher = path.contest or path.hinge
        if path.contest is not None:
            rivals = contests.setdefault(path.contest, [])
            others = (rival.sides for rival, entry in rivals if entry != path.entry)
            if spread or any(other != sides and other & sides for other in others):
                return path.contest
            rivals.append((comparison, path.entry))
        comparison.weigher = comparison.weigher or weigher
        comparison.pulls |= path.slope * nearness < 0
        comparison.pushes |= path.slope * nearness > 0
        if comparison.pulls and comparison.pushes and comparison.weigher is not None:
            return comparison.weigher
    pairs = ((a, b) for a in found.values() if a.pulls for b in found.values() if b.pushes)
    for pulled, pushed in pairs:
        if pulled is not pushed and pulled.sides & pushed.sides:
            weigher = pushed.weigher or pulled.weigher
            # Outputs that are drawn to a target of data and kept apart: a score, or diversity.
            if weigher is not None or not pulled.is_to_data or pushed.is_to_data:
                return weigher or start
    return None


def _below(path: _Path) -> Iterator[_Path]:
    """Yield what an operation was given, with the slope of the loss in it."""
    node, slope, logarithm, contest, hinge, entry = path
    operation = operation_of(node)
    edges = [function for function, _ in node.next_functions]
    slopes = [slope] * len(edges)
    if operation in _FALLING or (operation == "Rsub" and len(edges) == 1):
        slopes = [-slope] * len(edges)
    elif operation in ("Sub", "Div") and len(edges) == 2:
        slopes = [slope, -slope]
    elif operation == "Rsub":
        slopes = [-slope, slope]
    elif operation == "Mul" and None not in edges and len(edges) == 2:
        slopes = [0, 0]
    elif operation in _TWO_SIDED and any(e and operation_of(e) in _SIGNED for e in edges):
        slopes = [0] * len(edges)
    if operation in _CONTESTS or (logarithm and operation in _OF_SHARES):
        contest = contest or node
    logarithm = logarithm or operation in _LOGARITHMS
    if operation in _HINGES:
        hinge = hinge or node
    apart = contest is not None and len(edges) > 1 and operation not in _OF_ONE_LOGIT
    for number, (edge, falls) in enumerate(zip(edges, slopes, strict=True)):
        if edge is not None:
            where = (*entry, (node, number)) if apart else entry
            yield _Path(edge, falls, logarithm, contest, hinge, where)


def _compared(
    node: Node, is_source: Callable[[Node], bool], keys: bool
) -> tuple[frozenset[Hashable], int, bool] | None:
    """Return what a node compares: its sides, 1 if it is a nearness and -1 if a distance, spread.

    Spread is a side that is compared with several rows of the other.
    """
    operation = operation_of(node)
    nearness, spread, second = 1, False, -1
    if operation in ("Dot", "Mv"):
        edges, spread = node.next_functions[:2], operation == "Mv"
    elif operation == "Bmm" and output_shape(node)[-2:] == (1, 1):
        edges, second = node.next_functions[:2], -2
    elif (entries := _entries(node, operation)) is not None:
        edges, nearness = entries.next_functions[:2], -1 if operation_of(entries) == "Sub" else 1
        shape = output_shape(entries)
        shapes = [output_shape(f, n) for f, n in edges if f is not None]
        if len(edges) != 2 or any(given[-1:] != shape[-1:] for given in shapes):
            return None
        spread = None not in dict(edges) and any(_is_spread(edge, shape) for edge in edges)
    else:
        return None
    axes = [axis_of(edge, last) for edge, last in zip(edges, (-1, second), strict=True)]
    live = [axis for axis in axes if axis is not None]
    if len(live) < 2 and not (keys and any(nearness < 0 or _is_scaled(e) for e in edges)):
        return None
    if not all(is_of_features(axis, is_source) and not is_of_shares(axis) for axis in live):
        return None
    sides = [_identity(edge) if edge[0] is not None else (node, _CONSTANT) for edge in edges]
    return None if sides[0] == sides[1] else (frozenset(sides), nearness, spread)


def _entries(node: Node, operation: str) -> Node | None:
    """Return the products or differences of entries that a node adds up over the last axis."""
    if operation not in ("Sum", "Mean", "Norm", "LinalgVectorNorm"):
        return None
    below, output = node.next_functions[0]
    if below is None or not _is_over_the_last(node, len(output_shape(below, output))):
        return None
    if operation in ("Sum", "Mean") and operation_of(below) == "Mul":
        a, b = (*below.next_functions, (None, 0))[:2]
        if a != b:
            return below
    if operation in ("Sum", "Mean"):
        if operation_of(below) not in ("Pow", "Abs", "Mul"):
            return None
        below = below.next_functions[0][0]
    while below is not None and operation_of(below) == "Add" and len(below.next_functions) == 1:
        below = below.next_functions[0][0]
    return below if below is not None and operation_of(below) == "Sub" else None


def _is_spread(edge: Edge, shape: tuple[int, ...]) -> bool:
    """Return whether a tensor was repeated along an axis to the shape of a product."""
    node, output = edge
    while node is not None:
        given = output_shape(node, output)
        if given != shape:
            return len(given) < len(shape) or any(map(int.__lt__, given, shape))
        if operation_of(node) not in _PASSED - VIEWS:
            return False
        node, output = node.next_functions[0]
    return False


def _is_scaled(edge: Edge) -> bool:
    """Return whether rows are divided by what depends on them, such as their length.

    Products of others with constants may be with masks and one-hot rows.
    """
    node, _ = edge
    while node is not None and operation_of(node) in _PASSED:
        given = node.next_functions
        if operation_of(node) == "Div" and len(given) == 2 and given[1][0] is not None:
            return True
        node = given[0][0]
    return False


def _is_over_the_last(node: Node, rank: int) -> bool:
    if not hasattr(node, "_saved_dim"):
        return rank == 1
    over = [dim % rank for dim in saved_numbers(node, "dim")] if rank else []
    return over == [rank - 1] or (not over and rank == 1)


def _identity(edge: Edge) -> Hashable:
    """Return what is equal for the same rows, at length one or not, and for the same row of them.

    A list that is looped over takes its rows by operations of their own.
    """
    node, output = edge
    while node is not None and (operation_of(node) in _PASSED or _moves_nothing(node, output)):
        node, output = next((e for e in node.next_functions if e[0] is not None), (None, 0))
    if node is None:
        return edge
    operation, given = operation_of(node), node.next_functions
    if operation == "Select":
        return "Select", _identity(given[0]), _number(node, "dim"), _number(node, "index")
    if operation in ("Unbind", "Split"):
        return operation, _identity(given[0]), _number(node, "dim"), output
    if operation == "Slice":
        limits = (_number(node, name) for name in ("dim", "start", "end", "step"))
        return "Slice", _identity(given[0]), *limits
    return node, output


def _moves_nothing(node: Node, output: int) -> bool:
    """Return whether axes are permuted of which all that change places have length one."""
    if operation_of(node) != "Permute":
        return False
    shape = output_shape(node, output)
    dims = [dim % len(shape) for dim in _number(node, "dims")]
    kept = [dim for dim, size in zip(dims, shape, strict=True) if size != 1]
    return kept == sorted(kept)


def _number(node: Node, name: str) -> tuple[int, ...]:
    return saved_numbers(node, name)
