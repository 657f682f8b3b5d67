"""Contrastive losses that are computed by functions, seen where ``torch.nn.functional`` is called.

A function can be neither treated nor found among modules. So while a recipe's first steps are
watched, the functions that losses end with are wrapped where modules look them up. What a recipe
has imported by name, or computes inline by other means, is found below the tensor with which the
step's backward pass begins (:mod:`negplug.hosts.roots`).
"""

from __future__ import annotations

import functools
import re
import traceback
import weakref
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from negplug.hosts import roots
from negplug.hosts.graph_axes import operation_of
from negplug.hosts.graph_parameters import parameters_below, parameters_of
from negplug.hosts.loss_form import hidden_in, weigher_of_data
from negplug.hosts.place import place
from negplug.kernels.graph_marks import mark
from negplug.kernels.torch_private import has_compiled, outside_graphs
from negplug.loss.contrastive import ContrastiveLoss

_OF_LOGITS = ("binary_cross_entropy_with_logits", "cross_entropy", "kl_div")
"""Contrastive where the logits are products of embeddings."""

_OF_TUPLES = (
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
)
"""Of negatives that the recipe chooses itself."""


class Found(NamedTuple):
    """A call of a function that is a contrastive loss.

    Attributes:
        name: Of the function, or of the operation that weighs similarities inline.
        where: Of the call, in the recipe, as a clause.
        inside: The modules whose forward pass it is part of.
        parameters: What it trains.
        hidden: Whether it cannot be seen what it computes.
    """

    name: str
    where: str
    inside: weakref.WeakSet[nn.Module]
    parameters: set[Tensor]
    hidden: bool = False


class FunctionWatch:
    """Notes the contrastive losses that functions compute, from :meth:`start` to :meth:`stop`.

    Attributes:
        found: What was noted and not taken, by place.
    """

    def __init__(self) -> None:
        self.found: dict[str, Found] = {}
        self._told: set[str] = set()
        self.start()

    def start(self) -> None:
        """Note them, again after :meth:`stop`."""
        _watching.add(self)
        _wrap()

    def stop(self) -> None:
        """Note nothing more."""
        _watching.discard(self)
        if not _watching:
            _unwrap()

    def leave_to(self, module: nn.Module) -> None:
        """Forget what was computed inside of a module that is judged as a whole."""
        self.found = {w: each for w, each in self.found.items() if module not in each.inside}

    def take(
        self, ignore: Collection[str], trained: Iterable[Tensor] | None = None
    ) -> tuple[list[str], list[str]]:
        """Return what was found, for messages, each place once in this object's life.

        Args:
            ignore: Functions, or classes of modules around them, to leave alone.
            trained: What a call has to train too to be told of; None tells of all.

        Returns:
            Contrastive losses, and what may be some.
        """
        found, self.found = self.found, {}
        told: tuple[list[str], list[str]] = [], []
        for where, each in found.items():
            names = {each.name, *(type(module).__name__ for module in each.inside)}
            beside = trained is None or not each.parameters.isdisjoint(trained)
            if beside and where not in self._told and names.isdisjoint(ignore):
                self._told.add(where)
                told[each.hidden].append(f"{each.name} ({each.where})")
        return told

    def note(self, name: str, value: Tensor) -> None:
        """Note a call that has just been made."""
        inside = modules_around()
        if not any(isinstance(module, ContrastiveLoss) for module in inside):
            where = f"called at {place()[0]}"
            self.found[where] = Found(name, where, weakref.WeakSet(inside), parameters_of(value))

    def note_inline(self, name: str, parameters: set[Tensor], hidden: bool) -> None:
        """Note what a backward pass begins with.

        Args:
            name: Of the operation, or of the function that is not to be seen into.
            parameters: What it trains.
            hidden: Whether it cannot be seen what it computes.
        """
        what = "of embeddings" if hidden else "of similarities, inline"
        where = f"{what} in the loss whose backward pass begins at {place()[0]}"
        self.found[where] = Found(name, where, weakref.WeakSet(), parameters, hidden)


_watching: set[FunctionWatch] = set()  # one whose model is garbage leaves at any moment
_own: dict[str, Callable[..., Any]] = {}


def _wrap() -> None:
    for name in (*_OF_LOGITS, *_OF_TUPLES):
        if name not in _own:
            _own[name] = getattr(functional, name)
            setattr(functional, name, _noting(name, _own[name]))
    roots.watch(_look_at_root)


def _unwrap() -> None:
    for name, own in _own.copy().items():
        # Unless someone else has wrapped it since, who would lose his.
        if getattr(getattr(functional, name), "__wrapped__", None) is own:
            setattr(functional, name, own)
            del _own[name]
    roots.stop()


def _noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    compiling, look = torch.compiler.is_compiling, _look

    def noting(*args: Any, **kwargs: Any) -> Any:
        value = function(*args, **kwargs)
        if not compiling():
            look(name, value)
        return value

    # TorchScript reads the source of what is wrapped, and looks its names up here.
    code, closure = noting.__code__, noting.__closure__
    return functools.wraps(function)(FunctionType(code, vars(functional), name, None, closure))


@outside_graphs
def _look(name: str, value: Any) -> None:
    if _watching and isinstance(value, Tensor) and value.requires_grad:
        if name in _OF_TUPLES or weigher_of_data(value) is not None:
            for watching in tuple(_watching):
                watching.note(name, value)
            mark(value)


@outside_graphs
def _look_at_root(root: Tensor) -> None:
    weigher = weigher_of_data(root)
    hidden = hidden_in(root) if weigher is None else None
    if (node := weigher or hidden) is not None:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation_of(node)).lower()
        for watching in tuple(_watching):
            watching.note_inline(name, parameters_below(node), hidden is not None)


def modules_around() -> list[nn.Module]:
    """Return the modules whose forward pass is running."""
    frames = (frame for frame, _ in traceback.walk_stack(None))
    owners = (f.f_locals.get("self") for f in frames if f.f_code.co_name == "forward")
    return [owner for owner in owners if isinstance(owner, nn.Module)]


def bypassed_at(module: nn.Module) -> str:
    """Return where a module's running forward pass was called by its own name; empty if it was not.

    Hooks run where the module itself is called, which torch does then.
    """
    named = (f for f, _ in traceback.walk_stack(None) if f.f_code.co_name == "forward")
    *_, outermost = (None, *(f for f in named if f.f_locals.get("self") is module))
    caller = None if outermost is None else outermost.f_back
    if caller is None or _module_of(caller).startswith(("torch.", "negplug")):
        return ""
    if has_compiled():
        return ""  # compiled code calls what it likes
    return f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno}"


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
