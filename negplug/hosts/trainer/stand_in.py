"""``StandIn``: a batch sampler in the place of another."""

from __future__ import annotations

from typing import Any

from torch.utils.data import BatchSampler


class StandIn(BatchSampler):
    """Stands in for a batch sampler; a subclass iterates in a way of its own.

    Its attributes are those of the other, to read and to set; its copy or pickle is the other.

    Args:
        replaced: The other.
        **own: Attributes of the subclass.
    """

    replaced: Any

    def __init__(self, replaced: Any, **own: Any) -> None:
        self.__dict__.update(replaced=replaced, **own)

    def __len__(self) -> int:
        return len(self.replaced)

    def __getattr__(self, name: str) -> Any:
        # An AttributeError before __init__ too, which Lightning may have wrapped.
        return getattr(object.__getattribute__(self, "replaced"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.replaced, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _same, (self.replaced,)


def _same(sampler: Any) -> Any:
    return sampler
