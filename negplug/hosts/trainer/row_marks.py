"""Which sample each row of a tensor is of, carried along while torch computes with it.

Rows are marked with numbers of samples, or a sample's own tensor with its one number. A function
that moves values (an index, a flip, a concatenation) runs once more, on the numbers in place of the
values, and so says itself where they go. Any other function hands its marks on to a result with as
many rows. Where rows of different samples meet, as in mixup, they are mixed. Rows that are made in
the form of others, as by ``empty_like``, have no marks. What torch is not asked for in Python
(compiled code, NumPy, a function of autograd) drops them, and of tensors without marks nothing is
said.
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
    __getitem__ index_select narrow select take_along_dim
    chunk split split_with_sizes tensor_split unbind unsafe_split
    flip roll repeat repeat_interleave expand
    view reshape flatten unflatten squeeze unsqueeze
    permute transpose swapaxes swapdims movedim t
    """.split()
)
"""Functions that move the values of their first argument, and change none."""
_WRITES = frozenset(("__setitem__", "copy_"))
_LOSES = frozenset(("gather", "sort", "masked_select", "take", "scatter", "where"))


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
        if name in _LOSES or name.endswith("_like") or name.startswith("new_"):
            return  # other values, or in an order that only they know
        if name in _WRITES:
            self._write(func, args)
            return
        results = list(tensors_in(result))
        if name in _JOINS or (name in _MOVES and self._has_rows(args[0])):
            # Numbers may lie in memory once for many values, and then not be viewed as these are.
            func = Tensor.reshape if name == "view" else func
            named = {name: value for name, value in kwargs.items() if name != "out"}
            rest, named = with_tensors((args[1:], named), Tensor.cpu)
            moved = func(with_tensors(args[0], self._numbers), *rest, **named)
            marks = [_short(numbers) for numbers in tensors_in(moved)]
        else:
            marks = [_met([self._of(tensor) for tensor in given])] * len(results)
        for tensor, rows in zip(results, marks, strict=True):
            if tensor.shape[: rows.ndim] == rows.shape:
                self.set(tensor, rows)

    def _write(self, func: Any, args: tuple[Any, ...]) -> None:
        rows, written = self.of(args[0]), args[-1]
        if rows is None or not isinstance(written, Tensor) or self.of(written) is None:
            return  # values of no sample, a mask say
        numbers = self._numbers(args[0]).clone()
        func(numbers, *with_tensors(args[1:-1], Tensor.cpu), self._numbers(written))
        inside = numbers.reshape(*rows.shape, -1)
        first = inside[..., 0]
        whole = (inside == first[..., None]).all(-1)
        self.set(args[0], torch.where(whole, first, MIXED))  # a part of a row, as in CutMix

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
