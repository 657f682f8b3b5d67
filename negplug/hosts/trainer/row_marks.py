"""Which sample each row of a tensor is of, carried along while torch computes with it.

Rows are marked with numbers of samples, or a sample's own tensor with its one number. What moves
rows (an index, a flip, a concatenation) moves their marks; any other function hands them on to a
result with as many rows. Where rows of different samples meet, as in mixup, they are mixed. Rows
that are made in the form of others, as by ``empty_like``, have no marks. What torch is not asked
for in Python (compiled code, NumPy, a function of autograd) drops them, and of tensors without
marks nothing is said.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

MIXED = -2
"""The mark of a row that is made of several samples."""

_SPLITS = frozenset(
    ("chunk", "split", "split_with_sizes", "tensor_split", "unbind", "unsafe_split")
)
_ALONG = _SPLITS | frozenset(
    ("index_select", "narrow", "select", "repeat_interleave", "take_along_dim")
)
"""Functions of a tensor whose dimension is an argument ``dim``, by default the first."""
_JOINS = frozenset(("cat", "concat", "concatenate", "stack"))
_SAME = frozenset(("flip", "roll"))
_RESHAPES = frozenset(("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze"))
_PERMUTES = frozenset(("permute", "transpose", "swapaxes", "swapdims", "movedim", "t"))
_LOSES = frozenset(("gather", "sort", "masked_select", "take", "scatter", "where", "randperm"))


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
                self.set(tensor, torch.arange(size))

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
                    self._hand_on(getattr(func, "__name__", ""), given, args, kwargs or {}, result)
                except Exception:  # of a form that is not foreseen: nothing is known of it
                    return result
        return result

    def _hand_on(
        self,
        name: str,
        given: list[Tensor],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        result: Any,
    ) -> None:
        rows = [self._of(tensor) for tensor in given]
        own = rows[0] if args and given[0] is args[0] else None
        moved: Any
        if name in _LOSES or name.endswith("_like") or name.startswith("new_"):
            return  # other values, or in an order that only they know
        if name in ("__setitem__", "copy_"):
            self._write(name, args)
            return
        if name in _JOINS:
            every = list(tensors_in(args[0]))
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            moved = self._joined(name, every, dim)
        elif own is None or not own.ndim:
            moved = _met(rows)
        elif name == "__getitem__":
            moved = _indexed(own, args[1])
        elif name in _ALONG:
            moved = _along(name, own, given[0], args, kwargs)
        elif name in _SAME:
            moved = _flipped(name, own, given[0], args, kwargs)
        elif name in _RESHAPES:
            moved = _reshaped(own, result.shape)
        elif name in _PERMUTES:
            moved = _permuted(own, given[0], getattr(torch.Tensor, name), args[1:], kwargs)
        else:
            moved = _met(rows)
        results = list(tensors_in(result))
        for number, tensor in enumerate(results):
            marks = moved[number] if isinstance(moved, (list, tuple)) else moved
            if marks is not None and tensor.shape[: marks.ndim] == marks.shape:
                self.set(tensor, marks)

    def _write(self, name: str, args: tuple[Any, ...]) -> None:
        written = self.of(args[-1]) if isinstance(args[-1], Tensor) else None
        rows = self.of(args[0])
        if written is None or rows is None:
            return  # values of no sample, a mask say
        if name == "__setitem__":
            first, *inside = args[1] if isinstance(args[1], tuple) else (args[1],)
            place = torch.arange(len(rows))[first]
            if any(part is not Ellipsis and part != slice(None) for part in inside) or (
                first is Ellipsis and inside
            ):
                written = _met([rows[place], written])  # a part of each row, as in CutMix
            written = rows.clone().index_put_((place,), written)
        self.set(args[0], written)

    def _of(self, tensor: Tensor) -> Tensor:
        rows = self.of(tensor)
        assert rows is not None
        return rows

    def _joined(self, name: str, tensors: list[Tensor], dim: int) -> Tensor | None:
        known = [self.of(tensor) for tensor in tensors]
        if any(rows is None for rows in known):
            return None
        dim = dim % (tensors[0].ndim + (name == "stack"))
        rows = [_lead(self._of(t), t, dim + (name != "stack")) for t in tensors]
        if name == "stack":
            return _short(torch.stack(rows, dim))
        return _short(torch.cat(rows, dim))


def collated_with_marks(
    collate: Callable[[Any], Any], samples: list[Any]
) -> tuple[Any, tuple[int, int] | None]:
    """Collate samples, and look where their rows have gone.

    Returns:
        The batch; and a row and the sample that it is where no column of embeddings or images is
        in order, None if one is or nothing is known. The sample is :data:`MIXED` where it is made
        of several.
    """
    marks, size = RowMarks(), len(samples)
    for number, sample in enumerate(samples):
        for tensor in tensors_in(sample):
            marks.set(tensor, torch.tensor(number))
    with marks:
        batch = collate(samples)
    order, wrong = torch.arange(size), None
    for tensor in tensors_in(batch):
        rows = marks.of(tensor)
        if rows is None or rows.shape != (size,) or tensor.ndim < 2:
            continue
        if torch.equal(rows, order):
            return batch, None
        row = int((rows != order).nonzero()[0])
        wrong = wrong or (row, int(rows[row]))
    return batch, wrong


def tensors_in(value: Any, depth: int = 4) -> Iterator[Tensor]:
    """Yield the tensors in lists, tuples and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif depth and isinstance(value, Mapping):
        for part in value.values():
            yield from tensors_in(part, depth - 1)
    elif depth and isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part, depth - 1)


def _lead(rows: Tensor, tensor: Tensor, dims: int) -> Tensor:
    """Return marks of at least so many leading dimensions of a tensor."""
    while rows.ndim < dims:
        rows = rows.unsqueeze(-1).expand(*rows.shape, tensor.shape[rows.ndim])
    return rows


def _short(rows: Tensor) -> Tensor:
    """Return marks without dimensions along which they are the same, but the first."""
    while rows.ndim > 1 and bool((rows == rows[..., :1]).all()):
        rows = rows[..., 0]
    return rows


def _met(rows: list[Tensor]) -> Tensor:
    """Return the marks of what is computed from rows that meet; the longest decide."""
    first = max(rows, key=lambda each: each.numel())
    for other in rows:
        if other.shape == first.shape:
            first = torch.where(first == other, first, MIXED)
    return first


def _indexed(rows: Tensor, index: Any) -> Tensor | None:
    parts = index if isinstance(index, tuple) else (index,)
    first = parts[0] if parts else slice(None)
    if isinstance(first, Tensor):
        first = first.cpu()
    if first is Ellipsis or (isinstance(first, slice) and first == slice(None)):
        return rows if rows.ndim == 1 else None
    if first is None:
        return rows[None]
    return rows[first]


def _along(
    name: str, rows: Tensor, tensor: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    place = 2 if name in _SPLITS - {"unbind"} or name == "repeat_interleave" else 1
    dim = kwargs.get("dim", args[place] if len(args) > place else 0)
    dim = 0 if dim is None else dim % tensor.ndim
    if dim >= rows.ndim:
        return rows
    rest = [each.cpu() if isinstance(each, Tensor) else each for each in args[1:]]
    named = {n: each.cpu() if isinstance(each, Tensor) else each for n, each in kwargs.items()}
    return getattr(torch, name)(rows, *rest, **named)


def _flipped(
    name: str, rows: Tensor, tensor: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor | None:
    dims = kwargs.get("dims", args[2:] if name == "roll" else args[1:])
    dims = dims[0] if isinstance(dims, (list, tuple)) and len(dims) == 1 else dims
    dims = [dims] if isinstance(dims, int) else list(dims)
    if not dims:
        return None  # as one long row
    inside = [dim % tensor.ndim for dim in dims if dim % tensor.ndim < rows.ndim]
    if not inside:
        return rows
    if name == "flip":
        return rows.flip(inside)
    shifts = kwargs.get("shifts", args[1] if len(args) > 1 else 0)
    return rows.roll(shifts, inside) if len(inside) == len(dims) else None


def _reshaped(rows: Tensor, shape: torch.Size) -> Tensor | None:
    rows = _short(rows)
    for many in range(1, len(shape) + 1):
        if shape[:many].numel() == rows.numel():
            return rows.reshape(shape[:many])
    return None


def _permuted(
    rows: Tensor,
    tensor: Tensor,
    permute: Callable[..., Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Tensor:
    # What comes first may be any dimension; of marks all are as long as they are spread.
    full = _lead(rows, tensor, tensor.ndim)
    return _short(permute(full, *args, **kwargs))
