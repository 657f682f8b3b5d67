"""Whether every treated loss is called: a host may take another path, and go on untreated."""

from __future__ import annotations

from torch import nn

from negplug.hosts.injection import Injection


class CallCounts:
    """Counts the training calls of treated losses since :meth:`begin`.

    Args:
        injection: The treated model's handle.
    """

    def __init__(self, injection: Injection) -> None:
        self._injection = injection
        self.begin()

    def begin(self) -> None:
        """Count from here on."""
        self._before = self._now()

    def uncalled(self) -> list[str]:
        """Return the losses that were not called since."""
        return [name for name, calls in self._now().items() if calls == self._before[name]]

    def _now(self) -> dict[str, int]:
        return {name: treated.calls for name, treated in self._injection.losses.items()}


def insist(uncalled: list[str], model: nn.Module, when: str) -> None:
    """Raise ``RuntimeError`` if there are losses that ``when`` never called."""
    if uncalled:
        raise RuntimeError(
            f"negplug treated {', '.join(uncalled)} of {type(model).__name__}, but {when} "
            f"never called it: the host took another path, and the run would go on untreated"
        )
