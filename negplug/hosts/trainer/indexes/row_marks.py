"""Which sample each row of a tensor is of, carried along while torch computes with it.

Rows are marked with numbers of samples, or a sample's own tensor with its one number. A function
that moves values (an index, a flip, a concatenation) runs once more, on the numbers in place of the
values, and so says itself where they go. Any other function hands its marks on to a result with as
many rows. Where rows of different samples meet, as in mixup, they are mixed. Rows that are made in
the form of others, as by ``empty_like``, and sums of rows have no marks. What torch is not asked
for in Python (compiled code, NumPy) drops them.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from negplug.hosts.nested import tensors_in, with_tensors

MIXED = -2
"""The mark of a row that is made of several samples."""

_JOINS = frozenset(("cat", "concat", "concatenate", "stack"))
_MOVES = _JOINS | frozenset(
    """
    __getitem__ index_select narrow select take_along_dim gather take masked_select
    chunk split split_with_sizes tensor_split unbind unsafe_split
    flip roll repeat repeat_interleave expand
    view reshape flatten unflatten squeeze unsqueeze
    permute transpose swapaxes swapdims movedim t
    """.split()
)
"""Functions that move the values of their first argument, and change none."""
_WRITES = frozenset("__setitem__ copy index_copy index_put masked_scatter scatter put".split())
"""Functions that write values into their first argument, or into a copy of it."""
_ORDERS = {"sort": 1, "topk": 2}
"""Functions that order values and return their places too; at which place they take ``dim``."""
_PRODUCTS = frozenset(("matmul", "mm", "__matmul__"))
_SET_DATA: Any = Tensor.data.__set__  # type: ignore[attr-defined]
_TURNS: Any = (Tensor.T.__get__, Tensor.mT.__get__)  # type: ignore[attr-defined]
_LOSES = frozenset("index_add index_reduce scatter_add scatter_reduce".split())
"""Functions that add rows to rows."""


class RowMarks(TorchFunctionMode):
    """Marks, while it is entered, what is computed from tensors that are marked."""

    def __init__(self) -> None:
        super().__init__()
        self._marks: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def of(self, tensor: Tensor) -> Tensor | None:
        """Return the marks of a tensor's rows: of a prefix of its shape. None if it has none."""
        found = self._marks.get(id(tensor))
        return None if found is None or found[0]() is not tensor else found[1]

    def set(self, tensor: Tensor, rows: Tensor) -> None:
        """Mark the rows of a tensor."""
        key = id(tensor)
        self._marks[key] = weakref.ref(tensor), rows

    def begin(self, batch: Any, size: int) -> None:
        """Mark every tensor of a batch that has a row for each of ``size`` samples."""
        for tensor in tensors_in(batch):
            if tensor.ndim and len(tensor) == size and self.of(tensor) is None:
                self.set(tensor, torch.arange(size, dtype=torch.int32))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function, and mark what it returns."""
        result = func(*args, **(kwargs or {}))
        if torch.compiler.is_compiling():
            return result
        with torch._C.DisableTorchFunction():
            given = [t for t in tensors_in(args) if self.of(t) is not None]
            if given:
                try:
                    self._hand_on(func, given, args, kwargs or {}, result)
                except Exception:  # of a form that is not foreseen: nothing is known of it
                    return result
        return result

    def _hand_on(
        self,
        func: Any,
        given: list[Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        name = getattr(func, "__name__", "")
        plain = name if name.endswith("__") else name.removesuffix("_")  # in place or not
        if name.endswith("_like") or name.startswith("new_"):
            return  # other values
        results, marks = list(tensors_in(result)), list[Tensor | None]()
        if func == _SET_DATA:
            results, marks = [args[0]], [self.of(args[1])]
        elif plain in _LOSES:
            marks = [None] * len(results)
        elif plain in _WRITES:
            results, marks = results or [args[0]], [self._written(func, args, kwargs)]
        elif name in _ORDERS:
            dim = kwargs.get("dim", args[_ORDERS[name]] if len(args) > _ORDERS[name] else -1)
            marks = [_short(self._numbers(args[0]).gather(dim, results[1].cpu())), None]
        elif name in _PRODUCTS:
            marks = [self._product(args[0], args[1], result.shape)]
        elif plain == "where":
            marks = [self._chosen(func, args)]
        elif name in _JOINS or ((name in _MOVES or func in _TURNS) and self._has_rows(args[0])):
            # Numbers may lie in memory once for many values, and then not be viewed as these are.
            func = Tensor.reshape if name == "view" else func
            named = {name: value for name, value in kwargs.items() if name != "out"}
            rest, named = with_tensors((args[1:], named), Tensor.cpu)
            moved = func(with_tensors(args[0], self._numbers), *rest, **named)
            marks = [_short(numbers) for numbers in tensors_in(moved)]
        else:
            marks = [_met([self._of(tensor) for tensor in given])] * len(results)
        for tensor, mark in zip(results, marks, strict=True):
            if mark is None:
                self._marks.pop(id(tensor), None)
            elif tensor.shape[: mark.ndim] == mark.shape:
                self.set(tensor, mark)

    def _written(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        rows, values = self.of(args[0]), [*args[1:], *kwargs.values()]
        if rows is None or not any(map(self._is_marked, tensors_in(values))):
            return rows  # values of no sample, a mask say
        numbers = self._numbers(args[0]).clone()
        rest, named = with_tensors((args[1:], dict(kwargs)), self._as_numbers)
        written = func(numbers, *rest, **named)
        return _whole(numbers if written is None else written, rows)

    def _chosen(self, func: Any, args: tuple[Any, ...]) -> Tensor | None:
        """Return the marks of what ``where`` chooses, value by value, from one or two tensors."""
        marked = [t for t in tensors_in(args) if self._is_marked(t)]
        if len(marked) < 2:
            return self.of(marked[0]) if marked else None
        return _whole(func(*with_tensors(args, self._as_numbers)), self._of(marked[0]))

    def _product(self, left: Tensor, right: Tensor, shape: torch.Size) -> Tensor | None:
        """Return the marks of ``left @ right``, of this shape: those of the rows on the left.

        Where these are of no sample they are weights of the rows ``[K, M]`` on the right, whose
        samples are mixed then; fewer or more sums than K may be centres, of which nothing is said.
        A column of one sample stays one.
        """
        rows = self.of(left)
        if rows is not None:
            return rows if rows.ndim < left.ndim else None
        if right.ndim != 2:
            return self.of(right)
        numbers = self._numbers(right)
        same = (numbers == numbers[:1]).all(0)
        if not same.all() and shape[0] != len(numbers):
            return None
        return _short(torch.where(same, numbers[0], MIXED).expand(shape))

    def _is_marked(self, value: Tensor) -> bool:
        """Return whether it has values of samples; integers choose among them."""
        return value.is_floating_point() and self.of(value) is not None

    def _as_numbers(self, value: Tensor) -> Tensor:
        return self._numbers(value) if self._is_marked(value) else value.cpu()

    def _of(self, tensor: Tensor) -> Tensor:
        rows = self.of(tensor)
        assert rows is not None
        return rows

    def _has_rows(self, value: Any) -> bool:
        """Return whether it has marks, and is no sample's own, of which every part is its."""
        rows = self.of(value)
        return rows is not None and rows.ndim > 0

    def _numbers(self, tensor: Tensor) -> Tensor:
        """Return the number of the sample that each value of a tensor is of."""
        rows = self._of(tensor)
        return rows[(...,) + (None,) * (tensor.ndim - rows.ndim)].expand(tensor.shape)


def _whole(numbers: Tensor, rows: Tensor) -> Tensor:
    """Return the number of each row of the shape of ``rows``; a part of a row is mixed."""
    inside = numbers.reshape(*rows.shape, -1)
    first = inside[..., 0]
    whole = (inside == first[..., None]).all(-1)
    return torch.where(whole, first, MIXED)  # as in CutMix


def _short(numbers: Tensor) -> Tensor:
    """Return numbers without dimensions along which they are the same, but the first."""
    while numbers.ndim > 1 and (
        numbers.stride(-1) == 0 or bool((numbers == numbers[..., :1]).all())
    ):
        numbers = numbers[..., 0]
    return numbers


def _met(rows: list[Tensor]) -> Tensor:
    """Return the marks of what is computed from rows that meet; the longest decide."""
    first = max(rows, key=lambda each: each.numel())
    for other in rows:
        if other.shape == first.shape:
            first = torch.where(first == other, first, MIXED)
    return first
