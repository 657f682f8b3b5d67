"""``Stateful``: memory that is saved, restored and moved without any code of the sampler's.

A sampler declares each value that it keeps across steps, in the manner of torchmetrics::

    self.add_state("rows", shape=(size, None), default=0.0)   # a tensor, width known later
    self.add_state("next", default=0)                         # a counter, a plain integer

and then reads and writes ``self.rows`` and ``self.next``. The tensors are no buffers: DDP would
overwrite them with rank 0's before every step, and a cast of the model would round them. They
follow the module between devices, and are saved in tensors and built-in types as extra state.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from negplug.contract.declared_state import Declared
from negplug.kernels.digest import digest
from negplug.kernels.distributed import rank, world_size
from negplug.kernels.precision import not_inference

FORMAT = 2
"""Of the saved state."""

_LONGEST = 200  # characters of a value in a message
_RANKS = "world_size"
_MOST_RANKS = 2**24
_SHOWN = 12  # characters of a digest, in a message too

Ranks = Literal["same", "own"]


class Stateful(nn.Module):
    """A module with declared state. Comes before the base class of a sampler or an objective.

    Attributes:
        per_rank: Whether a state differs between ranks, so that each rank's is saved.
    """

    per_rank: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._declared: dict[str, Declared] = {}

    def add_state(
        self,
        name: str,
        default: int | float | bool,
        shape: tuple[int | None, ...] | None = None,
        ranks: Ranks = "same",
    ) -> None:
        """Declare a value that is kept across steps, and set it to its default.

        Args:
            name: The attribute.
            default: What it is, or each entry of it, at first. Its kind is that of the entries:
                bool, int64, or any floating-point type, which is then that of the first write.
            shape: Of a tensor; None in it is a size that is known later, 0 until then. Without a
                shape the state is a plain integer from 0 on. Of floating-point entries none is
                NaN, infinite unless the default is, or beyond ±1e30.
            ranks: ``"same"``: all ranks hold the same. ``"own"``: each has its own, and each is
                saved.
        """
        kinds = {bool: torch.bool, int: torch.int64}
        self._declared[name] = Declared(default, shape, kinds.get(type(default)))
        self.per_rank = self.per_rank or ranks == "own"
        setattr(self, name, self._declared[name].empty())

    def settings(self) -> dict[str, Any]:
        """Return what must be the same in a run that resumes, by default nothing."""
        return {}

    def check_values(self, values: dict[str, Any]) -> None:
        """Raise ``ValueError`` if saved values do not fit together; by default they do."""

    def loaded(self) -> None:
        """Make what follows from the state after it was loaded; by default nothing."""

    def get_extra_state(self) -> dict[str, Any]:
        """Return the settings and a copy of every declared value."""
        values = {name: getattr(self, name) for name in self._declared}
        whose = {"rank": rank()} if self.per_rank else {}
        return whose | {
            "format": FORMAT,
            "settings": self.all_settings(),
            "values": {
                name: value.clone() if isinstance(value, Tensor) else value
                for name, value in values.items()
            },
        }

    def check_state(self, state: Any) -> None:
        """Raise ``ValueError`` if ``state`` is damaged, another's, or of other settings.

        Called for every part before the first one is loaded.
        """
        check_format(str(self), state)
        _check_settings(str(self), self.all_settings(), state.get("settings"))
        values = state.get("values")
        if not isinstance(values, dict) or values.keys() != self._declared.keys():
            raise ValueError(
                f"{self}: the saved state does not hold {sorted(self._declared)}; the file is "
                f"damaged"
            )
        for name, declared in self._declared.items():
            wrong = declared.misfit(values[name])
            if wrong:
                raise ValueError(f"{self}: the saved {name} {wrong}; the file is damaged")
        self.check_values(values)

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_extra_state` returned; warn if it was another rank's, or of more.

        Raises:
            ValueError: As :meth:`check_state`; nothing is changed then.
        """
        self.check_state(state)
        for name, value in state["values"].items():
            own = getattr(self, name)
            if isinstance(own, Tensor):
                # A copy of our own, in memory that may be written to.
                value = value.detach().to(own.device, copy=True).contiguous()
            setattr(self, name, value)
        self.loaded()
        self._warn_of_ranks(state)

    def _warn_of_ranks(self, state: dict[str, Any]) -> None:
        """Warn if the state is of another rank, where each has its own, or of other ranks."""
        before, now = state["settings"][_RANKS], world_size()
        saved = state.get("rank", rank())  # an older one does not say it
        if self.per_rank and (saved, before) != (rank(), now):
            warnings.warn(
                f"{self}: was saved by rank {short(saved)} of {before}, this is rank {rank()} of "
                f"{now}, and each has a state of its own; to train on, save every rank's and load "
                f"on each its own",
                stacklevel=3,
            )
        elif before != now:
            warnings.warn(
                f"{self}: was saved with {before} ranks, this run has {now}; what it remembers is "
                f"taken over, but training goes on with other draws than on {before}",
                stacklevel=3,
            )

    def all_settings(self) -> dict[str, Any]:
        """Return :meth:`settings`, and how many ranks there are."""
        return self.settings() | {_RANKS: world_size()}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Stateful:
        with not_inference():
            super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
            for name in self._declared:
                value = getattr(self, name)
                if isinstance(value, Tensor):
                    # Where the module goes, in the type that it has.
                    setattr(self, name, value.to(fn(value.new_empty(0)).device))
        return self


def check_format(whose: str, state: Any) -> None:
    """Raise ``ValueError`` unless an extra state is of the format that this negplug reads.

    Args:
        whose: Whose state it is, for messages.
        state: The extra state.
    """
    found = state.get("format") if isinstance(state, dict) else type(state).__name__
    if type(found) is int and found == FORMAT:
        return
    found = short(found) if isinstance(state, dict) else found
    raise ValueError(
        f"{whose}: the saved state is of format {found}, this negplug reads format {FORMAT}; "
        f"resume with the version that saved it, or start the samplers afresh"
    )


def _check_settings(whose: str, own: dict[str, Any], saved: Any) -> None:
    """Raise ``ValueError`` unless both are the same settings; the ranks may be more or fewer."""
    if not isinstance(saved, dict) or own.keys() != saved.keys():
        names = short(list(saved)) if isinstance(saved, dict) else type(saved).__name__
        raise ValueError(
            f"{whose}: the saved state is another sampler's, with {names}; resume with the same "
            f"expression"
        )
    for name, value in saved.items():
        if name == _RANKS:
            if type(value) is not int or not 0 < value < _MOST_RANKS:
                raise ValueError(
                    f"{whose}: was saved with {name}={short(value)}; the file is damaged"
                )
            continue
        # As text: whatever a damaged file holds has one, and 1 is not True.
        if repr(own[name]) != repr(value):
            raise ValueError(
                f"{whose}: was saved with {name}={short(value)}, this run has "
                f"{name}={own[name]!r}; resume with the same {name}"
            )


def digest_of(stateful: Stateful) -> str:
    """Return what tells a state from others, by its bits; it waits for their device."""
    values = [getattr(stateful, name) for name in stateful._declared]
    tensors = (v if isinstance(v, Tensor) else torch.tensor(v, device="cpu") for v in values)
    return digest(*tensors)[:_SHOWN]


def short(value: object) -> str:
    """Return a value as a message shows it, however long it is."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
