"""Whether the state that a run resumes from is that of a sampler with the same settings."""

from __future__ import annotations

from typing import Any

from negplug.contract.sampler import NegativeSampler


def check_settings(sampler: NegativeSampler, own: dict[str, Any], saved: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless both are the same settings with the same values.

    Args:
        sampler: Whose they are, for messages.
        own: Those of this run, by name.
        saved: Those of the saved state.
    """
    if own.keys() != saved.keys():
        raise ValueError(
            f"{sampler}: the saved state is another sampler's, with {sorted(saved)}; resume with "
            f"the same expression"
        )
    for name, value in saved.items():
        if own[name] != value:
            raise ValueError(
                f"{sampler}: was saved with {name}={value!r}, this run has {name}={own[name]!r}; "
                f"resume with the same {name}"
            )
